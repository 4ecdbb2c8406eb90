from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from support.token_stages import write_texts

from teenytinyllama.errors import UserError
from teenytinyllama.settings.data_preparation import TokenizerSettings
from teenytinyllama.stages.tokenizer import sentencepiece_training as training


def test_words_count_once_per_window() -> None:
    counts = training.count_words(["a b a a", "a " * (training.WORDS_PER_WINDOW + 1)])
    assert counts == Counter({" a": 3, " b": 1})


def test_words_include_spaces_before_and_newlines_after() -> None:
    text = "fim.\n\n  Novo\tcampo\r\n"
    assert sorted(training.count_words([text])) == ["\n", "  Novo", " fim.\n\n", "campo"]


def test_no_word_holds_the_sign_that_sentencepiece_takes_for_a_space() -> None:
    assert sorted(training.count_words(["a▁b ▁▁ ▁c"])) == [" a", "b", "c"]


def test_rare_words_are_dropped_only_if_enough_remain() -> None:
    counts = Counter({f"w{i}": 3 for i in range(2400)} | {"twice": 2, "once": 1})
    assert len(training.without_rare_words(counts, vocab_size=300)) == 2400
    kept = training.without_rare_words(counts, vocab_size=301)
    assert {"once", "twice"} <= set(kept)


def test_sample_is_spread_evenly(tmp_path: Path) -> None:
    corpus_dir = write_texts(tmp_path, [f"{i:010d}" for i in range(100)])
    sample = training.DocumentSample(corpus_dir, "train", 250)
    assert sample.num_bytes_read == 1000
    assert [int(t) for t in sample.texts()] == list(range(3, 100, 4))
    assert (sample.num_documents_kept, sample.num_bytes_kept) == (25, 250)


def test_memory_error_names_the_sample_that_fits() -> None:
    needed = training.estimated_memory_bytes(500_000_000)
    training.check_memory(500_000_000, needed)
    with pytest.raises(UserError, match=r"tokenizer-memory.*--set tokenizer") as caught:
        training.check_memory(500_000_000, needed // 2)
    fitting = int(caught.value.fix.split("=")[1])
    training.check_memory(fitting, needed // 2)


def test_text_without_spaces_needs_memory_by_its_length() -> None:
    """Each paragraph is one word, 1,000 characters long here."""
    rng = random.Random(0)
    texts = ["".join(chr(0x4E00 + rng.randrange(500)) for _ in range(1000)) for _ in range(20)]
    words = training.count_words(texts)
    num_bytes = sum(len(text.encode()) for text in texts)
    free = training.estimated_memory_bytes(num_bytes)  # that of words that occur again and again
    assert free < 3_000_000
    training.check_memory(num_bytes, free)
    with pytest.raises(UserError, match="tokenizer-memory") as caught:
        training.check_memory(num_bytes, free // 2, words)
    assert int(caught.value.fix.split("=")[1]) < num_bytes
    training.check_memory(num_bytes, 150 * 20_100, words)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_vocabulary_smaller_than_its_letters_is_one_line(kind: str) -> None:
    counts = Counter({" " + chr(0x4E00 + n): 5 for n in range(900)})
    settings = TokenizerSettings(vocab_size=512, model=kind, required_letters="äöü")  # type: ignore[arg-type]
    with pytest.raises(UserError) as error:
        training.train_model(counts, settings)
    assert error.value.code == "vocabulary-too-small"
    enough = int(error.value.fix.split("=")[1])
    if kind == "bpe":  # a unigram vocabulary needs more words than this text has
        assert training.train_model(counts, settings.model_copy(update={"vocab_size": enough}))
