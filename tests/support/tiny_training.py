"""A training small enough to be killed hundreds of times: a 2-layer Llama on random rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import transformers.models.llama.modeling_llama  # noqa: F401 (here once, and not in every fork)

from teenytinyllama.energy import Energy
from teenytinyllama.modeling.initialization import build_model, llama_config
from teenytinyllama.settings.training import (
    CheckpointSettings,
    ModelSettings,
    OptimizerSettings,
    ScheduleSettings,
)
from teenytinyllama.training.data_order import SequenceOrder
from teenytinyllama.training.launch import start_strategy
from teenytinyllama.training.loop import TrainLoop
from teenytinyllama.training.losses import NextTokenLoss
from teenytinyllama.training.task import MicroBatch, TrainSettings, TrainTask

VOCAB_SIZE = 64
LENGTH = 16
ROWS_PER_STEP = 4
NUM_SEQUENCES = 50
SIZES = ModelSettings(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=LENGTH,
)


class FixedMeter:
    """A meter that costs nothing and always reads zero."""

    def read(self) -> Energy:
        return Energy()


def data() -> np.ndarray:
    """(NUM_SEQUENCES, LENGTH + 1) ids of a learnable kind: arithmetic progressions."""
    random = np.random.default_rng(7)
    starts = random.integers(4, VOCAB_SIZE, (NUM_SEQUENCES, 1))
    steps = random.integers(1, 4, (NUM_SEQUENCES, 1))
    return (starts + steps * np.arange(LENGTH + 1)) % VOCAB_SIZE


class TinyTask(TrainTask):
    """Next tokens of `data()`; `poison` maps steps to a number that scales their loss."""

    def __init__(
        self,
        *,
        seed: int = 0,
        poison: dict[int, float] | None = None,
        dropout: float = 0.0,
        identity: dict[str, str] | None = None,
        kind: str = "llama",
        second_token_weight: float = 0.0,
    ) -> None:
        sizes = SIZES.model_copy(update={"kind": kind})
        config = llama_config(sizes, VOCAB_SIZE, bos_id=1, eos_id=2, pad_id=3)
        config.attention_dropout = dropout
        self.data, self.poison = data(), poison or {}
        super().__init__(
            NextTokenLoss(build_model(config, seed=seed), second_token_weight=second_token_weight),
            SequenceOrder(NUM_SEQUENCES, ROWS_PER_STEP, seed),
            tokens_per_row=LENGTH,
            flops_per_token=1000,
            identity=identity or {"data": "tiny"},
        )

    def micro_batch(self, step: int, rows: np.ndarray) -> MicroBatch:
        num_tokens = len(rows) * LENGTH
        return MicroBatch(
            weight=num_tokens / self.poison.get(step, 1.0),
            num_tokens=num_tokens,
            load=lambda: {"input_ids": self.data[rows, :-1], "labels": self.data[rows, 1:]},
        )

    def write_model_files(self, folder: Path) -> None:
        self.model.config.save_pretrained(folder)


def settings(**changes: Any) -> TrainSettings:
    return TrainSettings(
        **{
            "num_steps": 20,
            "optimizer": OptimizerSettings(kind="muon", peak_learning_rate=1e-2),
            "schedule": ScheduleSettings(warmup_steps=2),
            "checkpoints": CheckpointSettings(every_minutes=1000, every_steps=5),
            "precision": "fp32",
            "log_every_steps": 3,
            "micro_batch": 2,
            **changes,
        }
    )


def loop_of(
    folder: Path, *, task: TrainTask | None = None, plan: TrainSettings | None = None
) -> TrainLoop:
    """A loop on the tiny task that has not taken a step."""
    task, plan = task or TinyTask(), plan or settings()
    meter: Any = FixedMeter()
    return TrainLoop(task, plan, start_strategy(task, plan), folder, meter)


def train(folder: Path, *, task: TrainTask | None = None, **changes: Any) -> TrainLoop:
    """Train to the end (or from where the folder stands) and return the loop."""
    loop = loop_of(folder, task=task, plan=settings(**changes))
    loop.run()
    return loop


def loss_log(folder: Path) -> list[tuple[int, float, float, float]]:
    """What must be the same however often a run was killed: step, loss, rate, norm."""
    import json

    lines = [json.loads(line) for line in (folder / "metrics.jsonl").open(encoding="utf-8")]
    return [(line["step"], line["loss"], line["lr"], line["grad_norm"]) for line in lines]
