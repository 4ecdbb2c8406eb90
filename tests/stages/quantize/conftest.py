"""A small run, and its files in three formats."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.quantize_stage import quantize_run
from support.small_run import make_run

from teenytinyllama.stages.interface import StageResult
from teenytinyllama.stages.quantize import stage


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("quantize"))


@pytest.fixture(autouse=True)
def without_speed() -> Iterator[None]:
    """Measuring llama.cpp's speed starts a process: too slow for every test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "_speed", lambda path, model: {})
        yield


@pytest.fixture(scope="session")
def quantized(run_dir: Path) -> tuple[Path, StageResult]:
    out_dir = run_dir / "quantize"
    return out_dir, quantize_run(run_dir, out_dir, formats=("f16", "q8_0", "q4_0"))


@pytest.fixture(scope="session")
def quantized_qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a model that has QK-norm, and its files."""
    run_dir = make_run(tmp_path_factory.mktemp("qwen3"), kind="qwen3")
    quantize_run(run_dir, run_dir / "quantize", formats=("f16", "q8_0"))
    return run_dir


@pytest.fixture(scope="session")
def byte_level_gguf(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run with a byte-level vocabulary, and its GGUF file."""
    run_dir = make_run(tmp_path_factory.mktemp("bytes"), tokenizer_model="byte-level")
    quantize_run(run_dir, run_dir / "quantize", formats=("f16",))
    return run_dir, run_dir / "quantize" / "model-f16.gguf"
