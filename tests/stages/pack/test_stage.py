from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from teenytinyllama.artifacts.documents import Document, DocumentWriter, Split, read_documents
from teenytinyllama.artifacts.tokenizer import load_tokenizer
from teenytinyllama.artifacts.tokens import open_tokens, read_index
from teenytinyllama.errors import UserError
from teenytinyllama.settings.data_preparation import PackSettings
from teenytinyllama.stages.interface import StageContext, StageResult
from teenytinyllama.stages.pack import parallel_encoding
from teenytinyllama.stages.pack import stage as pack
from teenytinyllama.stages.pack.document_order import fraction_of_rows_cut, order_documents

SPLITS: tuple[Split, ...] = ("train", "heldout")


def run_stage(
    corpus_dir: Path,
    tokenizer_dir: Path,
    out_dir: Path,
    context: StageContext,
    settings: PackSettings | None = None,
) -> StageResult:
    out_dir.mkdir(exist_ok=True)
    return pack.run(
        settings=settings or PackSettings(),
        context=context,
        out_dir=out_dir,
        corpus_dir=corpus_dir,
        tokenizer_dir=tokenizer_dir,
    )


def hashes(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_text_to_tokens_to_text(
    small_corpus_dir: Path, small_tokenizer_dir: Path, stage_context: StageContext, tmp_path: Path
) -> None:
    outcome = run_stage(small_corpus_dir, small_tokenizer_dir, tmp_path, stage_context)
    encoder = load_tokenizer(small_tokenizer_dir)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "heldout.bin",
        "heldout.documents.bin",
        "index.json",
        "train.bin",
        "train.documents.bin",
    ]
    for split in SPLITS:
        texts = [document.text for document in read_documents(small_corpus_dir, split)]
        tokens = open_tokens(tmp_path, split, verify=True)
        rows = [tokens.document(i).tolist() for i in range(tokens.num_documents)]
        assert Counter(encoder.decode(row) for row in rows) == Counter(texts)
        assert all(row[0] == 1 and row[-1] == 2 for row in rows)
        assert all(row.count(1) == row.count(2) == 1 for row in rows)
        num_tokens = sum(len(encoder.encode_document(text)) for text in texts)
        assert outcome.counts[f"tokens_{split}"] == tokens.num_tokens == num_tokens
        assert outcome.counts[f"documents_{split}"] == len(texts)
        assert outcome.counts[f"bytes_{split}"] == sum(len(text.encode()) for text in texts)
        assert encoder.decode(tokens.tokens.tolist()) == "".join(
            encoder.decode(row) for row in rows
        )
    assert read_index(tmp_path)["tokenizer"] == encoder.fingerprint


def test_the_seed_alone_decides_the_order(
    small_corpus_dir: Path, small_tokenizer_dir: Path, stage_context: StageContext, tmp_path: Path
) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        settings = PackSettings(seed=seed)
        run_stage(small_corpus_dir, small_tokenizer_dir, tmp_path / name, stage_context, settings)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    assert hashes(tmp_path / "a")["train.bin"] != hashes(tmp_path / "c")["train.bin"]


def test_two_workers_give_the_bytes_of_one(
    small_corpus_dir: Path,
    small_tokenizer_dir: Path,
    stage_context: StageContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_stage(small_corpus_dir, small_tokenizer_dir, tmp_path / "one", stage_context)
    monkeypatch.setattr(parallel_encoding, "MIN_BYTES_FOR_WORKERS", 0)
    monkeypatch.setattr(parallel_encoding, "CHARACTERS_PER_BATCH", 3_000)
    monkeypatch.setattr(parallel_encoding.os, "sched_getaffinity", lambda _: {0, 1})
    started = []
    worker = parallel_encoding.Worker
    monkeypatch.setattr(
        parallel_encoding, "Worker", lambda model: started.append(1) or worker(model)
    )
    run_stage(small_corpus_dir, small_tokenizer_dir, tmp_path / "two", stage_context)
    assert len(started) == 4  # two for each split
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")


def test_what_a_killed_run_left_changes_nothing(
    small_corpus_dir: Path, small_tokenizer_dir: Path, stage_context: StageContext, tmp_path: Path
) -> None:
    run_stage(small_corpus_dir, small_tokenizer_dir, tmp_path / "whole", stage_context)
    (tmp_path / "killed").mkdir()
    for name in ("train.bin", "train.documents.bin", ".train.encoded", ".heldout.encoded"):
        (tmp_path / "killed" / name).write_bytes(b"half a file" * 1000)
    run_stage(small_corpus_dir, small_tokenizer_dir, tmp_path / "killed", stage_context)
    assert hashes(tmp_path / "killed") == hashes(tmp_path / "whole")


def write_corpus(folder: Path, train: list[tuple[str, str]], heldout: list[str]) -> Path:
    with DocumentWriter(folder, "train") as one, DocumentWriter(folder, "heldout") as other:
        for index, (source, text) in enumerate(train):
            one.write(Document(str(index), text, source, "CC0-1.0"))
        for index, text in enumerate(heldout):
            other.write(Document(f"h{index}", text, "a", "CC0-1.0"))
    return folder


def test_heldout_text_in_the_training_text_stops_the_stage(
    small_tokenizer_dir: Path, stage_context: StageContext, tmp_path: Path
) -> None:
    train = [("a", "Uma raposa.\n"), ("a", "Outra raposa."), ("b", " Uma  raposa.")]
    corpus_dir = write_corpus(tmp_path / "c", train, ["Uma raposa."])
    with pytest.raises(UserError, match=r"heldout-in-train.* 2 training documents"):
        run_stage(corpus_dir, small_tokenizer_dir, tmp_path / "t", stage_context)


@pytest.mark.parametrize("empty", SPLITS)
def test_an_empty_split_stops_the_stage(
    empty: Split, small_tokenizer_dir: Path, stage_context: StageContext, tmp_path: Path
) -> None:
    train = [] if empty == "train" else [("a", "Uma raposa.")]
    heldout = [] if empty == "heldout" else ["Outra."]
    corpus_dir = write_corpus(tmp_path / "c", train, heldout)
    with pytest.raises(UserError, match=rf"split-empty.*no {empty} documents"):
        run_stage(corpus_dir, small_tokenizer_dir, tmp_path / "t", stage_context)


def test_sources_are_packed_as_often_as_asked(
    small_tokenizer_dir: Path, stage_context: StageContext, tmp_path: Path
) -> None:
    train = [("a", f"raposa {i}") for i in range(10)] + [("b", f"casa {i}") for i in range(4)]
    corpus_dir = write_corpus(tmp_path / "c", train, ["Outra."])
    settings = PackSettings(epochs={"a": 0.5, "b": 2.5})
    outcome = run_stage(corpus_dir, small_tokenizer_dir, tmp_path / "t", stage_context, settings)
    encoder = load_tokenizer(small_tokenizer_dir)
    tokens = open_tokens(tmp_path / "t", "train")
    texts = Counter(encoder.decode(tokens.document(i)) for i in range(tokens.num_documents))
    assert outcome.counts["documents_train"] == 15
    assert outcome.counts["documents_heldout"] == 1
    assert sorted(n for text, n in texts.items() if text.startswith("casa")) == [2, 2, 3, 3]
    assert [n for text, n in texts.items() if text.startswith("raposa")] == [1] * 5


def test_an_unknown_source_is_named(
    small_tokenizer_dir: Path, stage_context: StageContext, tmp_path: Path
) -> None:
    corpus_dir = write_corpus(tmp_path / "c", [("noticias", "Uma raposa.")], ["Outra."])
    settings = PackSettings(epochs={"noticia": 2.0})
    with pytest.raises(UserError, match=r'pack.epochs.noticia.*did you mean "noticias"'):
        run_stage(corpus_dir, small_tokenizer_dir, tmp_path / "t", stage_context, settings)


def test_best_fit_ends_rows_where_documents_end() -> None:
    lengths = np.array([5, 3, 6, 2, 4, 4, 7, 1])
    settings = PackSettings(order="best-fit", sequence_length=8)
    order = order_documents(lengths, ["a"] * 8, settings, is_train=True)
    assert sorted(order.tolist()) == list(range(8))
    assert fraction_of_rows_cut(lengths[order], 8) == 0  # 5+3, 6+2, 4+4, 7+1 in some order


def test_best_fit_cuts_fewer_rows_and_keeps_every_document() -> None:
    generator = np.random.default_rng(0)
    lengths = np.minimum(generator.lognormal(5, 1, 3000).astype(np.int64) + 3, 5000)
    cut = {}
    for kind in ("shuffled", "best-fit"):
        settings = PackSettings(order=kind, sequence_length=1024)
        order = order_documents(lengths, ["a"] * len(lengths), settings, is_train=True)
        assert sorted(order.tolist()) == list(range(3000))
        cut[kind] = fraction_of_rows_cut(lengths[order], 1024)
    assert cut["shuffled"] > 0.95
    assert cut["best-fit"] < 0.35
