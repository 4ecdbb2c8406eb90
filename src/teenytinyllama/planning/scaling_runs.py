"""`ttl plan --calibrate RECIPE`: small pilots on the run's own tokens, and the law they give.

Each pilot is the recipe's own pretraining at another size and length, in a run folder of its own
under `runs/<name>/pilots/`: the same command goes on where it was stopped, and skips what is done.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from teenytinyllama.artifacts.manifest import read_manifest
from teenytinyllama.errors import UserError
from teenytinyllama.modeling.model_size import flops_per_token, num_parameters
from teenytinyllama.planning.curve_fit import PilotResult, fit_law
from teenytinyllama.planning.scaling_laws import law as law_named
from teenytinyllama.progress import format_duration
from teenytinyllama.settings.pretraining import PretrainSettings
from teenytinyllama.settings.recipe import Recipe, load_recipe
from teenytinyllama.settings.training import ModelSettings

logger = logging.getLogger(__name__)

RunStages = Callable[[Recipe, Path, Sequence[str]], None]
"""(recipe, run folder, names of stages) -> None: the pipeline, which planning does not import."""

PILOT_LENGTH = 256
PILOT_TOKENS_PER_STEP = 1024
MIN_PILOT_STEPS = 40
# Sizes of the pilots, and how many times the shortest training each also has.
PILOT_MODELS = tuple(
    ModelSettings(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=PILOT_LENGTH,
    )
    for hidden, intermediate, layers, heads in (
        (64, 192, 3, 2),
        (128, 384, 4, 2),
        (192, 512, 4, 3),
    )
)
PILOT_LENGTHS = (1, 4)
# Share of the measured peak that such small models reach on a processor or on a card.
PILOT_MFU = {"cpu": 0.35, "cuda": 0.08, "mps": 0.05}


def calibrated(
    recipe_path: Path, *, minutes: float, law: str, run_stages: RunStages
) -> dict[str, Any]:
    """Run or finish the pilots; return the fitted law and the text as the run counted it.

    Raises UserError for a recipe that cannot be read, and where there is no time for a pilot.
    """
    if not 0 < minutes < math.inf:
        what = f"expected more than 0, got {minutes}"
        raise UserError("plan-value", "--minutes", what, "give the pilots 20 minutes")
    recipe = load_recipe(recipe_path)
    if recipe.pretrain is None or recipe.pack is None:
        what = "has no section [pack] or no [pretrain]"
        raise UserError("stage-not-in-recipe", str(recipe_path), what, "give the recipe of a run")
    run_dir = Path("runs") / recipe.name
    run_stages(recipe, run_dir, ["corpus", "tokenizer", "pack"])
    vocab_size, unique, each = _counted(run_dir)
    pilots = _pilots(recipe, vocab_size, _unit_steps(minutes, vocab_size, unique, run_dir))
    results = []
    for number, pilot in enumerate(pilots, start=1):
        logger.info(f"pilot {number} of {len(pilots)}: {pilot.name}")
        results.append(_train(pilot, run_dir, run_stages, unique, each))
    fitted = fit_law(law_named(law), results, each)
    for one in results:
        logger.info(f"pilot {one.name}: {one.loss:.3f} nats per token")
    logger.info(
        f"fitted: {fitted.law.e:.3f} + {fitted.law.a:.4g} / N^{fitted.law.alpha} + "
        f"{fitted.law.b:.4g} / D^{fitted.law.beta}, spread {fitted.spread:.3f} nats"
    )
    return {
        "fitted": fitted,
        "unique_tokens": float(unique),
        "vocab_size": vocab_size,
        "text": "",
        "text_mb": unique * each / 1e6,
    }


def _counted(run_dir: Path) -> tuple[int, int, float]:
    """Pieces, training tokens and bytes per token, as the run's own stages counted them."""
    tokenizer, pack = (read_manifest(run_dir / name) for name in ("tokenizer", "pack"))
    assert tokenizer is not None and pack is not None, "both stages have just run"
    each = float(tokenizer.metrics["all"]["bytes_per_token"])
    return int(tokenizer.counts["vocab_size"]), int(pack.counts["tokens_train"]), each


def _unit_steps(minutes: float, vocab_size: int, unique: int, run_dir: Path) -> int:
    """Steps of the shortest pilots, so that all take about so long; what was begun is kept.

    The first call measures the machine and writes the number down: later ones do the same work.
    """
    noted = run_dir / "pilots" / "steps.txt"
    if noted.is_file():
        return int(noted.read_text(encoding="utf-8"))
    device, rate = _speed()
    flops = sum(
        flops_per_token(model, vocab_size, PILOT_LENGTH) * length * PILOT_TOKENS_PER_STEP
        for model in PILOT_MODELS
        for length in PILOT_LENGTHS
    )
    steps = max(MIN_PILOT_STEPS, int(minutes * 60 * rate / flops))
    # A pilot reads no text twice: what repetition costs is known better from others' many runs.
    most = unique // (max(PILOT_LENGTHS) * PILOT_TOKENS_PER_STEP)
    if most < MIN_PILOT_STEPS:
        needed = MIN_PILOT_STEPS * max(PILOT_LENGTHS) * PILOT_TOKENS_PER_STEP
        what = f"{unique:,} tokens are too few for pilots that read nothing twice"
        raise UserError("pilots-text", str(run_dir), what, f"give text of {needed:,} tokens")
    steps = min(steps, most)
    logger.info(
        f"{len(PILOT_MODELS) * len(PILOT_LENGTHS)} pilots, about "
        f"{format_duration(steps * flops / rate)} on this machine ({device}); Ctrl-C and the same "
        "command later lose nothing"
    )
    if steps == MIN_PILOT_STEPS and steps * flops / rate > minutes * 60:
        logger.info(
            f"that is more than --minutes {minutes:g}: fewer than {steps} steps teach nothing"
        )
    noted.parent.mkdir(parents=True, exist_ok=True)
    noted.write_text(str(steps), encoding="utf-8")
    return steps


def _speed() -> tuple[str, float]:
    """The device and the FLOP/s that a pilot makes there, roughly."""
    import torch

    from teenytinyllama.planning.doctor import measure_peak_tflops

    device = "cpu"
    if torch.cuda.is_available():
        device = "cuda"
    elif torch.backends.mps.is_available():
        device = "mps"
    return device, measure_peak_tflops(device) * 1e12 * PILOT_MFU[device]


def _pilots(recipe: Recipe, vocab_size: int, unit_steps: int) -> list[Recipe]:
    """The recipe at other sizes and lengths, cheap ones first."""
    assert recipe.pretrain is not None
    made = []
    for length in PILOT_LENGTHS:
        for model in PILOT_MODELS:
            steps = unit_steps * length
            changed = recipe.pretrain.model_dump() | {
                "model": model.model_dump(),
                "sequence_length": PILOT_LENGTH,
                "tokens_per_step": PILOT_TOKENS_PER_STEP,
                "num_steps": steps,
                "evaluate_every_steps": 0,
                "sample_every_steps": 0,
                "start_from": "",
                "schedule": recipe.pretrain.schedule.model_dump()
                | {"warmup_steps": max(1, steps // 50)},
            }
            size = num_parameters(model, vocab_size)
            name = f"pilot-{size / 1e6:.2f}m-{steps * PILOT_TOKENS_PER_STEP / 1e6:.2f}m-tokens"
            pretrain = PretrainSettings.model_validate(changed, strict=False)
            made.append(recipe.model_copy(update={"name": name, "pretrain": pretrain}))
    return made


def _last_heldout(metrics: Path) -> float:
    """Held-out bits per byte at the end of a training."""
    rows = (json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines())
    return float([row["heldout_bpb"] for row in rows if row.get("heldout_bpb") is not None][-1])


def _train(
    pilot: Recipe, run_dir: Path, run_stages: RunStages, unique: int, bytes_per_token: float
) -> PilotResult:
    folder = run_dir / "pilots" / pilot.name
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer", "pack"):
        link = folder / name
        if not link.exists():
            link.symlink_to(os.path.relpath(run_dir / name, folder), target_is_directory=True)
    run_stages(pilot, folder, ["pretrain"])
    done = read_manifest(folder / "pretrain")
    assert done is not None, "the stage has just run"
    bits = _last_heldout(folder / "pretrain" / "metrics.jsonl")
    return PilotResult(
        name=pilot.name,
        parameters=int(done.counts["parameters"]),
        tokens=float(done.counts["tokens"]),
        unique_tokens=float(unique),
        loss=bits * math.log(2) * bytes_per_token,
    )
