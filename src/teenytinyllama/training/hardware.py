"""The chip a training runs on: which device, which precision it can do, how fast it multiplies."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import Any, Literal

import torch

from teenytinyllama.errors import UserError

Precision = Literal["fp32", "bf16-mixed", "bf16"]


def present_device() -> torch.device:
    """What a training on this machine runs on: a GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def check_precision(precision: Precision, device: torch.device) -> None:
    """Raise UserError where the device cannot compute in the precision asked for."""
    if precision == "fp32" or device.type != "cuda" or torch.cuda.is_bf16_supported():
        return
    raise UserError(
        "precision-unsupported",
        f"precision = {precision}",
        f"{torch.cuda.get_device_name(device)} has no bfloat16",
        '--set pretrain.precision="fp32"',
    )


def autocast(precision: Precision, device: torch.device) -> Any:
    """The context that a forward pass runs in."""
    if precision == "bf16-mixed":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def compute_dtype(precision: Precision) -> torch.dtype:
    """What matrices are multiplied in."""
    return torch.float32 if precision == "fp32" else torch.bfloat16


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_flops_per_s(dtype: torch.dtype, device: torch.device) -> float:
    """Highest rate of one large matrix product, measured now: what utilisation is a share of.

    About a quarter of a second on two CPU cores, less on a GPU.
    """
    size = 8192 if device.type == "cuda" else 1024
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(size, size, generator=generator).to(device, dtype)
    right = torch.randn(size, size, generator=generator).to(device, dtype)
    best = float("inf")
    for _ in range(8):
        synchronize(device)
        started = time.perf_counter()
        torch.mm(left, right)
        synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def device_name(device: torch.device) -> str:
    """For people: the card, or the CPU with the threads it was given."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"CPU, {torch.get_num_threads()} threads"
