from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from support.token_stages import hashes, pack_corpus, write_corpus

from teenytinyllama.artifacts.documents import Split, read_documents
from teenytinyllama.artifacts.tokenizer import load_tokenizer
from teenytinyllama.artifacts.tokens import open_tokens, read_index
from teenytinyllama.errors import UserError
from teenytinyllama.settings.data_preparation import PackSettings
from teenytinyllama.stages.interface import StageContext

SPLITS: tuple[Split, ...] = ("train", "heldout")


def test_tokens_decode_to_the_documents(
    small_corpus_dir: Path, small_tokenizer_dir: Path, stage_context: StageContext, tmp_path: Path
) -> None:
    result = pack_corpus(small_corpus_dir, small_tokenizer_dir, tmp_path, stage_context)
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
        assert result.counts[f"tokens_{split}"] == tokens.num_tokens == num_tokens
        assert result.counts[f"documents_{split}"] == len(texts)
        assert result.counts[f"bytes_{split}"] == sum(len(text.encode()) for text in texts)
        assert encoder.decode(tokens.tokens.tolist()) == "".join(
            encoder.decode(row) for row in rows
        )
    assert read_index(tmp_path)["tokenizer"] == encoder.fingerprint


def test_order_depends_only_on_the_seed(
    small_corpus_dir: Path, small_tokenizer_dir: Path, stage_context: StageContext, tmp_path: Path
) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        settings = PackSettings(seed=seed)
        pack_corpus(small_corpus_dir, small_tokenizer_dir, tmp_path / name, stage_context, settings)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    assert hashes(tmp_path / "a")["train.bin"] != hashes(tmp_path / "c")["train.bin"]


def test_files_of_a_killed_run_are_overwritten(
    small_corpus_dir: Path, small_tokenizer_dir: Path, stage_context: StageContext, tmp_path: Path
) -> None:
    pack_corpus(small_corpus_dir, small_tokenizer_dir, tmp_path / "whole", stage_context)
    (tmp_path / "killed").mkdir()
    for name in ("train.bin", "train.documents.bin", ".train.encoded", ".heldout.encoded"):
        (tmp_path / "killed" / name).write_bytes(b"half a file" * 1000)
    pack_corpus(small_corpus_dir, small_tokenizer_dir, tmp_path / "killed", stage_context)
    assert hashes(tmp_path / "killed") == hashes(tmp_path / "whole")


def test_heldout_document_in_training_text_is_an_error(
    small_tokenizer_dir: Path, stage_context: StageContext, tmp_path: Path
) -> None:
    train = [("a", "Uma raposa.\n"), ("a", "Outra raposa."), ("b", " Uma  raposa.")]
    corpus_dir = write_corpus(tmp_path / "c", train, ["Uma raposa."])
    with pytest.raises(UserError, match=r"heldout-in-train.* 2 training documents"):
        pack_corpus(corpus_dir, small_tokenizer_dir, tmp_path / "t", stage_context)


@pytest.mark.parametrize("empty", SPLITS)
def test_empty_split_is_an_error(
    empty: Split, small_tokenizer_dir: Path, stage_context: StageContext, tmp_path: Path
) -> None:
    train = [] if empty == "train" else [("a", "Uma raposa.")]
    heldout = [] if empty == "heldout" else ["Outra."]
    corpus_dir = write_corpus(tmp_path / "c", train, heldout)
    with pytest.raises(UserError, match=rf"split-empty.*no {empty} documents"):
        pack_corpus(corpus_dir, small_tokenizer_dir, tmp_path / "t", stage_context)


def test_epochs_repeat_the_documents_of_a_source(
    small_tokenizer_dir: Path, stage_context: StageContext, tmp_path: Path
) -> None:
    train = [("a", f"raposa {i}") for i in range(10)] + [("b", f"casa {i}") for i in range(4)]
    corpus_dir = write_corpus(tmp_path / "c", train, ["Outra."])
    settings = PackSettings(epochs={"a": 0.5, "b": 2.5})
    result = pack_corpus(corpus_dir, small_tokenizer_dir, tmp_path / "t", stage_context, settings)
    encoder = load_tokenizer(small_tokenizer_dir)
    tokens = open_tokens(tmp_path / "t", "train")
    texts = Counter(encoder.decode(tokens.document(i)) for i in range(tokens.num_documents))
    assert result.counts["documents_train"] == 15
    assert result.counts["documents_heldout"] == 1
    assert sorted(n for text, n in texts.items() if text.startswith("casa")) == [2, 2, 3, 3]
    assert [n for text, n in texts.items() if text.startswith("raposa")] == [1] * 5


def test_unknown_source_is_an_error(
    small_tokenizer_dir: Path, stage_context: StageContext, tmp_path: Path
) -> None:
    corpus_dir = write_corpus(tmp_path / "c", [("noticias", "Uma raposa.")], ["Outra."])
    settings = PackSettings(epochs={"noticia": 2.0})
    with pytest.raises(UserError, match=r'pack.epochs.noticia.*did you mean "noticias"'):
        pack_corpus(corpus_dir, small_tokenizer_dir, tmp_path / "t", stage_context, settings)
