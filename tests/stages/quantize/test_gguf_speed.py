"""Speed and memory of llama.cpp, measured in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.small_run import VOCAB_SIZE

from teenytinyllama.stages.interface import StageResult


@pytest.mark.slow
def test_peak_memory_is_that_of_llama_cpp_alone(quantized: tuple[Path, StageResult]) -> None:
    pytest.importorskip("xllamacpp")
    from teenytinyllama.stages.quantize.gguf_speed import measure_speed

    path = quantized[0] / "model-q8_0.gguf"
    metrics = measure_speed(path, vocab_size=VOCAB_SIZE, num_threads=1)
    assert metrics["tokens_per_s"] > 0
    assert 1e6 < metrics["peak_memory_bytes"] < 400e6  # without torch
