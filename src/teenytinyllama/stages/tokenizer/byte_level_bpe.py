"""Train a byte-level BPE with the `tokenizers` library, on counted words.

Its tokens are bytes joined in the order of the merges: any text can be encoded, and there is no
character coverage to choose. Special tokens and bytes have the ids that they have in every
vocabulary of this package: 0 to 6, and 7 to 262 in byte order.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

from tokenizers import Tokenizer, decoders, models, trainers
from tokenizers.pre_tokenizers import PreTokenizer

from teenytinyllama.artifacts.conversations import SPECIAL_TOKENS
from teenytinyllama.artifacts.subword_tokenizer import PRE_TOKENIZER, byte_alphabet
from teenytinyllama.stages.tokenizer.hf_export import add_special_tokens
from teenytinyllama.stages.tokenizer.sentencepiece_training import vocabulary_too_large

WORDS_PER_BATCH = 50_000


def train_byte_level(counts: Counter[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE; equal counts give equal bytes.

    Raises UserError if the words have too few pairs for `vocab_size`.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _pre_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        initial_alphabet=byte_alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_repeated_words(counts), trainer)
    merges = merges_of(tokenizer)
    most = len(SPECIAL_TOKENS) + 256 + len(merges)
    if most < vocab_size:
        raise vocabulary_too_large(vocab_size, most)
    return tokenizer_from_merges(merges)


def merges_of(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """The merges of a BPE, in the order of training."""
    return [(left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]


def tokenizer_from_merges(merges: list[tuple[str, str]]) -> Tokenizer:
    """The tokenizer as it is written: special tokens, bytes, then one token for each merge."""
    tokens = [*SPECIAL_TOKENS, *byte_alphabet(), *(left + right for left, right in merges)]
    tokenizer = Tokenizer(models.BPE({token: id_ for id_, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = _pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    return add_special_tokens(tokenizer)


def _pre_tokenizer() -> PreTokenizer:
    """PRE_TOKENIZER as an object of the library."""
    empty = json.loads(Tokenizer(models.BPE()).to_str())
    whole = Tokenizer.from_str(json.dumps({**empty, "pre_tokenizer": PRE_TOKENIZER}))
    found: PreTokenizer = whole.pre_tokenizer
    return found


def _repeated_words(counts: Counter[str]) -> Iterator[list[str]]:
    """Every word as often as it was counted, in batches: the trainer takes text, not counts."""
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
