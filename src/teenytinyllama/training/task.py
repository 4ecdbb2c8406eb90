"""What a stage wants trained, in the form that the training loop takes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from teenytinyllama.hardware import Precision
from teenytinyllama.settings.training import CheckpointSettings, OptimizerSettings, ScheduleSettings

HELDOUT = "heldout_bpb"


@dataclass(frozen=True)
class MicroBatch:
    """The rows of one forward pass: their weight in the step's mean, and how to read them."""

    weight: float
    """Supervised targets (or examples) in it; a step's loss is the sum over all weights."""
    num_tokens: int
    """Tokens that pass through the model, padding included, for tokens/s."""
    load: Callable[[], Mapping[str, NDArray[Any]]]
    """Reads the arrays that the task's loss takes by name."""
    is_filler: bool = False
    """Counts nothing: it only lets a process take part in a step that has too few rows for all."""


class DataOrder(Protocol):
    """Which rows make a step: a pure function of the step's number."""

    @property
    def rows_per_step(self) -> int:
        """Rows of a step; the last one of an epoch may have fewer."""

    def rows_of_step(self, step: int) -> NDArray[np.int64]:
        """Numbers of the rows behind update `step`, counting from 0."""


class TrainTask(ABC):
    """A loss, the data of every step, and what else a stage does while its model trains.

    `loss` is a module whose forward takes the arrays of a micro-batch and gives its summed loss;
    `loss.model` is the model that is trained and saved.
    """

    isolates_texts = False
    """Whether rows hold several texts that must not see each other, by `position_ids`."""

    def __init__(
        self,
        loss: nn.Module,
        order: DataOrder,
        *,
        tokens_per_row: int,
        flops_per_token: int,
        identity: Mapping[str, str],
        initial_optimizer: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.loss, self.order = loss, order
        self.model: Any = loss.model
        self.tokens_per_row = tokens_per_row
        self.flops_per_token = flops_per_token  # forward and backward
        # What a checkpoint must have in common to be resumed from: data, tokenizer, sizes.
        self.identity = identity
        # Moments to begin with, where the model comes from another run's checkpoint.
        self.initial_optimizer = initial_optimizer

    def batches(self, step: int, num_rows: int, num_processes: int = 1) -> list[MicroBatch]:
        """All micro-batches of a step, of at most `num_rows` rows each, in a fixed order.

        Their number is a multiple of `num_processes`, each of which takes every n-th.
        """
        rows = self.order.rows_of_step(step)
        cuts = [rows[at : at + num_rows] for at in range(0, len(rows), num_rows)]
        if len(cuts) % num_processes:
            cuts = np.array_split(rows, -(-len(cuts) // num_processes) * num_processes)
        fillers = sum(not len(cut) for cut in cuts)
        batches = [self.micro_batch(step, cut) for cut in cuts if len(cut)]
        filler = replace(batches[0], weight=0.0, num_tokens=0, is_filler=True)
        return batches + fillers * [filler]

    def flops(self, num_steps: int) -> int:
        """Model FLOPs of `num_steps` steps."""
        return num_steps * self.order.rows_per_step * self.tokens_per_row * self.flops_per_token

    @abstractmethod
    def micro_batch(self, step: int, rows: NDArray[np.int64]) -> MicroBatch:
        """The micro-batch of these rows of a step."""

    @abstractmethod
    def write_model_files(self, folder: Path) -> None:
        """Add configuration and tokenizer to a checkpoint, so that it loads as a model."""

    def score_heldout(self, model: nn.Module) -> float | None:
        """Bits per byte of held-out text, by which weights are compared; none by default."""
        return None

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """All held-out scores, for the log."""
        score = self.score_heldout(model)
        return {} if score is None else {HELDOUT: score}

    def sample(self, model: nn.Module) -> list[dict[str, Any]]:
        """Continuations of fixed prompts; none by default."""
        return []

    def describe_step(self, step: int) -> dict[str, Any]:
        """What is in a step, for the record of a skipped one."""
        return {"rows": self.order.rows_of_step(step).tolist()}


@dataclass(frozen=True)
class TrainSettings:
    """The part of a stage's settings that the loop reads."""

    num_steps: int
    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    checkpoints: CheckpointSettings
    precision: Precision = "bf16-mixed"
    compile: bool | None = None
    attention: str = "auto"
    activation_checkpointing: bool = False
    micro_batch: int = 0
    gradient_shards: int = 1
    seed: int = 0
    log_every_steps: int = 10
    evaluate_every_steps: int = 0
    rows_per_epoch: int = 0
    """An evaluation also at the end of every epoch of so many rows, where there are several."""
    keep_best: bool = False
    """End with the weights that score best on held-out text, among these averages and others."""
    ema_decay: float = 0.0
    average_epochs: int = 0
    overfitting_margin: float = inf
    stop_when_overfitting: bool = False
    sample_every_steps: int = 0
    trackers: tuple[str, ...] = ()
    run_name: str = ""
    """What trackers call the run."""
    usd_per_gpu_hour: float = 0.0
    """For the price in the progress line; 0 shows none."""
