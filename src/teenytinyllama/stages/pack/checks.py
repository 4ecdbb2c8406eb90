"""What is wrong or doubtful about how documents will be packed, known from the recipe."""

from __future__ import annotations

from collections.abc import Iterator

from teenytinyllama.errors import RecipeWarning, UserError
from teenytinyllama.settings.data_preparation import PackSettings
from teenytinyllama.settings.pretraining import PretrainSettings
from teenytinyllama.settings.recipe import Recipe


def check(settings: PackSettings, recipe: Recipe) -> Iterator[UserError]:
    """Phases that do not fit the training, and rows of another length than it reads."""
    pretrain = recipe.pretrain
    if settings.phases and pretrain is not None:
        yield from _check_phases(settings, pretrain)
    if settings.order != "best-fit" or pretrain is None:
        return
    if settings.sequence_length != pretrain.sequence_length:
        yield RecipeWarning(
            "rows-differ",
            "pack.sequence_length",
            f"documents are fitted to rows of {settings.sequence_length:,} tokens, the training "
            f"reads rows of {pretrain.sequence_length:,}",
            f"--set pack.sequence_length={pretrain.sequence_length}",
        )


def _check_phases(settings: PackSettings, pretrain: PretrainSettings) -> Iterator[UserError]:
    read = pretrain.num_steps * pretrain.tokens_per_step
    if settings.num_tokens < read:
        yield UserError(
            "phases-too-short",
            f"pack.num_tokens = {settings.num_tokens}",
            f"the training reads {read:,} tokens ({pretrain.num_steps:,} steps)",
            f"--set pack.num_tokens={read}",
        )
    for number, phase in enumerate(settings.phases, start=1):
        if phase.share * pretrain.num_steps < 1:
            yield UserError(
                "phase-empty",
                f"pack.phases.{number}.share = {phase.share:g}",
                f"is less than one of the training's {pretrain.num_steps:,} steps",
                f"a share of at least {1 / pretrain.num_steps:.2g}, or no such phase",
            )
