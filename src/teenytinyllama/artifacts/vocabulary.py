"""The pieces of a vocabulary as they stand in its file: text, score and kind.

What writes a vocabulary into another file needs the scores exactly (a wrong score is another
text to tokens, silently); what streams text needs the bytes behind each id.
"""

from __future__ import annotations

import json
from enum import IntEnum
from pathlib import Path
from typing import Literal, NamedTuple

from sentencepiece import sentencepiece_model_pb2

from teenytinyllama.artifacts.subword_tokenizer import MODEL_NAME, SPACE_MARK, bytes_of_piece
from teenytinyllama.artifacts.tokenizer import NUM_SPECIAL_TOKENS, load_tokenizer, tokenizer_file
from teenytinyllama.errors import UserError

BPE_MODEL = 2  # TrainerSpec.ModelType


class PieceKind(IntEnum):
    """What a piece is; SentencePiece and GGUF use the same numbers."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Piece(NamedTuple):
    """One entry of the vocabulary; its place in the list is its id."""

    text: str
    score: float
    kind: PieceKind

    def as_bytes(self) -> bytes:
        r"""The bytes it stands for; control pieces stand for none.

        >>> Piece("▁sol", -1.0, PieceKind.NORMAL).as_bytes(), Piece(
        ...     "<0xC3>", 0.0, PieceKind.BYTE
        ... ).as_bytes()
        (b' sol', b'\xc3')
        """
        if self.kind == PieceKind.BYTE:
            return bytes([int(self.text[3:5], 16)])
        if self.kind in (PieceKind.NORMAL, PieceKind.USER_DEFINED):
            return self.text.replace(SPACE_MARK, " ").encode("utf-8")
        return b""


class Vocabulary(NamedTuple):
    """All pieces, and how they are joined.

    `bpe` joins by score, `unigram` by probability, `byte-level` in the order of `merges`, each
    written as the two pieces with a space between.
    """

    pieces: tuple[Piece, ...]
    model: Literal["bpe", "unigram", "byte-level"]
    merges: tuple[str, ...] = ()

    def as_bytes(self, vocab_size: int) -> list[bytes]:
        """The bytes behind each id; ids that only pad the model's matrix stand for none."""
        if self.model == "byte-level":
            known = [
                bytes_of_piece(p.text) if p.kind == PieceKind.NORMAL else b"" for p in self.pieces
            ]
        else:
            known = [piece.as_bytes() for piece in self.pieces]
        return known + [b""] * (vocab_size - len(known))


def read_vocabulary(tokenizer_dir: Path) -> Vocabulary:
    """The vocabulary of a tokenizer folder. Raises UserError where it is missing or damaged."""
    encoder = load_tokenizer(tokenizer_dir)  # says what is wrong with it
    path = tokenizer_file(tokenizer_dir)
    if path.name != MODEL_NAME:
        merges = json.loads(path.read_bytes())["model"]["merges"]
        special = [Piece(text, 0.0, PieceKind.CONTROL) for text in encoder.pieces()]
        normal = [Piece(text, 0.0, PieceKind.NORMAL) for text in encoder.pieces()]
        pieces = (*special[:NUM_SPECIAL_TOKENS], *normal[NUM_SPECIAL_TOKENS:])
        return Vocabulary(pieces, "byte-level", tuple(map(" ".join, merges)))
    proto = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())
    pieces = tuple(Piece(p.piece, p.score, PieceKind(p.type)) for p in proto.pieces)
    is_bpe = proto.trainer_spec.model_type == BPE_MODEL
    return Vocabulary(pieces, "bpe" if is_bpe else "unigram")


def check_fits(vocabulary: Vocabulary, vocab_size: int, where: Path) -> None:
    """Raise UserError where a model's matrix has fewer rows than the vocabulary has pieces."""
    if len(vocabulary.pieces) > vocab_size:
        raise UserError(
            "tokenizer-other-model",
            str(where),
            f"the tokenizer has {len(vocabulary.pieces):,} pieces, the model {vocab_size:,} ids",
            "use the tokenizer that the model was trained with",
        )
