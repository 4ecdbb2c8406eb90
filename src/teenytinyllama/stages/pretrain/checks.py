"""What pre-training would fail on, known from the recipe and the folders that it names."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from teenytinyllama.errors import RecipeWarning, UserError, missing_extra
from teenytinyllama.regular_files import user_path
from teenytinyllama.settings.pretraining import PretrainSettings
from teenytinyllama.settings.recipe import Recipe
from teenytinyllama.training.schedule_check import MAX_STEPS, check_warmup


def check(settings: PretrainSettings, recipe: Recipe) -> Iterator[UserError]:
    """A model that is not there, an order of no use, a long warm-up, missing libraries."""
    models = [("pretrain.start_from", settings.start_from)]
    models += [("pretrain.ensemble.teachers", place) for place in settings.ensemble.teachers]
    for setting, place in models:
        is_local = place.startswith((".", "/", "~", "runs"))
        if is_local and not (user_path(place) / "config.json").is_file():
            yield UserError(
                "start-missing",
                f'{setting} = "{place}"',
                "no folder with config.json",
                "give the folder of a Llama, such as runs/NAME/pretrain/final",
            )
    if settings.optimizer.kind == "adamw-8bit" and find_spec("bitsandbytes") is None:
        yield missing_extra("bitsandbytes", "bitsandbytes")
    if settings.attention == "flash-attn" and find_spec("flash_attn") is None:
        yield UserError(
            "flash-attn-missing",
            'pretrain.attention = "flash-attn"',
            "the package flash-attn is not installed",
            'pip install flash-attn, or --set pretrain.attention="auto"',
        )
    if settings.attention == "flash-attn" and settings.isolate_documents:
        yield UserError(
            "flash-attn-isolates-nothing",
            "pretrain.isolate_documents = true",
            "flash-attn would let the documents of a row see each other",
            '--set pretrain.attention="auto"',
        )
    for name in settings.trackers:
        if find_spec(name) is None and name != "tensorboard":
            yield RecipeWarning(
                "tracker-missing",
                f'pretrain.trackers = ["{name}"]',
                "is not installed, and will get nothing",
                f"pip install {name}",
            )
    if settings.shuffle_documents and recipe.pack and recipe.pack.order == "best-fit":
        yield RecipeWarning(
            "packing-replaced",
            'pack.order = "best-fit"',
            "pretrain.shuffle_documents lays documents out in random order in every epoch",
            '--set pack.order="shuffled", or --set pretrain.shuffle_documents=false',
        )
    if recipe.pack and settings.shuffle_documents and recipe.pack.phases:
        yield RecipeWarning(
            "shuffle-replaced",
            "pretrain.shuffle_documents = true",
            "has no effect with pack.phases, where what is read again already lies elsewhere",
            "--set pretrain.shuffle_documents=false",
        )
    if settings.decay_in_last_phase and not (recipe.pack and recipe.pack.phases):
        yield UserError(
            "no-last-phase",
            "pretrain.decay_in_last_phase = true",
            "the recipe has no [[pack.phases]]",
            "--set pretrain.decay_in_last_phase=false",
        )
    if settings.num_steps > MAX_STEPS:
        yield UserError(
            "steps-without-end",
            f"pretrain.num_steps = {settings.num_steps}",
            f"no machine finishes so many ({MAX_STEPS:,} take months at a thousand a second)",
            "--set pretrain.num_steps=10000",
        )
    yield from check_warmup("pretrain", settings.schedule, settings.num_steps)
