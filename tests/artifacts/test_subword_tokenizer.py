"""Byte-level vocabularies have the ids of the `tokenizers` library and fixed special ids."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from teenytinyllama.artifacts.conversations import (
    CHAT_TEMPLATE,
    SPECIAL_IDS,
    SPECIAL_TOKENS,
    Message,
)
from teenytinyllama.artifacts.subword_tokenizer import byte_alphabet
from teenytinyllama.artifacts.tokenizer import TextEncoder, load_tokenizer
from teenytinyllama.artifacts.vocabulary import TokenKind, read_vocabulary
from teenytinyllama.errors import UserError

# White space of every kind, signs that rules disagree about, letters of several alphabets.
SIGNS = [
    *" \n\r\t\x0b\x0c\x1c\x1d\x85\xa0\u2028\u2029\u3000\u200b\ufeff\u180e.,'_\x00abç1²٣Ⅷ",
    *"汉😀\u0301\u0345ªǅ",
    *("  ", "\n\n", " \n ", "'s", "'T", " Lila", "raposa", *SPECIAL_TOKENS, "<0x41>"),
]


@pytest.fixture(scope="module")
def encoder(small_bytes_tokenizer_dir: Path) -> TextEncoder:
    return load_tokenizer(small_bytes_tokenizer_dir)


@pytest.fixture(scope="module")
def reference(small_bytes_tokenizer_dir: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(small_bytes_tokenizer_dir / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return tokenizer


def random_text(generator: random.Random) -> str:
    parts = []
    for _ in range(generator.randrange(14)):
        code = generator.randrange(generator.choice([0x80, 0x3000, 0x110000]))
        whole = generator.choice(SIGNS) if generator.random() < 0.8 else chr(code)
        parts.append("" if 0xD800 <= ord(whole[0]) <= 0xDFFF else whole)
    return "".join(parts)


def test_random_texts_have_the_ids_of_the_library(
    encoder: TextEncoder, reference: Tokenizer
) -> None:
    generator = random.Random(14)
    for _ in range(10_000):
        text = random_text(generator)
        ids = encoder.encode(text)
        assert ids == reference.encode(text, add_special_tokens=False).ids, ascii(text)
        assert encoder.decode(ids) == text, ascii(text)
        assert all(i >= len(SPECIAL_TOKENS) for i in ids), ascii(text)


def test_special_and_byte_tokens_have_fixed_ids(encoder: TextEncoder) -> None:
    tokens = encoder.tokens
    assert tokens[:7] == list(SPECIAL_TOKENS)
    assert tokens[7:263] == byte_alphabet()
    assert (len(tokens), encoder.vocab_size) == (640, 640)
    assert encoder.encode("\x00") == [7]
    assert not any(len(p) > 1 and set(p) & set("0123456789") for p in tokens[263:])
    assert "Ġa" in tokens  # a space belongs to the word after it


def test_no_space_is_put_before_a_text(encoder: TextEncoder) -> None:
    assert not encoder.adds_space
    assert encoder.decode(encoder.encode("Lila")) == "Lila"
    assert encoder.encode("Lila") != encoder.encode(" Lila")


def test_auto_tokenizer_has_the_same_roles_and_template(
    encoder: TextEncoder, small_bytes_tokenizer_dir: Path
) -> None:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(small_bytes_tokenizer_dir)
    assert (len(loaded), loaded.is_fast, loaded.chat_template) == (640, True, CHAT_TEMPLATE)
    ids = (loaded.unk_token_id, loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id)
    assert ids == (0, 1, 2, 3)
    assert loaded(" A raposa").input_ids == [1, *encoder.encode(" A raposa")]
    text = "um <s> e um <|user|>"
    plain = loaded(text, split_special_tokens=True, add_special_tokens=False).input_ids
    assert plain == encoder.encode(text)
    said: list[Message] = [
        {"role": "user", "content": " Oi,  tudo\nbem?"},
        {"role": "assistant", "content": "Sim! </s>"},
        {"role": "user", "content": "ação 123 😀"},
    ]
    by_template = loaded.apply_chat_template(said[:1], add_generation_prompt=True)
    assert encoder.render(said[:1], add_generation_prompt=True) == by_template["input_ids"]
    special = [i for i in encoder.render(said, add_generation_prompt=False) if i < 7]
    turn = [
        SPECIAL_IDS["<|user|>"],
        SPECIAL_IDS["</s>"],
        SPECIAL_IDS["<|assistant|>"],
        SPECIAL_IDS["</s>"],
    ]
    assert special == [
        SPECIAL_IDS["<s>"],
        *turn,
        *turn[:2],
    ]  # a written-out end mark ends nothing


def test_the_vocabulary_has_the_bytes_of_each_id(
    encoder: TextEncoder, small_bytes_tokenizer_dir: Path
) -> None:
    vocabulary = read_vocabulary(small_bytes_tokenizer_dir)
    assert (vocabulary.model, len(vocabulary.merges)) == ("byte-level", 640 - 263)
    assert {p.kind for p in vocabulary.tokens[:7]} == {TokenKind.CONTROL}
    as_bytes = vocabulary.as_bytes(641)
    assert (as_bytes[1], as_bytes[7 + 0xE7], as_bytes[640]) == (b"", b"\xe7", b"")
    text = "São 3 raposas 🦊\n"
    assert b"".join(as_bytes[i] for i in encoder.encode(text)).decode() == text


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"pre_tokenizer": {"type": "ByteLevel"}}, "has another pre-tokenizer"),
        ({"normalizer": {"type": "NFC"}}, "has a normalizer"),
        ({"model": {"type": "Nothing"}}, "not a byte-level tokenizer of ours"),
    ],
)
def test_a_foreign_or_damaged_file_is_an_error(
    change: dict[str, object], what: str, small_bytes_tokenizer_dir: Path, tmp_path: Path
) -> None:
    data = json.loads((small_bytes_tokenizer_dir / "tokenizer.json").read_bytes())
    changed = json.dumps({**data, **change, "note": "ByteLevel"})
    (tmp_path / "tokenizer.json").write_text(changed, encoding="utf-8")
    with pytest.raises(UserError, match="tokenizer-damaged") as caught:
        load_tokenizer(tmp_path)
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)


def test_byte_tokens_at_other_ids_are_refused(
    small_bytes_tokenizer_dir: Path, tmp_path: Path
) -> None:
    data = json.loads((small_bytes_tokenizer_dir / "tokenizer.json").read_bytes())
    ids = data["model"]["vocab"]
    ids["a"], ids["b"] = ids["b"], ids["a"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(UserError, match="byte tokens do not follow the special tokens"):
        load_tokenizer(tmp_path)


def test_equal_words_give_equal_bytes_in_any_process() -> None:
    code = (
        "from collections import Counter\n"
        "from teenytinyllama.stages.tokenizer.byte_level_bpe import train_byte_level\n"
        "words = Counter({f' {a}{b}{c}': 3 for a in 'abcde' for b in 'aeiou' for c in 'lmnrs'})\n"
        "import hashlib; made = train_byte_level(words, 330).to_str()\n"
        "print(hashlib.sha256(made.encode()).hexdigest())"
    )
    made = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(made) == 1
