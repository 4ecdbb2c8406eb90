"""What fits: rows of a forward pass into memory, checkpoints onto the disk.

The micro-batch changes speed and memory only: a step has the same rows in the same order however
it is cut.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from teenytinyllama.errors import UserError
from teenytinyllama.training import checkpoints
from teenytinyllama.training.task import Job, TrainSettings

MAX_TOKENS_CPU = 2_048
MAX_TOKENS_GPU = 65_536


def first_micro_batch(job: Job, model: nn.Module, device: torch.device, world: int) -> int:
    """Rows of one forward pass: a divisor of the step that should fit (else it is halved).

    Raises UserError where `world` processes cannot share the rows of a step.
    """
    rows = job.rows_per_step // world
    if rows * world != job.rows_per_step or rows == 0:
        raise UserError(
            "world-size",
            f"{world} processes",
            f"do not divide the {job.rows_per_step} rows of a step",
            f"start a divisor of {job.rows_per_step} processes, or change tokens_per_step",
        )
    max_tokens = MAX_TOKENS_CPU
    if device.type == "cuda":
        config: Any = model.config
        layer = 28 * config.hidden_size + 8 * config.intermediate_size
        bytes_per_token = max(1, layer * config.num_hidden_layers)
        free, _ = torch.cuda.mem_get_info(device)
        max_tokens = min(int(0.6 * free) // bytes_per_token, MAX_TOKENS_GPU)
    fitting = [n for n in _divisors(rows) if n * job.tokens_per_row <= max_tokens]
    return max(fitting, default=1)


def smaller_micro_batch(job: Job, micro_batch: int, world: int) -> int:
    """The next divisor down, where `micro_batch` rows did not fit.

    Raises UserError below 1, and with several processes: one alone cannot step back, the others
    would wait for it for ever.
    """
    where = f"micro_batch = {micro_batch} x {job.tokens_per_row} tokens"
    if micro_batch == 1:
        fix = "--set pretrain.activation_checkpointing=true, or a shorter sequence_length"
        raise UserError("out-of-memory", where, "does not fit on the device", fix)
    smaller = max(n for n in _divisors(job.rows_per_step // world) if n < micro_batch)
    if world > 1:
        fix = f"--set pretrain.micro_batch={smaller} (all processes must cut alike)"
        raise UserError("out-of-memory", where, "does not fit on a device", fix)
    return smaller


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def check_disk(out_dir: Path, model: nn.Module, settings: TrainSettings, step: int) -> None:
    """Say before the first step what would otherwise be found out at the last."""
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    every = settings.checkpoints.permanent_every_steps
    permanent = (settings.num_steps - step) // every if every else 0
    # A checkpoint holds the weights and two moments of them.
    need = 3 * weights * (checkpoints.NUM_ROLLING_KEPT + 1 + permanent) + weights
    free = shutil.disk_usage(out_dir).free
    if need > free:
        raise UserError(
            "disk-too-small",
            str(out_dir),
            f"checkpoints will need {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free",
            "free space, choose another --run-dir, or keep fewer permanent checkpoints",
        )
