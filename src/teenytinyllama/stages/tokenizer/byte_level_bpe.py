"""Train a byte-level BPE with the `tokenizers` library, on counted words.

Its pieces are bytes joined in the order of their merges, so no text is without a piece and no
character coverage is to be chosen. Special tokens and byte pieces have the ids that they have in
every vocabulary of this package: 0 to 6, and 7 to 262 in the order of the bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

from tokenizers import AddedToken, Tokenizer, decoders, models, processors, trainers
from tokenizers.pre_tokenizers import PreTokenizer

from teenytinyllama.artifacts.conversations import BOS, SPECIAL_IDS, SPECIAL_TOKENS
from teenytinyllama.artifacts.subword_tokenizer import PRE_TOKENIZER, byte_alphabet
from teenytinyllama.errors import UserError

WORDS_PER_BATCH = 50_000


def train_byte_level(counts: Counter[str], vocab_size: int) -> Tokenizer:
    """The tokenizer made of counted words; equal counts give equal bytes.

    Raises UserError where the words hold too few pairs for the vocabulary asked.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _pre_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        initial_alphabet=byte_alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_batches(counts), trainer)
    found = json.loads(tokenizer.to_str())["model"]["merges"]
    most = len(SPECIAL_TOKENS) + 256 + len(found)
    if most < vocab_size:
        raise UserError(
            "vocabulary-too-large",
            "tokenizer.vocab_size",
            f"the corpus is too small for {vocab_size:,} pieces; at most {most:,} fit",
            f"--set tokenizer.vocab_size={most}",
        )
    return whole_tokenizer([(left, right) for left, right in found])


def whole_tokenizer(merges: list[tuple[str, str]]) -> Tokenizer:
    """The tokenizer of these merges as it is written: special tokens, bytes, then a piece for
    each merge; BOS stands before every text.
    """
    pieces = [*SPECIAL_TOKENS, *byte_alphabet(), *(left + right for left, right in merges)]
    ids = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(ids, merges))
    tokenizer.pre_tokenizer = _pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B",
        special_tokens=[(BOS, SPECIAL_IDS[BOS])],
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    return tokenizer


def _pre_tokenizer() -> PreTokenizer:
    """The rule that `formats.spelling` cuts text by, as the library's object."""
    empty = json.loads(Tokenizer(models.BPE()).to_str())
    whole = Tokenizer.from_str(json.dumps({**empty, "pre_tokenizer": PRE_TOKENIZER}))
    found: PreTokenizer = whole.pre_tokenizer
    return found


def _batches(counts: Counter[str]) -> Iterator[list[str]]:
    """Every word as often as it counts: the library has no other way to be told."""
    batch: list[str] = []
    for word, count in sorted(counts.items()):
        while count:
            taken = min(count, WORDS_PER_BATCH - len(batch))
            batch += [word] * taken
            count -= taken
            if len(batch) == WORDS_PER_BATCH:
                yield batch
                batch = []
    yield batch
