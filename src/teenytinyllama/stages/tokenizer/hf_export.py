"""Write a vocabulary as Hugging Face files, and verify that they give the same ids.

SentencePiece writes a space as U+2581 and takes that sign in text for a space. The JSON file has
pieces with plain spaces instead: the sign in text is no piece but bytes, as in `TextEncoder`.

The class is `PreTrainedTokenizerFast`: transformers' `LlamaTokenizerFast` ignores the normalizer
in `tokenizer.json` and loses leading spaces. A tokenizer from `AutoTokenizer.from_pretrained` reads
special tokens that are written out in text, because `apply_chat_template` makes role tokens so.
Encode untrusted text with `tokenizer(text, split_special_tokens=True)` or with our `TextEncoder`,
which never reads them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from teenytinyllama.artifacts.conversations import (
    BOS,
    CHAT_TEMPLATE,
    EOS,
    PAD,
    ROLE_TOKENS,
    SPECIAL_IDS,
    SPECIAL_TOKENS,
    UNK,
)
from teenytinyllama.artifacts.manifest import write_atomically, write_json
from teenytinyllama.artifacts.subword_tokenizer import MODEL_NAME, SPACE_MARK, TOKENIZER_JSON
from teenytinyllama.artifacts.tokenizer import TextEncoder
from teenytinyllama.errors import UserError

NORMAL_PIECE = 1  # sentencepiece_model.proto, ModelProto.SentencePiece.Type
BPE_MODEL = 2  # TrainerSpec.ModelType
# Texts on which tokenizers are known to differ; every run compares them and its own text.
EDGE_TEXTS: tuple[str, ...] = (
    "",
    " ",
    "   ",
    "  duas  palavras ",
    "\n",
    "\n\n  fim.\n\n\n",
    "\ttab\r\n",
    "1234567890 3,14 1º",
    "ação AÇÃO a\u00e7a\u0303o",
    "汉字 русский עברית",
    "😀👩‍👩‍👧🇧🇷",
    "\x00\x01\x7f\ufeff\ufffd\U0010ffff",
    f"{SPACE_MARK}{SPACE_MARK} marca {SPACE_MARK}",
    "-" * 37 + "=" * 53 + "a" * 71,
    *(f"texto {token} dentro{token}" for token in (*SPECIAL_TOKENS, "<0x41>", "<0x0A>")),
)


def fast_tokenizer(model: bytes) -> Tokenizer:
    """A SentencePiece model as a tokenizer of the `tokenizers` library."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    for piece in proto.pieces:
        piece.piece = piece.piece.replace(SPACE_MARK, " ")
    if proto.trainer_spec.model_type == BPE_MODEL:
        normal = {p.piece: p.score for p in proto.pieces if p.type == NORMAL_PIECE}
        vocabulary = {piece.piece: index for index, piece in enumerate(proto.pieces)}
        core: models.Model = models.BPE(
            vocabulary, _merges(normal), unk_token=UNK, fuse_unk=True, byte_fallback=True
        )
    else:
        # This library matches every piece in text, SentencePiece only the normal ones. A very low
        # score keeps it from reading a literal `<s>` or `<0x41>` as a token.
        worst = min(p.score for p in proto.pieces if p.type == NORMAL_PIECE) - 1000
        scored = [(p.piece, p.score if p.type == NORMAL_PIECE else worst) for p in proto.pieces]
        core = models.Unigram(scored, unk_id=SPECIAL_IDS[UNK], byte_fallback=True)
    tokenizer = Tokenizer(core)
    tokenizer.normalizer = normalizers.Prepend(" ")
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return add_special_tokens(tokenizer)


def add_special_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """Add our special tokens, and a post-processor that puts BOS before every text."""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B",
        special_tokens=[(BOS, SPECIAL_IDS[BOS])],
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    return tokenizer


def _merges(scores: dict[str, float]) -> list[tuple[str, str]]:
    """Every pair of pieces whose join is a piece, best score first: SentencePiece's order."""
    merges = []
    for piece, score in scores.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in scores and right in scores:
                merges.append((-score, len(right), left, right))
    merges.sort()
    return [(left, right) for _, _, left, right in merges]


def write_tokenizer_files(vocabulary: bytes | Tokenizer, out_dir: Path) -> bytes:
    """Write the files that `AutoTokenizer.from_pretrained` reads.

    `vocabulary` is a SentencePiece model, written as `tokenizer.model` too, or a byte-level
    tokenizer. Returns the bytes of the file that `TextEncoder` loads.
    """
    if isinstance(vocabulary, bytes):
        model, fast = vocabulary, fast_tokenizer(vocabulary).to_str(pretty=True) + "\n"
        write_atomically(out_dir / MODEL_NAME, model)
    else:
        fast = vocabulary.to_str(pretty=True) + "\n"
        model = fast.encode("utf-8")
    write_atomically(out_dir / TOKENIZER_JSON, fast)
    names = {"bos_token": BOS, "eos_token": EOS, "unk_token": UNK, "pad_token": PAD}
    roles = list(ROLE_TOKENS.values())
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **names,
        "extra_special_tokens": roles,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    write_json(out_dir / "tokenizer_config.json", config)
    write_json(out_dir / "special_tokens_map.json", {**names, "additional_special_tokens": roles})
    return model


def verify_equal_ids(model: bytes, out_dir: Path, texts: Iterable[str]) -> dict[str, int]:
    """Encode `texts` with SentencePiece, with our encoder and with the written `tokenizer.json`.

    Returns how many texts and tokens were compared. Raises UserError at the first difference, and
    if a text cannot be decoded from its ids. SentencePiece's unigram is not compared over whole
    texts: its 32-bit sums make equally good segmentations of a word depend on the text before it,
    so our encoder calls it word by word. A byte-level vocabulary has no other library to compare.
    """
    encoder = TextEncoder(model)
    has_reference = False
    if encoder.adds_space:  # SentencePiece
        proto = sentencepiece_model_pb2.ModelProto.FromString(model)
        has_reference = proto.trainer_spec.model_type == BPE_MODEL
    fast = Tokenizer.from_file(str(out_dir / TOKENIZER_JSON))
    fast.encode_special_tokens = True  # text stays text
    counts = {"texts_compared": 0, "tokens_compared": 0}
    for text in texts:
        ids = encoder.encode(text)
        others = {TOKENIZER_JSON: fast.encode(text, add_special_tokens=False).ids}
        if has_reference and SPACE_MARK not in text:  # SentencePiece reads the mark as a space
            others[MODEL_NAME] = encoder.encode_with_library(text)
        _compare(text, ids, others)
        if not encoder.decode(ids) == fast.decode(ids, skip_special_tokens=False) == text:
            raise _mismatch("tokenizer-round-trip", text, "decoding its ids gives another text")
        counts["texts_compared"] += 1
        counts["tokens_compared"] += len(ids)
    return counts


def _compare(text: str, ids: list[int], others: dict[str, list[int]]) -> None:
    for name, other in others.items():
        if other != ids:
            at = next(
                (i for i, (a, b) in enumerate(zip(ids, other, strict=False)) if a != b),
                min(len(ids), len(other)),
            )
            what = f"{name} gives {other[at : at + 4]} at token {at}, expected {ids[at : at + 4]}"
            raise _mismatch("tokenizer-unequal", text, what)


def _mismatch(code: str, text: str, what: str) -> UserError:
    shown = json.dumps(text[:60], ensure_ascii=True)
    return UserError(
        code,
        f"tokenizer, text {shown}",
        what,
        "report it with this text; if the model is a unigram: --set tokenizer.model=bpe",
    )
