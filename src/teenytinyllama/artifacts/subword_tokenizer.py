"""Words to ids and ids to text, for the two kinds of vocabulary that the tokenizer stage makes.

`SentencePieces` (BPE or unigram, bytes for what has no piece) reads `tokenizer.model`;
`ByteLevelPieces` (BPE over bytes, the `tokenizers` library) reads `tokenizer.json`. Both say how a
text may be cut into words such that no piece lies across a cut: a word's ids are then the same
wherever it stands, and can be remembered.
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
SPACE_MARK = "\u2581"  # SentencePiece's sign for a space; text that holds it is spelt in bytes
FIRST_BYTE_ID = len(SPECIAL_TOKENS)  # the piece of byte `b` has id FIRST_BYTE_ID + b, in both kinds

# A word with the spaces before it; with the line ends after it where no piece starts inside them.
_AT_SPACES = re.compile(r" *[^ ]+| +")
_AT_SPACES_AND_LINES = re.compile(r" +[^ \n]*\n*|[^ \n]+\n*|\n+")

# How byte-level text is cut before pieces are joined: Qwen2's rule (a digit alone, a word with one
# sign before it, signs with the line ends after them), which llama.cpp knows by this name.
BYTE_LEVEL_CUTS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTE_LEVEL_CUTS_NAME = "qwen2"
BYTE_LEVEL_PRE_TOKENIZER: dict[str, Any] = {
    "type": "Sequence",
    "pretokenizers": [
        {
            "type": "Split",
            "pattern": {"Regex": BYTE_LEVEL_CUTS},
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
# Whatever any Unicode version takes for white space, and signs near it: no cut beside these.
_BLANK = (
    r"\s\x00-\x1f\x7f-\xa0\xad\u034f\u061c\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f"
    r"\u3000\ufeff"
)
# Those rules always cut before a space that follows a sign, and after a line end that a sign
# follows; between two such places a text is one word here, and its ids need nothing outside it.
_BYTE_LEVEL_WORDS = re.compile(
    rf"[{_BLANK}]*[^{_BLANK}]+(?:(?! |\n+[^{_BLANK}])[{_BLANK}]+[^{_BLANK}]+)*"
    rf"(?:\n+(?=[^{_BLANK}])|(?! )[{_BLANK}]+\Z)?|[{_BLANK}]+"
)


class Speller(Protocol):
    """One vocabulary: what `TextEncoder` needs to know of it."""

    pieces: list[str]
    """The vocabulary in the order of its ids, as its file writes it."""
    adds_space: bool
    """Whether a text's first word is spelt with a space that the text does not have."""
    makeshift_ids: range
    """Ids of pieces that are less than a character."""

    def words(self, text: str) -> list[Any]:
        """The text in parts whose ids do not depend on each other."""

    def spell(self, word: str) -> list[int]:
        """Ids of one such part."""

    def spell_plainly(self, text: str) -> list[int]:
        """What the library answers on the whole text: the reference."""

    def text_of(self, ids: Sequence[int]) -> str:
        """The text behind ids, no special ones among them."""


class SentencePieces:
    """A SentencePiece vocabulary. Raises what SentencePiece raises for bytes that are none."""

    adds_space = True
    makeshift_ids = range(FIRST_BYTE_ID, FIRST_BYTE_ID + 256)

    def __init__(self, model: bytes) -> None:
        proto = sentencepiece_model_pb2.ModelProto.FromString(model)
        self._whole = sentencepiece.SentencePieceProcessor(model_proto=model)
        # The space before the first word is added by us, once per text, not once per word.
        proto.normalizer_spec.add_dummy_prefix = False
        self._words = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
        size = self._words.vocab_size()
        self.pieces: list[str] = [self._words.id_to_piece(index) for index in range(size)]
        self._mark_bytes = [
            self._words.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_MARK.encode()
        ]
        self._find_words = _cuts(piece.piece for piece in proto.pieces if piece.type == 1)

    def words(self, text: str) -> list[Any]:
        """The text, a space before it, cut before every run of spaces."""
        return self._find_words(" " + text)

    def spell(self, word: str) -> list[int]:
        """Ids of a word; SentencePiece's own space mark, which it cannot tell, as bytes."""
        first, *rest = word.split(SPACE_MARK)
        ids: list[int] = self._words.encode(first)
        for part in rest:
            ids += self._mark_bytes + self._words.encode(part)
        return ids

    def spell_plainly(self, text: str) -> list[int]:
        """What SentencePiece itself answers, text in one piece."""
        ids: list[int] = self._whole.encode(text)
        return ids

    def text_of(self, ids: Sequence[int]) -> str:
        """The text behind ids, without the space before its first word."""
        return str(self._whole.decode(list(ids)))


class ByteLevelPieces:
    """A byte-level BPE in the form of the `tokenizers` library, as the tokenizer stage writes it.

    Raises ValueError for another kind of file: what is cut and joined by other rules would come
    out as other ids.
    """

    adds_space = False
    makeshift_ids = range(FIRST_BYTE_ID + 0x80, FIRST_BYTE_ID + 0x100)

    def __init__(self, model: bytes) -> None:
        settings = json.loads(model)
        if not isinstance(settings, dict) or settings.get("normalizer") is not None:
            raise ValueError("has a normalizer, expected none")
        if settings.get("pre_tokenizer") != BYTE_LEVEL_PRE_TOKENIZER:
            raise ValueError("cuts text by other rules than this package writes")
        try:
            self._tokenizer = Tokenizer.from_str(model.decode("utf-8"))
        except Exception as error:  # the library raises plain Exception
            raise ValueError(str(error).splitlines()[0][:160]) from error
        self._tokenizer.encode_special_tokens = True  # text stays text
        size = self._tokenizer.get_vocab_size()
        self.pieces: list[str] = [str(self._tokenizer.id_to_token(i)) for i in range(size)]
        alphabet = byte_alphabet()
        if self.pieces[FIRST_BYTE_ID : FIRST_BYTE_ID + 256] != alphabet:
            raise ValueError("its byte pieces do not follow the special tokens")
        self._bytes = [b""] * FIRST_BYTE_ID + [
            bytes_of_piece(piece) for piece in self.pieces[FIRST_BYTE_ID:]
        ]

    def words(self, text: str) -> list[Any]:
        """The text cut where the rules above always cut."""
        return _BYTE_LEVEL_WORDS.findall(text)

    def spell(self, word: str) -> list[int]:
        """Ids of a word."""
        ids: list[int] = self._tokenizer.encode(word, add_special_tokens=False).ids
        return ids

    def spell_plainly(self, text: str) -> list[int]:
        """What the `tokenizers` library answers, text in one piece."""
        return self.spell(text)

    def text_of(self, ids: Sequence[int]) -> str:
        """The text behind ids; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(map(self._bytes.__getitem__, ids)).decode("utf-8", "replace")


def speller_of(model: bytes) -> Speller:
    """The vocabulary behind the bytes of a `tokenizer.model` or a `tokenizer.json`."""
    # A SentencePiece model never begins with a brace, JSON of ours always does.
    return ByteLevelPieces(model) if model.startswith(b"{") else SentencePieces(model)


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


def bytes_of_piece(piece: str) -> bytes:
    """The bytes that a piece of a byte-level vocabulary stands for.

    >>> bytes_of_piece("ĠpÃ£o").decode()
    ' pão'
    """
    return bytes(map(_byte_of_letter().__getitem__, piece))


def _cuts(pieces: Iterable[str]) -> Callable[[str], list[Any]]:
    """How to cut text into words such that no SentencePiece piece lies across a cut."""
    line_ends_close_pieces = True
    for piece in pieces:
        body = piece.lstrip(SPACE_MARK)
        if SPACE_MARK in body:
            raise UserError(
                "tokenizer-crosses-spaces",
                MODEL_NAME,
                f"its piece {piece!r} has a space after another character",
                "train it with split_by_whitespace (the default)",
            )
        if "\n" in piece.rstrip("\n"):
            line_ends_close_pieces = False
    return (_AT_SPACES_AND_LINES if line_ends_close_pieces else _AT_SPACES).findall
