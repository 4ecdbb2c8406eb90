"""The device that models run on: its precision, speed, name, and memory allocator."""

from __future__ import annotations

import ctypes
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch

from teenytinyllama.errors import UserError

Precision = Literal["fp32", "bf16-mixed", "fp16-mixed"]

# Names and numbers of glibc's mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
NEVER_TRIM = -1
# Where glibc's own adjustment ends when large blocks are allocated and freed, and its map limit.
DEFAULT_OPTIONS = {
    M_MMAP_MAX: 65_536,
    M_MMAP_THRESHOLD: 32 * 2**20,
    M_TRIM_THRESHOLD: 64 * 2**20,
}


def present_device() -> torch.device:
    """The device for models on this machine: a GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def check_precision(precision: Precision, device: torch.device) -> None:
    """Raise UserError where the device does not support the precision."""
    if precision != "bf16-mixed" or device.type != "cuda" or multiplies_bfloat16(device):
        return
    raise UserError(
        "precision-unsupported",
        f"precision = {precision}",
        f"{torch.cuda.get_device_name(device)} has no bfloat16",
        'write precision = "fp16-mixed" in the section of this stage',
    )


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device has kernels for bfloat16: GPUs from Ampere on, CPUs from AVX-512 on.

    Others emulate it. A CPU with AVX2 alone (most laptops) multiplies element by element, at a
    fiftieth of fp32's rate, and packing weights raises an error there.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(has_onednn and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def precision_on(device: torch.device, precision: Precision) -> Precision:
    """What `precision` is computed in: bf16-mixed is fp32 on a CPU without kernels for bfloat16.

    Its weights are fp32 anyway, so that only the products change.
    """
    if precision == "bf16-mixed" and device.type == "cpu" and not multiplies_bfloat16(device):
        return "fp32"
    return precision


def autocast(precision: Precision, device: torch.device) -> Any:
    """The autocast context of a forward pass."""
    dtypes = {"bf16-mixed": torch.bfloat16, "fp16-mixed": torch.float16}
    dtype = dtypes.get(precision_on(device, precision))
    return torch.autocast(device.type, dtype=dtype) if dtype else nullcontext()


def compute_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The type that matrices are multiplied in outside of autocast.

    Not fp16: the momenta that Muon orthogonalises would vanish in it.
    """
    is_bf16 = precision_on(device, precision) == "bf16-mixed"
    return torch.bfloat16 if is_bf16 else torch.float32


@contextmanager
def tf32_products(device: torch.device) -> Iterator[None]:
    """Inside, a GPU multiplies fp32 matrices in TF32; what comes after is as exact as before."""
    if device.type == "cpu":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its work; a CPU is never behind."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_flops_per_s(dtype: torch.dtype, device: torch.device) -> float:
    """Peak FLOP/s of one large matrix product, measured now: what this device can do.

    About a third of a second on two CPU cores, less on a GPU. The size for a CPU is not a power of
    two: rows at such distances share cache sets, which halves the rate.
    """
    size = 8192 if device.type == "cuda" else 1536
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(size, size, generator=generator).to(device, dtype)
    right = torch.randn(size, size, generator=generator).to(device, dtype)
    best = float("inf")
    for _ in range(8 if device.type == "cuda" else 4):
        synchronize(device)
        started = time.perf_counter()
        torch.mm(left, right)
        synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def keeping_freed_memory(device: torch.device) -> AbstractContextManager[None]:
    """Inside, memory that a step on the CPU frees is reused by the next step. Not to be nested.

    glibc returns blocks over 32 MB to the kernel at once, which hands them out again page by page,
    each filled with zeros: 130,000 page faults in a step of the paper's 160m, a tenth of its time.
    GPUs have PyTorch's own allocator; other C libraries are left as they are.
    """
    return _malloc_options(device, {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: NEVER_TRIM})


def large_blocks_apart(device: torch.device) -> AbstractContextManager[None]:
    """Inside, blocks of a megabyte or more on a CPU are mapped apart from the heap.

    For what stays, such as moments: it leaves no gaps in the memory that steps allocate and free,
    which at the paper's 160m are 0.14 of 3.8 GB.
    """
    return _malloc_options(device, {M_MMAP_THRESHOLD: 2**20})


@contextmanager
def _malloc_options(device: torch.device, options: dict[int, int]) -> Iterator[None]:
    """Inside, glibc's allocator has these options, where tensors on `device` come from it."""
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    for number, value in options.items():
        libc.mallopt(number, value)
    try:
        yield
    finally:
        for number, value in DEFAULT_OPTIONS.items():
            libc.mallopt(number, value)
        libc.malloc_trim(0)


def cpu_name() -> str:
    """The CPU's model name, where the system has it."""
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.is_file():
        for line in cpu_info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def device_name(device: torch.device) -> str:
    """For display: the GPU, or the CPU with its number of threads."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"CPU, {torch.get_num_threads()} threads"


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory that this process has held: the device's, or this machine's for the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved()
    status = Path("/proc/self/status")
    if status.is_file():  # Linux; `ru_maxrss` would show the parent's peak
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
