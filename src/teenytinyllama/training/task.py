"""What a stage wants trained, in the form that the loop takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import Tensor, nn

from teenytinyllama.hardware import Precision
from teenytinyllama.settings.training import CheckpointSettings, OptimizerSettings, ScheduleSettings


@dataclass(frozen=True)
class MicroBatch:
    """Rows of one forward pass: how much they weigh in the step's mean, and where to get them."""

    weight: float
    """Supervised targets (or examples) in it; the step's loss is the sum divided by all weights."""
    num_tokens: int
    """Tokens that pass through the model, for tokens/s."""
    load: Callable[[], Mapping[str, NDArray[Any]]]
    """Makes the arrays that the job's module takes by name."""


@dataclass(frozen=True)
class Job:
    """What a stage wants trained."""

    objective: nn.Module
    """Forward gives the summed loss of a micro-batch; `.model` is the model that is saved."""
    micro_batches: Callable[[int, int], Sequence[MicroBatch]]
    """(step, rows of one forward pass) -> all micro-batches of that step, in a fixed order."""
    rows_per_step: int
    """Rows behind one update: the largest micro-batch there can be."""
    tokens_per_row: int
    """For the memory estimate."""
    flops_per_token: int
    """Model FLOPs of one token, forward and backward."""
    identity: Mapping[str, str]
    """What a checkpoint must agree on to be gone on from: data, tokenizer, sizes."""
    write_model_files: Callable[[Path], None]
    """Adds configuration and tokenizer to a checkpoint."""
    isolates_texts: bool = False
    """Whether rows hold several texts that must not see each other, by `position_ids`."""
    initial_optimizer: Mapping[str, Tensor] | None = None
    """Moments to begin with, where the job goes on from another training's checkpoint."""
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None
    """Held-out figures for the log, such as `heldout_bpb`."""
    sample: Callable[[nn.Module], list[dict[str, Any]]] | None = None
    """Continuations of fixed prompts."""
    describe_step: Callable[[int], dict[str, Any]] | None = None
    """What stands in a step's rows, for the record of a skipped step."""


@dataclass(frozen=True)
class TrainSettings:
    """The part of a stage's settings that the loop reads."""

    num_steps: int
    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    checkpoints: CheckpointSettings
    precision: Precision = "bf16-mixed"
    compile: bool | None = None
    activation_checkpointing: bool = False
    micro_batch: int = 0
    gradient_shards: int = 1
    seed: int = 0
    log_every_steps: int = 10
    evaluate_every_steps: int = 0
    sample_every_steps: int = 0
    trackers: tuple[str, ...] = ()
    run_name: str = ""
    """What trackers call the run."""
    usd_per_gpu_hour: float = 0.0
    """For the price in the progress line; 0 shows none."""
