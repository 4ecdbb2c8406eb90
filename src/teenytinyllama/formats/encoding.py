"""Text to token ids and back: one fast, exact encoder for every room that needs ids.

The ids are SentencePiece's. They are found faster because no piece of our vocabularies has a
space after another character: text can be cut before every run of spaces, and a word met before
is looked up instead of merged again. That this holds is checked against the vocabulary on
loading, not assumed.

Text is only text here: a literal `<s>` or `<|user|>` in a document is spelt in ordinary pieces,
never read as a special token. Special ids are added by `encode_document` and `render` alone.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from numpy.typing import NDArray
from sentencepiece import sentencepiece_model_pb2

from teenytinyllama.errors import UserError
from teenytinyllama.formats.conversations import IDS, ROLE_TOKENS, SPECIAL_TOKENS, Message

MODEL_NAME = "tokenizer.model"
SPACE_MARK = "\u2581"  # SentencePiece's sign for a space; text that holds it is spelt in bytes
NUM_SPECIAL_TOKENS = len(SPECIAL_TOKENS)
MAX_REMEMBERED_WORDS = 1_000_000  # about 200 MB
MAX_REMEMBERED_CHARACTERS = 64

# A word with the spaces before it; with the line ends after it where no piece starts inside them.
_AT_SPACES = re.compile(r" *[^ ]+| +")
_AT_SPACES_AND_LINES = re.compile(r" +[^ \n]*\n*|[^ \n]+\n*|\n+")


class _Memo(dict[str, bytes]):
    """Words to the bytes of their ids; forgets everything when full, which changes no id."""

    def __init__(self, spell: Callable[[str], bytes]) -> None:
        super().__init__()
        self.spell = spell

    def __missing__(self, word: str) -> bytes:
        ids = self.spell(word)
        if len(word) <= MAX_REMEMBERED_CHARACTERS:
            if len(self) >= MAX_REMEMBERED_WORDS:
                self.clear()
            self[word] = ids
        return ids


class TextEncoder:
    """Encodes text as SentencePiece does, conversations as the chat template does."""

    bos_id, eos_id, pad_id = IDS["<s>"], IDS["</s>"], IDS["<pad>"]

    def __init__(self, model: bytes) -> None:
        proto = sentencepiece_model_pb2.ModelProto.FromString(model)
        self.fingerprint = hashlib.sha256(model).hexdigest()
        self._decoder = sentencepiece.SentencePieceProcessor(model_proto=model)
        # The space before the first word is added by us, once per text, not once per word.
        proto.normalizer_spec.add_dummy_prefix = False
        self._words = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
        self.vocab_size: int = self._words.vocab_size()
        self._mark_bytes = [
            self._words.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_MARK.encode()
        ]
        self._find_words = _cuts([piece.piece for piece in proto.pieces if piece.type == 1])
        self._memo = _Memo(self._spell)

    def pieces(self) -> list[str]:
        """The vocabulary in the order of its ids."""
        return [self._words.id_to_piece(index) for index in range(self.vocab_size)]

    def _spell(self, word: str) -> bytes:
        ids = self._words.encode(word) if SPACE_MARK not in word else self._spell_marks(word)
        return array("I", ids).tobytes()

    def _spell_marks(self, word: str) -> list[int]:
        """Ids of a word that holds SentencePiece's space mark itself, which is then bytes."""
        first, *rest = word.split(SPACE_MARK)
        ids: list[int] = self._words.encode(first)
        for part in rest:
            ids += self._mark_bytes + self._words.encode(part)
        return ids

    def encode_bytes(self, text: str) -> bytes:
        """Ids of `text` as the bytes of unsigned 32-bit integers: for writing in bulk."""
        if not text:
            return b""
        return b"".join(map(self._memo.__getitem__, self._find_words(" " + text)))

    def encode_array(self, text: str) -> NDArray[np.uint32]:
        """Ids of `text`, no special ones among them; empty text has none."""
        return np.frombuffer(self.encode_bytes(text), np.uint32)

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, no special ones among them; empty text has none."""
        ids: list[int] = self.encode_array(text).tolist()
        return ids

    def encode_plainly(self, text: str) -> list[int]:
        """What SentencePiece itself answers, text in one piece: slow, the reference."""
        ids: list[int] = self._decoder.encode(text)
        return ids

    def encode_document(self, text: str) -> list[int]:
        """BOS, the ids of `text`, EOS."""
        return [self.bos_id, *self.encode(text), self.eos_id]

    def decode(self, ids: Iterable[int]) -> str:
        """The text behind `ids`, special tokens left out: the inverse of all `encode...`."""
        runs: list[list[int]] = [[]]
        for index in ids:
            if index < NUM_SPECIAL_TOKENS:
                runs.append([])
            else:
                runs[-1].append(int(index))
        return "".join(self._decoder.decode(run) for run in runs if run)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> list[int]:
        """Ids of a conversation, as the chat template lays it out.

        With `add_generation_prompt` the assistant's role token follows: its turn to speak.
        """
        ids, _ = self.render_with_mask(messages)
        return [*ids, IDS[ROLE_TOKENS["assistant"]]] if add_generation_prompt else ids

    def render_with_mask(self, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        """Ids of a conversation and, for each, 1 where it is learnt.

        Learnt are the assistant's words and the end mark after them. Content is encoded as text,
        so no word in it can open or close a turn.
        """
        ids, mask = [self.bos_id], [0]
        for message in messages:
            if message["role"] not in ROLE_TOKENS:
                raise ValueError(f"unknown role {message['role']!r}")
            words = [*self.encode(message["content"]), self.eos_id]
            ids += [IDS[ROLE_TOKENS[message["role"]]], *words]
            mask += [0] + [int(message["role"] == "assistant")] * len(words)
        return ids, mask


def _cuts(pieces: Iterable[str]) -> Callable[[str], list[Any]]:
    """How to cut text into words such that no piece of the vocabulary lies across a cut."""
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


def load_tokenizer(tokenizer_dir: Path) -> TextEncoder:
    """The encoder of a tokenizer folder.

    Raises UserError where `tokenizer.model` is missing, is no SentencePiece model, or has other
    special tokens than `formats.conversations` names.
    """
    path = tokenizer_dir / MODEL_NAME
    fix = "run `ttl tokenizer RECIPE --redo`"
    try:
        model = path.read_bytes()
    except OSError as error:
        raise UserError(
            "tokenizer-missing", str(path), f"cannot be read ({error.strerror})", fix
        ) from error
    try:
        encoder = TextEncoder(model)
    except (RuntimeError, ValueError, OSError) as error:
        raise _damaged(path, "not a SentencePiece model") from error
    except Exception as error:
        if type(error).__name__ != "DecodeError":  # protobuf's, which has no public place
            raise
        raise _damaged(path, "not a SentencePiece model") from error
    found = encoder.pieces()[:NUM_SPECIAL_TOKENS]
    if found != list(SPECIAL_TOKENS):
        raise _damaged(path, f"its first pieces are {found}, expected {list(SPECIAL_TOKENS)}")
    return encoder


def _damaged(path: Path, what: str) -> UserError:
    return UserError("tokenizer-damaged", str(path), what, "run `ttl tokenizer RECIPE --redo`")
