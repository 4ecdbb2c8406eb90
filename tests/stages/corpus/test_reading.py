"""How far the reading has come, in what the files hold on disk."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.corpus_stage import Stage, json_lines

from teenytinyllama.settings.data_preparation import CorpusSettings
from teenytinyllama.stages.corpus.readers import sources
from teenytinyllama.stages.corpus.readers.reading import Reading


def reading_of(*entries: dict[str, Any]) -> Reading:
    settings = CorpusSettings.model_validate({"sources": entries})
    return Reading(settings, "pt", sources.find_files(settings, Counter()), Counter())


def test_the_place_is_exact_at_the_end_of_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "BATCH_ITEMS", 5)
    lines = json_lines(*(f"linha {n} de muitas, {n * n}" for n in range(20)))
    plain, packed = tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"
    plain.write_bytes(lines)
    packed.write_bytes(gzip.compress(lines))
    entries = [{"kind": "files", "path": str(p), "license": "CC0-1.0"} for p in (plain, packed)]
    reading = reading_of(*entries)
    sizes = [path.stat().st_size / 1e6 for path in (plain, packed)]
    assert reading.total_megabytes == pytest.approx(sum(sizes))
    places = [reading.megabytes for _ in reading.batches()]
    assert len(places) == 8
    assert places == sorted(places)
    assert 0 < places[0] < sizes[0] < places[4] <= sum(sizes)
    assert reading.megabytes == pytest.approx(sum(sizes))


def test_a_made_source_has_no_total() -> None:
    made = {"kind": "storybook", "license": "CC0-1.0", "num_documents": 3}
    assert reading_of(made).total_megabytes is None


def test_documents_and_bytes_are_both_said(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_bytes(json_lines("Um texto.", "Outro texto.") + b"{oops\n")
    stage(tmp_path / "a.jsonl")
    assert "MB" in (said := capsys.readouterr().err)
    assert "3 documents" in said
