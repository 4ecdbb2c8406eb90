"""The two kinds of subword tokenizer that the tokenizer stage trains, behind one protocol.

`SentencePieceTokenizer` (BPE or unigram with byte fallback) reads `tokenizer.model`;
`ByteLevelTokenizer` (BPE over bytes, the `tokenizers` library) reads `tokenizer.json`. Both split
text into words such that no token crosses a boundary: the ids of a word are then the same in any
context and can be cached.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, Protocol

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer

from teenytinyllama.artifacts.conversations import SPECIAL_TOKENS
from teenytinyllama.errors import UserError

MODEL_NAME = "tokenizer.model"
TOKENIZER_JSON = "tokenizer.json"
SPACE_MARK = "\u2581"  # SentencePiece writes a space so; text that holds it is encoded as bytes
FIRST_BYTE_ID = len(SPECIAL_TOKENS)  # the token of byte `b` has id FIRST_BYTE_ID + b, in both kinds

# A word with the spaces before it; with the newlines after it where no token starts inside them.
_AT_SPACES = re.compile(r" *[^ ]+| +")
_AT_SPACES_AND_NEWLINES = re.compile(r" +[^ \n]*\n*|[^ \n]+\n*|\n+")

# Pre-tokenization of byte-level text: Qwen2's rule (a digit alone, a word with one sign before it,
# signs with the newlines after them), which llama.cpp knows by this name.
PRE_TOKENIZER_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE_TOKENIZER_NAME = "qwen2"
PRE_TOKENIZER: dict[str, Any] = {
    "type": "Sequence",
    "pretokenizers": [
        {
            "type": "Split",
            "pattern": {"Regex": PRE_TOKENIZER_PATTERN},
            "behavior": "Isolated",
            "invert": False,
        },
        {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": False,
        },
    ],
}
# All that any Unicode version counts as white space, and signs near it: no split next to these.
_BLANK = (
    r"\s\x00-\x1f\x7f-\xa0\xad\u034f\u061c\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f"
    r"\u3000\ufeff"
)
# The pattern above always splits before a space that follows a sign, and after a newline that a
# sign follows. Text between two such places is one word here: its ids depend on nothing outside it.
_BYTE_LEVEL_WORDS = re.compile(
    rf"[{_BLANK}]*[^{_BLANK}]+(?:(?! |\n+[^{_BLANK}])[{_BLANK}]+[^{_BLANK}]+)*"
    rf"(?:\n+(?=[^{_BLANK}])|(?! )[{_BLANK}]+\Z)?|[{_BLANK}]+"
)


class SubwordTokenizer(Protocol):
    """One vocabulary: what `TextEncoder` needs of it."""

    tokens: list[str]
    """The vocabulary in the order of its ids, as its file writes it."""
    adds_space: bool
    """Whether a space is put before a text's first word."""
    partial_character_ids: range
    """Ids of tokens that are less than a character."""

    def split_words(self, text: str) -> list[Any]:
        """The text in parts whose ids do not depend on each other."""

    def encode_word(self, word: str) -> list[int]:
        """Ids of one such part."""

    def encode_with_library(self, text: str) -> list[int]:
        """What the library returns for the whole text: the reference."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, with no special ones among them."""


class SentencePieceTokenizer:
    """A SentencePiece vocabulary. Invalid bytes raise the errors of SentencePiece."""

    adds_space = True
    partial_character_ids = range(FIRST_BYTE_ID, FIRST_BYTE_ID + 256)

    def __init__(self, model: bytes) -> None:
        proto = sentencepiece_model_pb2.ModelProto.FromString(model)
        self._whole = sentencepiece.SentencePieceProcessor(model_proto=model)
        # We add the space before the first word: once per text, not once per word.
        proto.normalizer_spec.add_dummy_prefix = False
        self._words = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
        size = self._words.vocab_size()
        self.tokens: list[str] = [self._words.id_to_piece(index) for index in range(size)]
        self._mark_bytes = [
            self._words.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_MARK.encode()
        ]
        self._find_words = _word_splitter(piece.piece for piece in proto.pieces if piece.type == 1)

    def split_words(self, text: str) -> list[Any]:
        """The text, a space before it, split before every run of spaces."""
        return self._find_words(" " + text)

    def encode_word(self, word: str) -> list[int]:
        """Ids of a word. A literal space mark becomes bytes: SentencePiece reads it as a space."""
        first, *rest = word.split(SPACE_MARK)
        ids: list[int] = self._words.encode(first)
        for part in rest:
            ids += self._mark_bytes + self._words.encode(part)
        return ids

    def encode_with_library(self, text: str) -> list[int]:
        """What SentencePiece returns for the whole text."""
        ids: list[int] = self._whole.encode(text)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without the space before its first word."""
        return str(self._whole.decode(list(ids)))


class ByteLevelTokenizer:
    """A byte-level BPE in the form of the `tokenizers` library, as the tokenizer stage writes it.

    Raises ValueError for any other file: other rules of pre-tokenization would give other ids.
    """

    adds_space = False
    partial_character_ids = range(FIRST_BYTE_ID + 0x80, FIRST_BYTE_ID + 0x100)

    def __init__(self, model: bytes) -> None:
        settings = json.loads(model)
        if not isinstance(settings, dict) or settings.get("normalizer") is not None:
            raise ValueError("has a normalizer, expected none")
        if settings.get("pre_tokenizer") != PRE_TOKENIZER:
            raise ValueError("has another pre-tokenizer than this package writes")
        try:
            self._tokenizer = Tokenizer.from_str(model.decode("utf-8"))
        except Exception as error:  # the library raises plain Exception
            raise ValueError(str(error).splitlines()[0][:160]) from error
        self._tokenizer.encode_special_tokens = True  # text stays text
        size = self._tokenizer.get_vocab_size()
        self.tokens: list[str] = [str(self._tokenizer.id_to_token(i)) for i in range(size)]
        if self.tokens[FIRST_BYTE_ID : FIRST_BYTE_ID + 256] != byte_alphabet():
            raise ValueError("its byte tokens do not follow the special tokens")
        self._bytes = [b""] * FIRST_BYTE_ID + [
            token_bytes(token) for token in self.tokens[FIRST_BYTE_ID:]
        ]

    def split_words(self, text: str) -> list[Any]:
        """The text split where the pre-tokenizer always splits."""
        return _BYTE_LEVEL_WORDS.findall(text)

    def encode_word(self, word: str) -> list[int]:
        """Ids of a word."""
        ids: list[int] = self._tokenizer.encode(word, add_special_tokens=False).ids
        return ids

    def encode_with_library(self, text: str) -> list[int]:
        """What the `tokenizers` library returns for the whole text."""
        return self.encode_word(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; bytes that are not UTF-8 become U+FFFD."""
        return b"".join(map(self._bytes.__getitem__, ids)).decode("utf-8", "replace")


def load_subword_tokenizer(model: bytes) -> SubwordTokenizer:
    """The tokenizer in the bytes of a `tokenizer.model` or a `tokenizer.json`."""
    # A SentencePiece model never begins with a brace, our JSON always does.
    return ByteLevelTokenizer(model) if model.startswith(b"{") else SentencePieceTokenizer(model)


@cache
def byte_alphabet() -> list[str]:
    r"""The character that byte-level vocabularies write for each byte (GPT-2's table).

    >>> [byte_alphabet()[byte] for byte in b" a\n"], len(set(byte_alphabet()))
    (['Ġ', 'a', 'Ċ'], 256)
    """
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


@cache
def _byte_of_letter() -> dict[str, int]:
    return {letter: byte for byte, letter in enumerate(byte_alphabet())}


def token_bytes(token: str) -> bytes:
    """The bytes behind a token of a byte-level vocabulary.

    >>> token_bytes("ĠpÃ£o").decode()
    ' pão'
    """
    return bytes(map(_byte_of_letter().__getitem__, token))


def _word_splitter(pieces: Iterable[str]) -> Callable[[str], list[Any]]:
    """How to split text into words such that no SentencePiece token crosses a boundary."""
    newlines_end_tokens = True
    for piece in pieces:
        body = piece.lstrip(SPACE_MARK)
        if SPACE_MARK in body:
            raise UserError(
                "tokenizer-crosses-spaces",
                MODEL_NAME,
                f"its token {piece!r} has a space after another character",
                "train it with split_by_whitespace (the default)",
            )
        if "\n" in piece.rstrip("\n"):
            newlines_end_tokens = False
    return (_AT_SPACES_AND_NEWLINES if newlines_end_tokens else _AT_SPACES).findall
