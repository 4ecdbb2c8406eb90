"""F12 in small: fuzzed files crash nothing, lose nothing good, and every record is counted."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[3] / "bench" / "faults" / "corpus_fuzz.py"
specification = importlib.util.spec_from_file_location("corpus_fuzz", BENCH)
assert specification and specification.loader
corpus_fuzz = importlib.util.module_from_spec(specification)
specification.loader.exec_module(corpus_fuzz)


@pytest.mark.parametrize("seed", [1, 2])
def test_fuzzed_files(seed: int, tmp_path: Path) -> None:
    found = corpus_fuzz.measure(400, 0.0, seed, tmp_path / "trial")
    assert found["lost"] == 0
    assert found["uncounted"] == 0
    assert found["read"] > 800
    assert len(found["reasons"]) > 8


@pytest.mark.slow
def test_giant_line_and_bomb(tmp_path: Path) -> None:
    found = corpus_fuzz.measure(100, 0.5, 3, tmp_path / "trial")
    assert (found["lost"], found["uncounted"]) == (0, 0)
    assert found["reasons"]["line-too-long"] == found["reasons"]["decompression-bomb"] == 1
