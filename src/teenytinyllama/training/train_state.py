"""What a checkpoint brings back beside weights and moments, and whether it is this training's."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from teenytinyllama import hardware
from teenytinyllama.energy import Energy
from teenytinyllama.errors import UserError
from teenytinyllama.training.checkpoints import Checkpoint
from teenytinyllama.training.distributed import DDPStrategy
from teenytinyllama.training.task import TrainSettings

logger = logging.getLogger(__name__)


@dataclass
class TrainState:
    """How far a training is, and what it has used so far."""

    step: int = 0
    tokens: int = 0
    micro_batch: int = 0
    log_bytes: int = 0
    samples_bytes: int = 0
    pending: list[list[float]] = field(default_factory=list)
    """Loss, norm and skip flag of the steps since the last logged line."""
    energy: Energy = field(default_factory=Energy)
    seconds: float = 0.0
    bad_in_a_row: int = 0
    rollbacks: int = 0
    num_skipped: int = 0


def state_to_json(state: TrainState) -> dict[str, Any]:
    """For `state.json`; `state_from_json` is its inverse."""
    return {**vars(state), "energy": list(state.energy)}


def state_from_json(value: Mapping[str, Any]) -> TrainState:
    """What `state_to_json` wrote."""
    return TrainState(**{**value, "energy": Energy(*value["energy"])})


def arithmetic(strategy: DDPStrategy, settings: TrainSettings) -> dict[str, str]:
    """What decides the last bits of a result beside the recipe.

    Sums of floating-point numbers depend on their order, and that on all of these.
    """
    is_gpu = strategy.device.type == "cuda"
    return {
        "chip": hardware.device_name(strategy.device) if is_gpu else hardware.cpu_name(),
        "threads": "any" if is_gpu else str(torch.get_num_threads()),
        "torch": torch.__version__,
        "compiled layers": "yes" if strategy.compiled else "no",
        "parts of a gradient": str(max(strategy.world, settings.gradient_shards)),
    }


def warn_of_other_arithmetic(found: Checkpoint, now: Mapping[str, str]) -> None:
    """Say where a training goes on with other arithmetic than it had: a run on a spot machine may.

    The result is as good, but it is not the bytes of a run that stayed where it was.
    """
    saved = found.state.get("arithmetic", now)
    rows = [f"{k}: {saved.get(k)} before, {v} now" for k, v in now.items() if saved.get(k) != v]
    if rows:
        changes = "; ".join(rows)
        logger.info(
            f"the last bits of the result will not be those of a run that stayed ({changes})"
        )


def check_identity(found: Checkpoint, identity: Mapping[str, str]) -> None:
    """Raise UserError where a checkpoint was made from other data, tokenizer or sizes."""
    saved = found.state["identity"]
    rows = [
        f"{k}: {saved.get(k)} there, {v} here" for k, v in identity.items() if saved.get(k) != v
    ]
    if rows:
        raise UserError(
            "checkpoint-differs",
            str(found.path),
            "belongs to another training (" + "; ".join(rows) + ")",
            "use the same data, tokenizer and sizes, or --redo to start anew",
        )
