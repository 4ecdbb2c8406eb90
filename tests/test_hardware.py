from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest
import torch

from teenytinyllama import hardware
from teenytinyllama.errors import UserError

PAGES_OF_64_MB = 64 * 2**20 // resource.getpagesize()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_freed_memory_is_reused_without_page_faults() -> None:
    # In a process of its own: earlier allocations decide where a block comes from. The first block
    # is larger, because glibc may cut a little off it before it hands it out again.
    script = """
import resource, torch
from teenytinyllama import hardware

def page_faults(megabytes):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(megabytes * 2**20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

page_faults(64)
outside = page_faults(64)
with hardware.keeping_freed_memory(torch.device("cpu")):
    page_faults(80)
    inside = page_faults(64)
print(outside, inside, page_faults(64))
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    outside, inside, after = map(int, ran.stdout.split())
    assert outside > PAGES_OF_64_MB / 2
    assert inside < PAGES_OF_64_MB / 100
    assert after > PAGES_OF_64_MB / 2, "the memory is returned afterwards"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_large_blocks_are_mapped_apart_from_the_heap() -> None:
    # After a block of 24 MB was freed, glibc takes blocks of 20 MB from its heap.
    script = """
import ctypes, torch
from teenytinyllama import hardware

class Info(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info

def num_mapped():
    before = libc.mallinfo2().hblks
    block = torch.zeros(20 * 2**20, dtype=torch.uint8)
    return libc.mallinfo2().hblks - before

torch.zeros(24 * 2**20, dtype=torch.uint8)
with hardware.large_blocks_apart(torch.device("cpu")):
    inside = num_mapped()
print(inside, num_mapped())
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert list(map(int, ran.stdout.split())) == [1, 0]


def test_a_gpu_leaves_the_c_library_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: None) -> None:
        raise AssertionError("the C library was opened")

    monkeypatch.setattr("ctypes.CDLL", refuse)
    gpu = torch.device("cuda")
    with hardware.large_blocks_apart(gpu), hardware.keeping_freed_memory(gpu):
        pass


def test_a_chip_without_bfloat16_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # A T4 and a V100 emulate it, at a fraction of fp32's speed, and PyTorch counts that.
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old Chip")
    with pytest.raises(
        UserError, match=r"Old Chip has no bfloat16.*precision = \"fp16-mixed\""
    ) as caught:
        hardware.check_precision("bf16-mixed", torch.device("cuda"))
    assert caught.value.code == "precision-unsupported"
    hardware.check_precision("fp32", torch.device("cuda"))


def test_tf32_ends_with_the_step_that_asked_for_it() -> None:
    """It stayed: fp32 scores after a training were not those of `ttl evaluate`."""
    for device, inside in (("cuda", "high"), ("cpu", "highest")):
        with hardware.tf32_products(torch.device(device)):
            assert torch.get_float32_matmul_precision() == inside
        assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("has_kernels", [True, False])
def test_mixed_precision_is_fp32_on_a_cpu_without_kernels_for_bfloat16(
    monkeypatch: pytest.MonkeyPatch, has_kernels: bool
) -> None:
    monkeypatch.setattr(hardware, "multiplies_bfloat16", lambda _: has_kernels)
    cpu, weight = torch.device("cpu"), torch.ones(2, 2)
    expected = torch.bfloat16 if has_kernels else torch.float32
    with hardware.autocast("bf16-mixed", cpu):
        assert (weight @ weight).dtype == expected
    assert hardware.compute_dtype("bf16-mixed", cpu) == expected
    assert hardware.precision_on(cpu, "bf16-mixed") == ("bf16-mixed" if has_kernels else "fp32")
    assert hardware.precision_on(torch.device("cuda"), "bf16-mixed") == "bf16-mixed"


@pytest.mark.skipif(
    not hardware.multiplies_bfloat16(torch.device("cpu")), reason="no kernels for bfloat16"
)
def test_a_cpu_that_says_so_multiplies_bfloat16_at_no_fiftieth_of_fp32s_rate() -> None:
    half, whole = (
        hardware.matmul_flops_per_s(dtype, torch.device("cpu"))
        for dtype in (torch.bfloat16, torch.float32)
    )
    assert half > whole / 20
