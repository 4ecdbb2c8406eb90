"""Text to token ids and back: one fast, exact encoder for every stage that needs ids.

The ids are those of SentencePiece, or of the `tokenizers` library for a byte-level vocabulary.
They are found faster because text can be cut where no piece lies across (`formats.spelling`), and
a word met before is looked up instead of merged again.

Text is only text here: a literal `<s>` or `<|user|>` in a document is spelt in ordinary pieces,
never read as a special token. Special ids are added by `encode_document` and `render` alone.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from teenytinyllama.artifacts.conversations import IDS, ROLE_TOKENS, SPECIAL_TOKENS, Message
from teenytinyllama.artifacts.subword_tokenizer import MODEL_NAME, TOKENIZER_JSON, speller_of
from teenytinyllama.errors import UserError

NUM_SPECIAL_TOKENS = len(SPECIAL_TOKENS)
MAX_REMEMBERED_WORDS = 1_000_000  # about 200 MB
MAX_REMEMBERED_CHARACTERS = 64


class _Memo(dict[str, bytes]):
    """Words to the bytes of their ids; forgets everything when full, which changes no id."""

    def __init__(self, spell: Callable[[str], bytes]) -> None:
        super().__init__()
        self.spell = spell
        self.max_words = MAX_REMEMBERED_WORDS

    def __missing__(self, word: str) -> bytes:
        ids = self.spell(word)
        if len(word) <= MAX_REMEMBERED_CHARACTERS:
            if len(self) >= self.max_words:
                self.clear()
            self[word] = ids
        return ids


class TextEncoder:
    """Encodes text as the vocabulary's own library does, conversations as the chat template does.

    `model` is the content of `tokenizer.model`, or of a byte-level `tokenizer.json`.
    """

    bos_id, eos_id, pad_id = IDS["<s>"], IDS["</s>"], IDS["<pad>"]

    def __init__(self, model: bytes) -> None:
        self.fingerprint = hashlib.sha256(model).hexdigest()
        self._speller = speller_of(model)
        self.vocab_size = len(self._speller.pieces)
        self._memo = _Memo(self._spell)

    @property
    def adds_space(self) -> bool:
        """Whether a text's first word is spelt with a space that the text does not have."""
        return self._speller.adds_space

    @property
    def makeshift_ids(self) -> range:
        """Ids of pieces that are less than a character."""
        return self._speller.makeshift_ids

    def remember_at_most(self, num_words: int) -> None:
        """Bound the words looked up in place of being merged again: for who spells strangers' text.

        A million by default, which may take 200 MB.
        """
        self._memo.max_words = num_words

    def pieces(self) -> list[str]:
        """The vocabulary in the order of its ids."""
        return list(self._speller.pieces)

    def _spell(self, word: str) -> bytes:
        return array("I", self._speller.spell(word)).tobytes()

    def encode_bytes(self, text: str) -> bytes:
        """Ids of `text` as the bytes of unsigned 32-bit integers: for writing in bulk."""
        if not text:
            return b""
        return b"".join(map(self._memo.__getitem__, self._speller.words(text)))

    def encode_array(self, text: str) -> NDArray[np.uint32]:
        """Ids of `text`, no special ones among them; empty text has none."""
        return np.frombuffer(self.encode_bytes(text), np.uint32)

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, no special ones among them; empty text has none."""
        ids: list[int] = self.encode_array(text).tolist()
        return ids

    def encode_plainly(self, text: str) -> list[int]:
        """What the vocabulary's library answers, text in one piece: slow, the reference."""
        return self._speller.spell_plainly(text)

    def encode_document(self, text: str) -> list[int]:
        """BOS, the ids of `text`, EOS."""
        return [self.bos_id, *self.encode(text), self.eos_id]

    def decode(self, ids: Iterable[int]) -> str:
        """The text behind `ids`, special tokens left out: the inverse of all `encode...`.

        Ids beyond the vocabulary, which only pad a model's matrix, stand for nothing.
        """
        runs: list[list[int]] = [[]]
        for index in ids:
            if index < NUM_SPECIAL_TOKENS:
                runs.append([])
            elif index < self.vocab_size:
                runs[-1].append(int(index))
        return "".join(self._speller.text_of(run) for run in runs if run)

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


def tokenizer_file(folder: Path) -> Path:
    """The one file that a folder's tokenizer is made from; its hash is the tokenizer's.

    `tokenizer.model`, or `tokenizer.json` where that is a byte-level vocabulary on its own.
    """
    model, single = folder / MODEL_NAME, folder / TOKENIZER_JSON
    is_single = not model.is_file() and single.is_file() and b'"ByteLevel"' in single.read_bytes()
    return single if is_single else model


def load_tokenizer(tokenizer_dir: Path) -> TextEncoder:
    """The encoder of a tokenizer folder.

    Raises UserError where its file is missing, is no vocabulary of a kind that this package makes,
    or has other special tokens than `formats.conversations` names.
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
        if type(error).__name__ != "DecodeError":  # protobuf's, which has no public place
            raise
        raise _damaged(path, f"not a {kind}") from error
    found = encoder.pieces()[:NUM_SPECIAL_TOKENS]
    if found != list(SPECIAL_TOKENS):
        raise _damaged(path, f"its first pieces are {found}, expected {list(SPECIAL_TOKENS)}")
    return encoder


def _damaged(path: Path, what: str) -> UserError:
    return UserError("tokenizer-damaged", str(path), what, "run `ttl tokenizer RECIPE --redo`")
