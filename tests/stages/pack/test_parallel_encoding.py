from __future__ import annotations

from pathlib import Path

import pytest
from support.token_stages import hashes, pack_corpus

from teenytinyllama.stages.interface import StageContext
from teenytinyllama.stages.pack import parallel_encoding


def test_two_workers_give_the_bytes_of_none(
    small_corpus_dir: Path,
    small_tokenizer_dir: Path,
    stage_context: StageContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pack_corpus(small_corpus_dir, small_tokenizer_dir, tmp_path / "one", stage_context)
    monkeypatch.setattr(parallel_encoding, "MIN_BYTES_FOR_WORKERS", 0)
    monkeypatch.setattr(parallel_encoding, "CHARACTERS_PER_BATCH", 3_000)
    monkeypatch.setattr(parallel_encoding.os, "sched_getaffinity", lambda _: {0, 1})
    started = []
    worker = parallel_encoding.EncodingWorker
    monkeypatch.setattr(
        parallel_encoding, "EncodingWorker", lambda model: started.append(1) or worker(model)
    )
    pack_corpus(small_corpus_dir, small_tokenizer_dir, tmp_path / "two", stage_context)
    assert len(started) == 4  # two for each split
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")
