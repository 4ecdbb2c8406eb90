from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece
from support.token_stages import hashes, train_tokenizer, write_texts
from tokenizers import Tokenizer

from teenytinyllama.artifacts.conversations import SPECIAL_IDS, SPECIAL_TOKENS
from teenytinyllama.artifacts.tokenizer import load_tokenizer
from teenytinyllama.errors import UserError
from teenytinyllama.stages.interface import StageContext
from teenytinyllama.stages.tokenizer.hf_export import EDGE_TEXTS

VOWELS = "aeiou aeeioou aeiiouu eioua"  # enough different pairs for 300 tokens


def test_special_tokens_and_bytes_have_fixed_ids(small_tokenizer_dir: Path) -> None:
    model = sentencepiece.SentencePieceProcessor(
        model_file=str(small_tokenizer_dir / "tokenizer.model")
    )
    assert [model.id_to_piece(i) for i in range(7)] == list(SPECIAL_TOKENS)
    assert [model.id_to_piece(7 + i) for i in range(256)] == [f"<0x{i:02X}>" for i in range(256)]
    assert model.vocab_size() == 640
    assert all(model.is_control(i) for i in range(1, 7))
    learnt = [model.id_to_piece(i) for i in range(263, model.vocab_size())]
    assert not any(len(t) > 1 and any(c.isdigit() for c in t) for t in learnt)


def test_equal_documents_give_equal_bytes(
    small_corpus_dir: Path, small_tokenizer_dir: Path, stage_context: StageContext, tmp_path: Path
) -> None:
    train_tokenizer(small_corpus_dir, tmp_path, stage_context, vocab_size=640)
    assert hashes(tmp_path) == hashes(small_tokenizer_dir)
    assert len(hashes(tmp_path)) == 4


def test_counts_and_metrics_add_up(
    small_corpus_dir: Path, stage_context: StageContext, tmp_path: Path
) -> None:
    counts, metrics = train_tokenizer(small_corpus_dir, tmp_path, stage_context, vocab_size=640)
    assert counts["documents_read"] == counts["documents_trained_on"] == 120
    assert counts["vocab_size"] == 640
    assert counts["texts_compared"] == 120 + len(EDGE_TEXTS)
    total, source = metrics["all"], metrics["sources"]["storybook"]
    assert total == source
    assert total["num_documents"] == 12
    assert total["unknown_fraction"] == 0
    assert 1 < total["tokens_per_word"] == total["num_tokens"] / total["num_words"] < 4


@pytest.mark.parametrize("model", ["bpe", "unigram", "byte-level"])
def test_hugging_face_file_gives_the_same_text(
    model: str, small_corpus_dir: Path, stage_context: StageContext, tmp_path: Path
) -> None:
    settings = {"vocab_size": 500, "model": model}
    counts, _ = train_tokenizer(small_corpus_dir, tmp_path, stage_context, **settings)
    assert counts["tokens_compared"] > 10_000  # the stage itself compares, and stops if unequal
    fast = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert fast.encode("oi").ids[0] == SPECIAL_IDS["<s>"]
    assert fast.decode(fast.encode(" Lila  viu\n").ids, skip_special_tokens=True) == " Lila  viu\n"


def test_newlines_join_only_the_character_before(
    stage_context: StageContext, tmp_path: Path
) -> None:
    corpus_dir = write_texts(tmp_path / "c", [f"Ele viu {VOWELS}.\nEla viu.\n"] * 50)
    train_tokenizer(corpus_dir, tmp_path / "t", stage_context, vocab_size=300)
    tokens = load_tokenizer(tmp_path / "t").tokens
    assert ".\n" in tokens
    assert not [token for token in tokens if "\n" in token.rstrip("\n")]


def test_huge_lines_and_words_are_trained_on(stage_context: StageContext, tmp_path: Path) -> None:
    line = f"a raposa viu a casa {VOWELS} " * 20_000 + "x" * 300_000
    corpus_dir = write_texts(tmp_path / "c", [line])
    counts, _ = train_tokenizer(corpus_dir, tmp_path / "t", stage_context, vocab_size=300)
    assert counts["bytes_trained_on"] == len(line)
    assert "▁a" in load_tokenizer(tmp_path / "t").tokens


def test_table_1_compares_other_tokenizers(
    small_corpus_dir: Path, small_tokenizer_dir: Path, stage_context: StageContext, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Lila é uma raposa.\n汉字\n", encoding="utf-8")
    against = (str(small_tokenizer_dir), str(small_tokenizer_dir / "tokenizer.model"))
    _, metrics = train_tokenizer(
        small_corpus_dir,
        tmp_path / "t",
        stage_context,
        vocab_size=640,
        measure_text=str(text),
        measure_against=against,
    )
    rows = metrics["table_1"]
    assert [row.pop("tokenizer") for row in rows] == ["this run", *against]
    assert rows[0] == rows[1] == rows[2]  # the same vocabulary, in both forms
    assert (rows[0]["num_words"], rows[0]["is_lossless"]) == (5, True)
    assert rows[0]["byte_fallback_fraction"] == 6 / rows[0]["num_tokens"]
    assert rows[0]["unknown_fraction"] == 0


@pytest.mark.parametrize(("model", "most"), [("bpe", 309), ("byte-level", 282)])
def test_vocabulary_too_large_for_the_corpus(
    model: str, most: int, stage_context: StageContext, tmp_path: Path
) -> None:
    corpus_dir = write_texts(tmp_path / "c", ["o rato roeu a roupa do rei de roma"] * 3)
    with pytest.raises(UserError) as caught:
        train_tokenizer(corpus_dir, tmp_path / "t", stage_context, vocab_size=5000, model=model)
    assert caught.value.code == "vocabulary-too-large"
    assert f"at most {most} fit" in str(caught.value)
    train_tokenizer(corpus_dir, tmp_path / "t", stage_context, vocab_size=most, model=model)


def test_corpus_without_words(stage_context: StageContext, tmp_path: Path) -> None:
    corpus_dir = write_texts(tmp_path / "c", ["\t\t", "\t"])
    with pytest.raises(UserError, match=r"tokenizer-no-text.*hold no words"):
        train_tokenizer(corpus_dir, tmp_path / "t", stage_context, vocab_size=300)


def test_letters_outside_the_coverage_are_listed(
    stage_context: StageContext, tmp_path: Path
) -> None:
    text = f"a raposa viu a casa e a casa viu a raposa {VOWELS} " * 50 + "ç" * 30
    corpus_dir = write_texts(tmp_path / "c", [text + f" {word}" for word in ("çx", "çy")])
    settings = {"vocab_size": 300, "character_coverage": 0.98}
    with pytest.raises(UserError, match=r"letters-dropped.*2 letters of the text.*x 1, y 1"):
        train_tokenizer(corpus_dir, tmp_path / "t", stage_context, **settings)
