"""`ttl plan --calibrate RECIPE`: small training runs on the run's own tokens, and a law from them.

Each scaling run is the recipe's own pretraining at another size and length, in a folder below
`runs/<name>/scaling_runs/`. The same command later resumes a stopped run and skips finished ones.
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
from teenytinyllama.planning.curve_fit import ScalingRun, fit_law
from teenytinyllama.planning.doctor import measure_peak_tflops
from teenytinyllama.planning.scaling_laws import published_law
from teenytinyllama.progress import format_duration
from teenytinyllama.settings.pretraining import PretrainSettings
from teenytinyllama.settings.recipe import Recipe, load_recipe
from teenytinyllama.settings.training import ModelSettings

logger = logging.getLogger(__name__)

SEQUENCE_LENGTH = 256
TOKENS_PER_STEP = 1024
MIN_STEPS = 40
MODELS = tuple(
    ModelSettings(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=SEQUENCE_LENGTH,
    )
    for hidden, intermediate, layers, heads in (
        (64, 192, 3, 2),
        (128, 384, 4, 2),
        (192, 512, 4, 3),
    )
)
# Lengths of the runs of each model, as multiples of the shortest.
STEP_MULTIPLES = (1, 4)
# Share of the measured peak that such small models reach.
EXPECTED_SHARE = {"cpu": 0.35, "cuda": 0.08, "mps": 0.05}

RunStages = Callable[[Recipe, Path, Sequence[str]], None]
"""Runs stages: (recipe, run folder, names). The pipeline, which planning does not import."""


def fit_scaling_law(
    recipe_path: Path, *, minutes: float, law: str, run_stages: RunStages
) -> dict[str, Any]:
    """Run or resume the scaling runs; return the fitted law and the text as the run counted it.

    The result has the arguments of `request_from_options`. Raises UserError for a recipe that
    cannot be read, and for too little text.
    """
    if not 0 < minutes < math.inf:
        what = f"expected more than 0, got {minutes}"
        raise UserError("plan-value", "--minutes", what, "--minutes 20")
    recipe = load_recipe(recipe_path)
    if recipe.pretrain is None or recipe.pack is None:
        what = "has no section [pack] or no [pretrain]"
        raise UserError("stage-not-in-recipe", str(recipe_path), what, "give the recipe of a run")
    run_dir = Path("runs") / recipe.name
    run_stages(recipe, run_dir, ["corpus", "tokenizer", "pack"])
    vocab_size, unique, each = _counts(run_dir)
    recipes = _recipes(recipe, vocab_size, _min_steps(minutes, vocab_size, unique, run_dir))
    runs = []
    for number, small in enumerate(recipes, start=1):
        logger.info(f"scaling run {number} of {len(recipes)}: {small.name}")
        folder = _link_inputs(run_dir, small.name)
        run_stages(small, folder, ["pretrain"])
        runs.append(_result(small.name, folder, unique, each))
    fitted = fit_law(published_law(law), runs, each)
    for run in runs:
        logger.info(f"{run.name}: {run.loss:.3f} nats per token")
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


def _counts(run_dir: Path) -> tuple[int, int, float]:
    """Vocabulary size, training tokens and bytes per token, from the run's manifests."""
    tokenizer, pack = (read_manifest(run_dir / name) for name in ("tokenizer", "pack"))
    assert tokenizer is not None and pack is not None, "both stages have just run"
    each = float(tokenizer.metrics["all"]["bytes_per_token"])
    return int(tokenizer.counts["vocab_size"]), int(pack.counts["tokens_train"]), each


def _min_steps(minutes: float, vocab_size: int, unique: int, run_dir: Path) -> int:
    """Steps of the shortest runs, such that all runs take about `minutes`.

    The first call measures the machine and saves the number: later calls do the same work.
    """
    saved = run_dir / "scaling_runs" / "steps.txt"
    if saved.is_file():
        return int(saved.read_text(encoding="utf-8"))
    device, rate = _speed()
    flops = sum(
        flops_per_token(model, vocab_size, SEQUENCE_LENGTH) * multiple * TOKENS_PER_STEP
        for model in MODELS
        for multiple in STEP_MULTIPLES
    )
    steps = max(MIN_STEPS, int(minutes * 60 * rate / flops))
    # These runs read no text twice: the cost of repetition is known better from larger studies.
    most = unique // (max(STEP_MULTIPLES) * TOKENS_PER_STEP)
    if most < MIN_STEPS:
        needed = MIN_STEPS * max(STEP_MULTIPLES) * TOKENS_PER_STEP
        what = f"{unique:,} tokens are too few for scaling runs, which repeat no text"
        raise UserError("scaling-runs-text", str(run_dir), what, f"give text of {needed:,} tokens")
    steps = min(steps, most)
    logger.info(
        f"{len(MODELS) * len(STEP_MULTIPLES)} scaling runs, about "
        f"{format_duration(steps * flops / rate)} on this machine ({device}); after Ctrl-C the "
        "same command resumes"
    )
    if steps == MIN_STEPS and steps * flops / rate > minutes * 60:
        logger.info(f"that is more than --minutes {minutes:g}: each run needs {steps} steps")
    saved.parent.mkdir(parents=True, exist_ok=True)
    saved.write_text(str(steps), encoding="utf-8")
    return steps


def _speed() -> tuple[str, float]:
    """The device, and the FLOP/s that a scaling run is expected to reach on it."""
    import torch

    device = "cpu"
    if torch.cuda.is_available():
        device = "cuda"
    elif torch.backends.mps.is_available():
        device = "mps"
    return device, measure_peak_tflops(device) * 1e12 * EXPECTED_SHARE[device]


def _recipes(recipe: Recipe, vocab_size: int, min_steps: int) -> list[Recipe]:
    """The recipe at other sizes and lengths, cheap ones first."""
    assert recipe.pretrain is not None
    made = []
    for multiple in STEP_MULTIPLES:
        for model in MODELS:
            steps = min_steps * multiple
            changed = recipe.pretrain.model_dump() | {
                "model": model.model_dump(),
                "sequence_length": SEQUENCE_LENGTH,
                "tokens_per_step": TOKENS_PER_STEP,
                "num_steps": steps,
                "evaluate_every_steps": 0,
                "sample_every_steps": 0,
                "start_from": "",
                "schedule": recipe.pretrain.schedule.model_dump()
                | {"warmup_steps": max(1, steps // 50)},
            }
            size = num_parameters(model, vocab_size)
            name = f"scaling-{size / 1e6:.2f}m-{steps * TOKENS_PER_STEP / 1e6:.2f}m-tokens"
            pretrain = PretrainSettings.model_validate(changed, strict=False)
            made.append(recipe.model_copy(update={"name": name, "pretrain": pretrain}))
    return made


def _link_inputs(run_dir: Path, name: str) -> Path:
    """The folder of a scaling run, with links to the run's own tokenizer and tokens."""
    folder = run_dir / "scaling_runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    for stage in ("tokenizer", "pack"):
        link = folder / stage
        if not link.exists():
            link.symlink_to(os.path.relpath(run_dir / stage, folder), target_is_directory=True)
    return folder


def _result(name: str, folder: Path, unique: int, bytes_per_token: float) -> ScalingRun:
    done = read_manifest(folder / "pretrain")
    assert done is not None, "the stage has just run"
    metrics = (folder / "pretrain" / "metrics.jsonl").read_text(encoding="utf-8")
    evaluated = [json.loads(line).get("heldout_bpb") for line in metrics.splitlines()]
    bits = [value for value in evaluated if value is not None][-1]
    return ScalingRun(
        name=name,
        parameters=int(done.counts["parameters"]),
        tokens=float(done.counts["tokens"]),
        unique_tokens=float(unique),
        loss=bits * math.log(2) * bytes_per_token,
    )
