"""What a checkpoint holds beside weights and moments, and whether it belongs to this run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch

from teenytinyllama import hardware
from teenytinyllama.energy import Energy
from teenytinyllama.errors import UserError
from teenytinyllama.process_group import ProcessGroup
from teenytinyllama.training.checkpoints import Checkpoint
from teenytinyllama.training.distributed import DDPStrategy
from teenytinyllama.training.task import TrainSettings

logger = logging.getLogger(__name__)


@dataclass
class TrainState:
    """How far a training run is, and what it has used so far, over all its sessions."""

    step: int = 0
    tokens: int = 0
    micro_batch: int = 0
    log_bytes: int = 0
    samples_bytes: int = 0
    pending: list[list[float]] = field(default_factory=list)
    """Loss, norm and skip flag of the steps since the last logged line."""
    evaluations: list[dict[str, float]] = field(default_factory=list)
    """Step and held-out scores of every evaluation, in order."""
    energy: Energy = field(default_factory=Energy)
    seconds: float = 0.0
    bad_in_a_row: int = 0
    rollbacks: int = 0
    num_skipped: int = 0
    loss_scale: list[float] = field(default_factory=list)
    """Of fp16-mixed, with the steps since it changed."""

    def to_json(self) -> dict[str, Any]:
        """For `state.json`; `from_json` is its inverse."""
        return {**vars(self), "energy": list(self.energy)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """What `to_json` returned."""
        return cls(**{**value, "energy": Energy(*value["energy"])})


def numerics_of(strategy: DDPStrategy, settings: TrainSettings) -> dict[str, str]:
    """What decides the last bits of a result beside the recipe.

    Sums of floating-point numbers depend on their order, which depends on all of these.
    """
    is_gpu = strategy.device.type == "cuda"
    return {
        "chip": hardware.device_name(strategy.device) if is_gpu else hardware.cpu_name(),
        "threads": "any" if is_gpu else str(torch.get_num_threads()),
        "torch": torch.__version__,
        "precision": hardware.precision_on(strategy.device, settings.precision),
        "compiled layers": "yes" if strategy.compiled else "no",
        "parts of a gradient": str(max(strategy.world_size, settings.gradient_shards)),
    }


def warn_of_other_numerics(found: Checkpoint, now: Mapping[str, str]) -> None:
    """Warn where a run resumes on other hardware or software, as on a spot machine it may.

    The result is as good, but not the same bytes as those of an uninterrupted run.
    """
    saved = found.state.get("numerics", now)
    rows = [f"{k}: {saved.get(k)} before, {v} now" for k, v in now.items() if saved.get(k, v) != v]
    if rows:
        changes = "; ".join(rows)
        logger.info(
            f"the last bits of the result will differ from an uninterrupted run's ({changes})"
        )


def check_ranks(processes: ProcessGroup, state: TrainState, identity: Mapping[str, str]) -> None:
    """Raise UserError where the ranks are about to train different things."""
    mine = {**identity, "step": str(state.step), "micro-batch": str(state.micro_batch)}
    every = processes.gather(mine)
    for rank, its in enumerate(every):
        rows = [f"{k}: {its.get(k)} there, {v} on rank 0" for k, v in every[0].items()]
        rows = [row for (k, v), row in zip(every[0].items(), rows, strict=True) if its.get(k) != v]
        if rows:
            raise UserError(
                "ranks-differ",
                f"rank {rank} of {processes.count}",
                "would train something else (" + "; ".join(rows) + ")",
                "start all processes with the same recipe, data and run folder",
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
            "this checkpoint is from a different run (" + "; ".join(rows) + ")",
            "use the same data, tokenizer and sizes, or --redo to start over",
        )
