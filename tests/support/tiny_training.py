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
from teenytinyllama.training.loop import Loop
from teenytinyllama.training.losses import NextTokenLoss
from teenytinyllama.training.task import Job, MicroBatch, TrainSettings

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


def job(*, seed: int = 0, poison: dict[int, float] | None = None, dropout: float = 0.0) -> Job:
    """A job on `data()`; `poison` maps steps to a number that replaces their loss's scale."""
    config = llama_config(SIZES, VOCAB_SIZE, bos_id=1, eos_id=2, pad_id=3)
    config.attention_dropout = dropout
    model = build_model(config, seed=seed)
    rows = data()
    order = SequenceOrder(NUM_SEQUENCES, ROWS_PER_STEP, seed)

    def micro_batches(step: int, micro_batch: int) -> list[MicroBatch]:
        numbers = order.rows_of_step(step)
        scale = (poison or {}).get(step, 1.0)
        return [
            MicroBatch(
                weight=len(cut) * LENGTH / scale,
                num_tokens=len(cut) * LENGTH,
                load=lambda cut=cut: {  # type: ignore[misc]
                    "input_ids": rows[cut, :-1],
                    "labels": rows[cut, 1:],
                },
            )
            for cut in (
                numbers[at : at + micro_batch] for at in range(0, len(numbers), micro_batch)
            )
        ]

    return Job(
        objective=NextTokenLoss(model),
        micro_batches=micro_batches,
        rows_per_step=ROWS_PER_STEP,
        tokens_per_row=LENGTH,
        flops_per_token=1000,
        identity={"data": "tiny"},
        write_model_files=lambda folder: config.save_pretrained(folder),
        describe_step=lambda step: {"sequences": order.rows_of_step(step).tolist()},
    )


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


def train(folder: Path, *, the_job: Job | None = None, **changes: Any) -> Loop:
    """Train to the end (or from where the folder stands) and return the loop."""
    loop = Loop(the_job or job(), settings(**changes), folder, FixedMeter())  # type: ignore[arg-type]
    loop.run()
    return loop


def loss_log(folder: Path) -> list[tuple[int, float, float, float]]:
    """What must be the same however often a run was killed: step, loss, rate, norm."""
    import json

    lines = [json.loads(line) for line in (folder / "metrics.jsonl").open(encoding="utf-8")]
    return [(line["step"], line["loss"], line["lr"], line["grad_norm"]) for line in lines]
