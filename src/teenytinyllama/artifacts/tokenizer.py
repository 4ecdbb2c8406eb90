"""Text to token ids and back: one fast, exact encoder for every stage that needs ids.

The ids are those of SentencePiece, or of the `tokenizers` library for a byte-level vocabulary.
They are found faster because text is split where no token crosses (`subword_tokenizer`) and the
ids of each word are cached.

Text is only text here: a literal `<s>` or `<|user|>` in a document is encoded in ordinary tokens,
never read as a special token. Only `encode_document` and `render` add special ids.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from teenytinyllama.artifacts.conversations import (
    ROLE_TOKENS,
    SPECIAL_IDS,
    SPECIAL_TOKENS,
    Message,
)
from teenytinyllama.artifacts.subword_tokenizer import (
    MODEL_NAME,
    TOKENIZER_JSON,
    load_subword_tokenizer,
)
from teenytinyllama.errors import UserError

NUM_SPECIAL_TOKENS = len(SPECIAL_TOKENS)
MAX_CACHED_WORDS = 1_000_000  # about 200 MB
MAX_CACHED_CHARACTERS = 64


class _WordCache(dict[str, bytes]):
    """Words to the bytes of their ids; emptied when full, which changes no id."""

    def __init__(self, encode: Callable[[str], bytes]) -> None:
        super().__init__()
        self.encode = encode
        self.max_words = MAX_CACHED_WORDS

    def __missing__(self, word: str) -> bytes:
        ids = self.encode(word)
        if len(word) <= MAX_CACHED_CHARACTERS:
            if len(self) >= self.max_words:
                self.clear()
            self[word] = ids
        return ids


class TextEncoder:
    """Encodes text as the vocabulary's own library does, conversations as the chat template does.

    `model` is the content of `tokenizer.model`, or of a byte-level `tokenizer.json`.
    """

    bos_id, eos_id, pad_id = (
        SPECIAL_IDS["<s>"],
        SPECIAL_IDS["</s>"],
        SPECIAL_IDS["<pad>"],
    )

    def __init__(self, model: bytes) -> None:
        self.fingerprint = hashlib.sha256(model).hexdigest()
        self._tokenizer = load_subword_tokenizer(model)
        self.vocab_size = len(self._tokenizer.tokens)
        self._cache = _WordCache(self._encode_word)

    @property
    def adds_space(self) -> bool:
        """Whether a space is put before a text's first word."""
        return self._tokenizer.adds_space

    @property
    def partial_character_ids(self) -> range:
        """Ids of tokens that are less than a character."""
        return self._tokenizer.partial_character_ids

    def limit_cache(self, num_words: int) -> None:
        """Bound the word cache, a million words (200 MB) by default: for text from strangers."""
        self._cache.max_words = num_words

    @property
    def tokens(self) -> list[str]:
        """The vocabulary in the order of its ids."""
        return list(self._tokenizer.tokens)

    def _encode_word(self, word: str) -> bytes:
        return array("I", self._tokenizer.encode_word(word)).tobytes()

    def encode_bytes(self, text: str) -> bytes:
        """Ids of `text` as the bytes of unsigned 32-bit integers, for writing in bulk."""
        if not text:
            return b""
        return b"".join(map(self._cache.__getitem__, self._tokenizer.split_words(text)))

    def encode_array(self, text: str) -> NDArray[np.uint32]:
        """Ids of `text` without special tokens; empty text has none."""
        return np.frombuffer(self.encode_bytes(text), np.uint32)

    def encode(self, text: str) -> list[int]:
        """Ids of `text` without special tokens; empty text has none."""
        ids: list[int] = self.encode_array(text).tolist()
        return ids

    def encode_with_library(self, text: str) -> list[int]:
        """What the tokenizer's library returns for the whole text: slow, the reference."""
        return self._tokenizer.encode_with_library(text)

    def encode_document(self, text: str) -> list[int]:
        """BOS, the ids of `text`, EOS."""
        return [self.bos_id, *self.encode(text), self.eos_id]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, special tokens left out: the inverse of all `encode...`.

        Ids beyond the vocabulary, which only pad a model's matrix, are ignored.
        """
        runs: list[list[int]] = [[]]
        for index in ids:
            if index < NUM_SPECIAL_TOKENS:
                runs.append([])
            elif index < self.vocab_size:
                runs[-1].append(int(index))
        return "".join(self._tokenizer.decode(run) for run in runs if run)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> list[int]:
        """Ids of a conversation, as the chat template lays it out.

        With `add_generation_prompt` the assistant's role token follows.
        """
        ids, _ = self.render_with_mask(messages)
        return [*ids, SPECIAL_IDS[ROLE_TOKENS["assistant"]]] if add_generation_prompt else ids

    def render_with_mask(self, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        """Ids of a conversation and its loss mask: 1 for ids that are trained on.

        Those are the assistant's text and the end mark after it, without answers of weight 0.
        Content is encoded as text, so nothing in it can begin or end a message.
        """
        ids, mask = [self.bos_id], [0]
        for message in messages:
            if message["role"] not in ROLE_TOKENS:
                raise ValueError(f"unknown role {message['role']!r}")
            words = [*self.encode(message["content"]), self.eos_id]
            ids += [SPECIAL_IDS[ROLE_TOKENS[message["role"]]], *words]
            is_learnt = message["role"] == "assistant" and message.get("weight", 1) != 0
            mask += [0] + [int(is_learnt)] * len(words)
        return ids, mask


def tokenizer_file(folder: Path) -> Path:
    """The file that holds a folder's vocabulary, whose hash identifies the tokenizer.

    `tokenizer.model`, or `tokenizer.json` where there is only a byte-level vocabulary.
    """
    model, single = folder / MODEL_NAME, folder / TOKENIZER_JSON
    is_single = not model.is_file() and single.is_file() and b'"ByteLevel"' in single.read_bytes()
    return single if is_single else model


def load_tokenizer(tokenizer_dir: Path) -> TextEncoder:
    """The encoder of a tokenizer folder.

    Raises UserError where its file is missing, is not of a kind that this package makes, or has
    other special tokens than `artifacts.conversations`.
    """
    path = tokenizer_file(tokenizer_dir)
    kind = "SentencePiece model" if path.name == MODEL_NAME else "byte-level tokenizer of ours"
    fix = "run `ttl tokenizer RECIPE --redo`"
    try:
        model = path.read_bytes()
    except OSError as error:
        raise UserError(
            "tokenizer-missing", str(path), f"cannot be read ({error.strerror})", fix
        ) from error
    if path.name == MODEL_NAME and model.startswith(b"{"):
        raise _damaged(path, f"not a {kind}")
    try:
        encoder = TextEncoder(model)
    except (RuntimeError, OSError) as error:
        raise _damaged(path, f"not a {kind}") from error
    except ValueError as error:
        what = f"not a {kind}" + (f": {error}" if path.name == TOKENIZER_JSON else "")
        raise _damaged(path, what) from error
    except Exception as error:
        if type(error).__name__ != "DecodeError":  # protobuf's, which has no public name
            raise
        raise _damaged(path, f"not a {kind}") from error
    found = encoder.tokens[:NUM_SPECIAL_TOKENS]
    if found != list(SPECIAL_TOKENS):
        raise _damaged(path, f"its first tokens are {found}, expected {list(SPECIAL_TOKENS)}")
    return encoder


def _damaged(path: Path, what: str) -> UserError:
    return UserError("tokenizer-damaged", str(path), what, "run `ttl tokenizer RECIPE --redo`")
