"""The stage as a whole: nothing left, interruptions, fuzzed files."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from support.corpus_stage import GOOD, Stage, json_lines

from teenytinyllama.errors import UserError

LINES = json_lines(*GOOD)


MANY = [f"Documento número {n}: {GOOD[n % 4]} Fim do documento {n}." for n in range(400)]


def _bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_26_nothing_left_is_an_error(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_bytes(b"\n")
    with pytest.raises(UserError, match="0 documents in all"):
        stage(tmp_path / "empty.jsonl")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r'no file behind ".*folder"'):
        stage(tmp_path / "folder")
    (tmp_path / "a.jsonl").write_bytes(LINES)
    with pytest.raises(UserError, match=r"0 documents remain of 4; largest filter: too-short \(4"):
        stage(tmp_path / "a.jsonl", min_document_bytes=1000)


def test_36_interrupted_run_repeated_gives_the_same_bytes(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jsonl").write_bytes(json_lines(*MANY))
    calm = stage(tmp_path / "a.jsonl", out="calm").folder

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(
            "teenytinyllama.stages.corpus.corpus_writer.CorpusWriter._write_duplicates", dies
        )
        with pytest.raises(KeyboardInterrupt):
            stage(tmp_path / "a.jsonl", out="killed")
    killed = stage(tmp_path / "a.jsonl", out="killed").folder
    assert _bytes_of(killed) == _bytes_of(calm)


BENCH = Path(__file__).parents[3] / "bench" / "faults" / "corpus_fuzz.py"


specification = importlib.util.spec_from_file_location("corpus_fuzz", BENCH)
assert specification and specification.loader


corpus_fuzz = importlib.util.module_from_spec(specification)
specification.loader.exec_module(corpus_fuzz)


@pytest.mark.parametrize("seed", [1, 2])
def test_fuzzed_files_lose_nothing_good(seed: int, tmp_path: Path) -> None:
    found = corpus_fuzz.measure(400, 0.0, seed, tmp_path / "trial")
    assert found["lost"] == 0
    assert found["uncounted"] == 0
    assert found["read"] > 800
    assert len(found["reasons"]) > 8


@pytest.mark.slow
def test_giant_line_and_bomb_are_quarantined(tmp_path: Path) -> None:
    found = corpus_fuzz.measure(100, 0.5, 3, tmp_path / "trial")
    assert (found["lost"], found["uncounted"]) == (0, 0)
    assert found["reasons"]["line-too-long"] == found["reasons"]["decompression-bomb"] == 1
