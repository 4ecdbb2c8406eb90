"""Tokens per word and bytes per token of our tokenizer and of any other (paper Table 1)."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import Tokenizer

from teenytinyllama.artifacts.conversations import SPECIAL_IDS, UNK
from teenytinyllama.artifacts.documents import Document
from teenytinyllama.artifacts.subword_tokenizer import byte_alphabet
from teenytinyllama.artifacts.tokenizer import TextEncoder
from teenytinyllama.errors import UserError
from teenytinyllama.languages.language_codes import characters_by_script
from teenytinyllama.languages.segmentation import count_words
from teenytinyllama.regular_files import check_regular

BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass
class EncodingTotals:
    """Totals over some text. Words are separated by white space, or found by ICU."""

    num_documents: int = 0
    num_bytes: int = 0
    num_words: int = 0
    num_tokens: int = 0
    num_byte_tokens: int = 0
    num_unknown_tokens: int = 0

    def add(self, text: str, encoder: TextEncoder) -> None:
        """Count one text."""
        ids = encoder.encode_array(text)
        self.num_documents += 1
        self.num_bytes += len(text.encode("utf-8"))
        self.num_words += count_words(text)
        self.num_tokens += len(ids)
        partial = encoder.partial_character_ids
        self.num_byte_tokens += int(((ids >= partial.start) & (ids < partial.stop)).sum())
        self.num_unknown_tokens += int((ids == SPECIAL_IDS[UNK]).sum())

    def metrics(self) -> dict[str, Any]:
        """The totals and their ratios, for a manifest."""
        tokens = max(self.num_tokens, 1)
        return {
            **asdict(self),
            "tokens_per_word": self.num_tokens / max(self.num_words, 1),
            "bytes_per_token": self.num_bytes / tokens,
            "byte_fallback_fraction": self.num_byte_tokens / tokens,
            "unknown_fraction": self.num_unknown_tokens / tokens,
        }


def metrics_by_source(documents: Iterable[Document], encoder: TextEncoder) -> dict[str, Any]:
    """Metrics of all documents (`all`), of each source by name, and of each script (`scripts`)."""
    total, sources = EncodingTotals(), dict[str, EncodingTotals]()
    characters = Counter[str]()
    for document in documents:
        characters.update(document.text)
        total.add(document.text, encoder)
        sources.setdefault(document.source, EncodingTotals()).add(document.text, encoder)
    return {
        "all": total.metrics(),
        "sources": {name: sources[name].metrics() for name in sorted(sources)},
        "scripts": coverage_by_script(characters, encoder),
    }


def coverage_by_script(characters: Counter[str], encoder: TextEncoder) -> dict[str, Any]:
    """How many characters of each Unicode script there are, and have no token of their own.

    The most frequent script comes first. A character without a token is encoded as its bytes, or as
    `<unk>`.
    """
    rows = {}
    for script, signs in characters_by_script(characters).items():
        total = sum(characters[sign] for sign in signs)
        without = sum(characters[sign] for sign in signs if _has_no_token(sign, encoder))
        rows[script] = {
            "num_characters": total,
            "num_without_token": without,
            "without_token_fraction": without / total,
        }
    return dict(sorted(rows.items(), key=lambda row: -row[1]["num_characters"]))


def _has_no_token(character: str, encoder: TextEncoder) -> bool:
    partial = encoder.partial_character_ids
    return any(id_ in partial or id_ == SPECIAL_IDS[UNK] for id_ in encoder.encode(character))


@dataclass(frozen=True)
class ComparedTokenizer:
    """Any tokenizer, as Table 1 needs it. Its ids include no special tokens."""

    name: str
    vocab_size: int
    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]
    is_partial_character: Callable[[int], bool]
    unknown_id: int | None


def open_tokenizer(name: str, path: Path) -> ComparedTokenizer:
    """A tokenizer from a folder, a `tokenizer.json` or a SentencePiece `.model`.

    Raises UserError if it is missing or unreadable.
    """
    if path.is_dir():
        inside = [path / "tokenizer.json", path / "tokenizer.model"]
        path = next((file for file in inside if file.is_file()), inside[0])
    setting, fix = (
        "tokenizer.measure_against",
        "give a folder with tokenizer.json, or a .model file",
    )
    if not path.is_file():
        raise UserError("measure-missing", setting, f"{path} does not exist", fix)
    try:
        return _from_model(name, path) if path.suffix == ".model" else _from_json(name, path)
    except Exception as error:  # both libraries raise plain Exception for any problem
        what = f"{path} is not a tokenizer ({str(error).splitlines()[0][:120]})"
        raise UserError("measure-unreadable", setting, what, fix) from error


def _from_model(name: str, path: Path) -> ComparedTokenizer:
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return ComparedTokenizer(
        name, model.vocab_size(), model.encode, model.decode, model.is_byte, model.unk_id()
    )


def _from_json(name: str, path: Path) -> ComparedTokenizer:
    fast = Tokenizer.from_file(str(path))
    fast.encode_special_tokens = True
    fast.no_truncation()
    fast.no_padding()
    is_byte_level = "ByteLevel" in str(json.loads(fast.to_str()).get("decoder"))
    return ComparedTokenizer(
        name,
        fast.get_vocab_size(),
        lambda text: list(fast.encode(text, add_special_tokens=False).ids),
        lambda ids: str(fast.decode(ids, skip_special_tokens=False)),
        lambda id_: is_part_of_character(str(fast.id_to_token(id_)), byte_level=is_byte_level),
        fast.token_to_id(getattr(fast.model, "unk_token", None) or "<unk>"),
    )


def is_part_of_character(token: str, *, byte_level: bool) -> bool:
    """Whether a token is one byte; in a byte-level vocabulary, one of several of a character.

    >>> is_part_of_character("<0x0A>", byte_level=False)
    True
    >>> is_part_of_character("a", byte_level=True)
    False
    """
    if byte_level:
        return len(token) == 1 and token in byte_alphabet()[0x80:]
    return BYTE_TOKEN.fullmatch(token) is not None


def table_1_row(tokenizer: ComparedTokenizer, text: str) -> dict[str, Any]:
    """One row of the paper's Table 1."""
    ids = tokenizer.encode(text)
    totals = EncodingTotals(
        num_documents=1,
        num_bytes=len(text.encode("utf-8")),
        num_words=count_words(text),
        num_tokens=len(ids),
        num_byte_tokens=sum(map(tokenizer.is_partial_character, ids)),
        num_unknown_tokens=sum(id_ == tokenizer.unknown_id for id_ in ids),
    )
    return {
        "tokenizer": tokenizer.name,
        "vocab_size": tokenizer.vocab_size,
        **totals.metrics(),
        "is_lossless": tokenizer.decode(ids) == text,
    }


def read_text(path: Path) -> str:
    """The text to measure. Raises UserError if it cannot be read as UTF-8."""
    try:
        check_regular(path)
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        what = f"{path} cannot be read ({error})"
        fix = "give a UTF-8 text file"
        raise UserError("measure-text", "tokenizer.measure_text", what, fix) from error
