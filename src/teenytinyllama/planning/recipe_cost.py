"""What the training of an existing recipe takes: parameters, FLOPs, time, energy, money, disk.

Memory is its least: what no setting of the run can avoid. Arithmetic only, without torch.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from teenytinyllama.errors import UserError
from teenytinyllama.modeling.model_size import flops_per_token, num_parameters, second_token_flops
from teenytinyllama.planning.plan_request import PlanRequest, check_request
from teenytinyllama.planning.planner import cost_of
from teenytinyllama.settings.recipe import Recipe

PAPER_VOCAB_SIZE = 32_000
# A checkpoint: weights and two moments in fp32. Two rolling ones stay while the next is written,
# and `final/` has weights only.
CHECKPOINT_BYTES_PER_PARAMETER, ROLLING_CHECKPOINTS = 12, 3
COPY_BYTES = 4  # of a parameter, in an average of weights, a member of an ensemble, and `final/`
# Weights, gradients and moments: the least any optimizer takes, by the weights' type.
LEAST_BYTES = {"fp32": 8, "bf16-mixed": 8, "fp16-mixed": 8}


@dataclass(frozen=True)
class Needs:
    """What the pre-training of a recipe takes."""

    parameters: int
    vocab_size: int
    tokens: int
    """Of one model."""
    trainings: float
    """As many trainings of one model cost as much: an ensemble's members, and their student."""
    flops: int
    disk_bytes: int
    least_memory_bytes: int


def needs_of(recipe: Recipe) -> Needs:
    """The needs of a recipe. Raises UserError where it trains nothing."""
    pretrain = recipe.pretrain
    if pretrain is None:
        what = "has no section [pretrain]"
        raise UserError("stage-not-in-recipe", recipe.name, what, "add [pretrain] to the recipe")
    vocab_size = recipe.tokenizer.vocab_size if recipe.tokenizer else PAPER_VOCAB_SIZE
    parameters = num_parameters(pretrain.model, vocab_size)
    tokens = pretrain.num_steps * pretrain.tokens_per_step
    every, members = pretrain.checkpoints.permanent_every_steps, pretrain.ensemble.members
    kept = ROLLING_CHECKPOINTS + (pretrain.num_steps // every if every else 0)
    copies = 0
    if pretrain.checkpoints.keep_weights == "best":
        copies = 1 + bool(pretrain.averaging.ema_decay) + pretrain.averaging.last_epochs
    # A teacher's forward pass is a third of a training step.
    answers = (
        members
        + len(pretrain.ensemble.teachers)
        + (members - 1 if pretrain.ensemble.chained else 0)
    )
    trainings = 1 + members + answers / 3
    flops = flops_per_token(pretrain.model, vocab_size, pretrain.sequence_length)
    if pretrain.second_token_weight:
        more = (1 + members) * second_token_flops(pretrain.model, vocab_size)
        trainings += more / flops
    return Needs(
        parameters=parameters,
        vocab_size=vocab_size,
        tokens=tokens,
        trainings=trainings,
        flops=round(trainings * tokens * flops),
        disk_bytes=parameters
        * (
            (CHECKPOINT_BYTES_PER_PARAMETER + COPY_BYTES * copies) * kept
            + COPY_BYTES * (1 + members)
        ),
        least_memory_bytes=parameters
        * (LEAST_BYTES[pretrain.precision] + COPY_BYTES * (copies + members)),
    )


@dataclass(frozen=True)
class RecipeCost:
    """A recipe's pre-training on some GPUs; other stages take little beside it."""

    name: str
    gpu: str
    num_gpus: int
    mfu: float
    parameters: int
    vocab_size: int
    num_steps: int
    tokens: int
    trainings: float
    flops: int
    hours: float
    kwh: float
    emissions_kg: float
    usd: float | None
    """None where neither the recipe nor the options nor the GPU's data have a price."""
    disk_bytes: int

    def to_json(self) -> dict[str, Any]:
        """The figures as plain values for JSON: counts are integers."""
        return asdict(self)


def cost_of_recipe(recipe: Recipe, request: PlanRequest, *, price_is_given: bool) -> RecipeCost:
    """The cost of a recipe's pre-training, with the GPUs and utilisation of a request.

    The price of an hour is that of the options (`price_is_given`), else the recipe's, else the
    GPU's. Raises UserError for a recipe that trains nothing.
    """
    needs, pretrain, energy = needs_of(recipe), recipe.pretrain, recipe.energy
    assert pretrain is not None
    request = replace(
        request,
        budget_hours=1.0,
        budget_usd=None,
        sequence_length=pretrain.sequence_length,
        country=energy.country,
    )
    check_request(request)
    cost = cost_of(request, pretrain.model, needs.vocab_size, needs.trainings * needs.tokens)
    usd = cost.usd
    if energy.usd_per_gpu_hour and not price_is_given:
        usd = cost.hours * energy.usd_per_gpu_hour
    usd += cost.kwh * energy.usd_per_kwh
    return RecipeCost(
        name=recipe.name,
        gpu=request.gpu.name,
        num_gpus=request.num_gpus,
        mfu=request.mfu,
        parameters=needs.parameters,
        vocab_size=needs.vocab_size,
        num_steps=pretrain.num_steps,
        tokens=needs.tokens,
        trainings=needs.trainings,
        flops=needs.flops,
        hours=cost.hours,
        kwh=cost.kwh,
        emissions_kg=cost.emissions_kg,
        usd=usd or None,
        disk_bytes=needs.disk_bytes,
    )


def check_budget(cost: RecipeCost, request: PlanRequest) -> None:
    """Raise UserError where a recipe's pre-training does not end within the request's budget."""
    spent, budget, option, amount = cost.hours, request.budget_hours, "--hours", "hours"
    if request.budget_usd is not None:
        if cost.usd is None:
            fix = "--usd-per-hour 1.5 (or what it costs you), or --hours instead of --budget-usd"
            raise UserError("plan-price", "--gpu", f"{request.gpu.title} has no price", fix)
        spent, budget, option, amount = cost.usd, request.budget_usd, "--budget-usd", "dollars"
    if budget is not None and spent > budget:
        raise UserError(
            "over-budget",
            f"{option} {budget:g}",
            f"the pre-training of {cost.name} takes {spent:,.3g} {amount}",
            f"{option} {math.ceil(spent * 100) / 100:g}, or "
            f"num_steps = {int(cost.num_steps * budget / spent)} in its [pretrain]",
        )


def available_memory_bytes() -> int:
    """Memory that a new process can use: the system's, or less under a container's limit."""
    available = int(psutil.virtual_memory().available)
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.is_file() and used.is_file() and limit.read_text().strip().isdigit():
        available = min(available, int(limit.read_text()) - int(used.read_text()))
    return max(available, 0)


def free_disk_bytes(folder: Path) -> int:
    """Free space on the disk where a folder is, or will be."""
    here = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    return shutil.disk_usage(here).free


def bytes_in(folder: Path) -> int:
    """Bytes of the files in a folder and below it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def has_gpu() -> bool:
    """Whether this machine has a GPU that may train; asked of the system, not of torch."""
    return any(Path(name).exists() for name in ("/dev/nvidia0", "/dev/kfd", "/System/Library"))
