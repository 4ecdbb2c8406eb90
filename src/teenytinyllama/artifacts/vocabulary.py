"""The tokens of a vocabulary as its file has them: text, score and kind.

Export to other formats needs the exact scores (a wrong one silently changes the encoding of text);
streaming needs the bytes of each id.
"""

from __future__ import annotations

import json
from enum import IntEnum
from pathlib import Path
from typing import Literal, NamedTuple

from sentencepiece import sentencepiece_model_pb2

from teenytinyllama.artifacts.subword_tokenizer import MODEL_NAME, SPACE_MARK, token_bytes
from teenytinyllama.artifacts.tokenizer import NUM_SPECIAL_TOKENS, load_tokenizer, tokenizer_file
from teenytinyllama.errors import UserError

BPE_MODEL = 2  # TrainerSpec.ModelType


class TokenKind(IntEnum):
    """Kinds of token; SentencePiece and GGUF use the same numbers."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Token(NamedTuple):
    """One entry of the vocabulary; its position in the list is its id."""

    text: str
    score: float
    kind: TokenKind

    def as_bytes(self) -> bytes:
        r"""Its bytes; control tokens have none.

        >>> Token("▁sol", -1.0, TokenKind.NORMAL).as_bytes()
        b' sol'
        >>> Token("<0xC3>", 0.0, TokenKind.BYTE).as_bytes()
        b'\xc3'
        """
        if self.kind == TokenKind.BYTE:
            return bytes([int(self.text[3:5], 16)])
        if self.kind in (TokenKind.NORMAL, TokenKind.USER_DEFINED):
            return self.text.replace(SPACE_MARK, " ").encode("utf-8")
        return b""


class Vocabulary(NamedTuple):
    """All tokens, and how text is merged into them.

    `bpe` merges by score, `unigram` chooses by probability, `byte-level` merges in the order of
    `merges`, each written as the two tokens with a space between.
    """

    tokens: tuple[Token, ...]
    model: Literal["bpe", "unigram", "byte-level"]
    merges: tuple[str, ...] = ()

    def as_bytes(self, vocab_size: int) -> list[bytes]:
        """The bytes of each id; ids that only pad the model's matrix have none."""
        if self.model == "byte-level":
            known = [
                token_bytes(t.text) if t.kind == TokenKind.NORMAL else b"" for t in self.tokens
            ]
        else:
            known = [token.as_bytes() for token in self.tokens]
        return known + [b""] * (vocab_size - len(known))


def read_vocabulary(tokenizer_dir: Path) -> Vocabulary:
    """The vocabulary of a tokenizer folder. Raises UserError where it is missing or damaged."""
    encoder = load_tokenizer(tokenizer_dir)  # raises UserError where it is damaged
    path = tokenizer_file(tokenizer_dir)
    if path.name != MODEL_NAME:
        merges = json.loads(path.read_bytes())["model"]["merges"]
        special, normal = encoder.tokens[:NUM_SPECIAL_TOKENS], encoder.tokens[NUM_SPECIAL_TOKENS:]
        entries = [Token(text, 0.0, TokenKind.CONTROL) for text in special]
        entries += [Token(text, 0.0, TokenKind.NORMAL) for text in normal]
        return Vocabulary(tuple(entries), "byte-level", tuple(map(" ".join, merges)))
    proto = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())
    tokens = tuple(Token(p.piece, p.score, TokenKind(p.type)) for p in proto.pieces)
    is_bpe = proto.trainer_spec.model_type == BPE_MODEL
    return Vocabulary(tokens, "bpe" if is_bpe else "unigram")


def check_fits(vocabulary: Vocabulary, vocab_size: int, where: Path) -> None:
    """Raise UserError where a model's embedding has fewer rows than the vocabulary has tokens."""
    if len(vocabulary.tokens) > vocab_size:
        raise UserError(
            "tokenizer-other-model",
            str(where),
            f"the tokenizer has {len(vocabulary.tokens):,} tokens, the model {vocab_size:,} ids",
            "use the tokenizer that the model was trained with",
        )
