"""What a tokenizer makes of a text (paper Table 1): tokens, and how many of them are makeshift."""

from __future__ import annotations

import json
import re
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

BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass
class Measure:
    """Totals over some text. Words are what stands between white space."""

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
        self.num_words += len(text.split())
        self.num_tokens += len(ids)
        makeshift = encoder.partial_character_ids
        self.num_byte_tokens += int(((ids >= makeshift.start) & (ids < makeshift.stop)).sum())
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


def measure_sources(documents: Iterable[Document], encoder: TextEncoder) -> dict[str, Any]:
    """Figures of all documents together (`all`) and of each source by name."""
    total, sources = Measure(), dict[str, Measure]()
    for document in documents:
        total.add(document.text, encoder)
        sources.setdefault(document.source, Measure()).add(document.text, encoder)
    return {
        "all": total.metrics(),
        "sources": {name: sources[name].metrics() for name in sorted(sources)},
    }


@dataclass(frozen=True)
class OtherTokenizer:
    """What Table 1 needs to know of a tokenizer. Special tokens are left out of its ids."""

    name: str
    vocab_size: int
    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]
    is_makeshift: Callable[[int], bool]
    unknown_ids: frozenset[int]


def open_tokenizer(name: str, path: Path) -> OtherTokenizer:
    """A tokenizer from a folder, a `tokenizer.json` or a SentencePiece `.model`.

    Raises UserError where there is none, or it cannot be read.
    """
    if path.is_dir():
        inside = [path / "tokenizer.json", path / "tokenizer.model"]
        path = next((file for file in inside if file.is_file()), inside[0])
    if not path.is_file():
        fix = "give a folder with tokenizer.json, or a .model file"
        raise UserError("measure-missing", "tokenizer.measure_against", f"{path} is not there", fix)
    try:
        return _from_model(name, path) if path.suffix == ".model" else _from_json(name, path)
    except Exception as error:  # both libraries raise plain Exception, whatever is wrong
        raise UserError(
            "measure-unreadable",
            "tokenizer.measure_against",
            f"{path} is no tokenizer ({str(error).splitlines()[0][:120]})",
            "give a folder with tokenizer.json, or a .model file",
        ) from error


def _from_model(name: str, path: Path) -> OtherTokenizer:
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    unknown = frozenset({model.unk_id()})
    return OtherTokenizer(
        name, model.vocab_size(), model.encode, model.decode, model.is_byte, unknown
    )


def _from_json(name: str, path: Path) -> OtherTokenizer:
    fast = Tokenizer.from_file(str(path))
    fast.encode_special_tokens = True
    fast.no_truncation()
    fast.no_padding()
    unknown = getattr(fast.model, "unk_token", None) or "<unk>"
    ids = frozenset(i for i in [fast.token_to_id(unknown)] if i is not None)
    of_bytes = "ByteLevel" in str(json.loads(fast.to_str()).get("decoder"))
    return OtherTokenizer(
        name,
        fast.get_vocab_size(),
        lambda text: list(fast.encode(text, add_special_tokens=False).ids),
        lambda ids: str(fast.decode(ids, skip_special_tokens=False)),
        lambda index: is_part_of_character(str(fast.id_to_token(index)), of_bytes=of_bytes),
        ids,
    )


def is_part_of_character(piece: str, *, of_bytes: bool) -> bool:
    """Whether a piece is a lone byte; in a byte-level vocabulary, one of several of a character.

    >>> is_part_of_character("<0x0A>", of_bytes=False), is_part_of_character("a", of_bytes=True)
    (True, False)
    """
    if of_bytes:
        return len(piece) == 1 and piece in byte_alphabet()[0x80:]
    return BYTE_PIECE.fullmatch(piece) is not None


def table_row(tokenizer: OtherTokenizer, text: str) -> dict[str, Any]:
    """One row of Table 1. Words are what stands between white space."""
    ids = tokenizer.encode(text)
    num_bytes_pieces = sum(map(tokenizer.is_makeshift, ids))
    return {
        "tokenizer": tokenizer.name,
        "vocab_size": tokenizer.vocab_size,
        "num_words": len(text.split()),
        "num_tokens": len(ids),
        "tokens_per_word": len(ids) / max(len(text.split()), 1),
        "bytes_per_token": len(text.encode("utf-8")) / max(len(ids), 1),
        "byte_fallback_fraction": num_bytes_pieces / max(len(ids), 1),
        "unknown_fraction": sum(i in tokenizer.unknown_ids for i in ids) / max(len(ids), 1),
        "is_lossless": tokenizer.decode(ids) == text,
    }


def read_text(path: Path) -> str:
    """The text to measure. Raises UserError where it cannot be read as UTF-8."""
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            "measure-text",
            "tokenizer.measure_text",
            f"{path} cannot be read ({error})",
            "give a UTF-8 text file",
        ) from error
