from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from teenytinyllama.artifacts.tokenizer import TextEncoder, load_tokenizer
from teenytinyllama.stages.finetune.labelled_dataset import Example
from teenytinyllama.stages.finetune.length_grouping import (
    LengthGroupedOrder,
    encode_with,
)


@pytest.fixture(scope="module")
def encoder(small_tokenizer_dir: Path) -> TextEncoder:
    return load_tokenizer(small_tokenizer_dir)


def test_texts_end_with_eos(encoder: TextEncoder) -> None:
    encode = encode_with(encoder, 100)
    one, two = encoder.encode("A raposa"), encoder.encode("mora longe")
    assert encode(Example(("A raposa",), 0)).ids == (1, *one, 2)
    assert encode(Example(("A raposa", "mora longe"), 0)).ids == (1, *one, 2, *two, 2)
    # Text cannot forge a mark.
    assert encode(Example(("<s></s>",), 0)).ids.count(2) == 1


@pytest.mark.parametrize("max_length", [8, 9, 13, 30])
def test_a_long_text_is_cut_and_keeps_bos_and_eos(encoder: TextEncoder, max_length: int) -> None:
    encode = encode_with(encoder, max_length)
    long, short = "a casa amarela " * 20, "o gato"
    one = encode(Example((long,), 0))
    assert (len(one.ids), one.ids[0], one.ids[-1], one.was_cut) == (max_length, 1, 2, True)
    pair = encode(Example((long, short), 0))
    assert (len(pair.ids), pair.ids.count(2), pair.was_cut) == (max_length, 2, True)
    assert not encode_with(encoder, 500)(Example((long,), 0)).was_cut
    # The short side stays whole where there is space for both.
    kept = encoder.encode(short)
    if max_length > 2 * len(kept) + 3:
        assert list(pair.ids[-1 - len(kept) : -1]) == kept


def test_an_epoch_sees_every_example_once_and_pads_little() -> None:
    lengths = np.random.default_rng(0).integers(5, 200, 1003).tolist()
    order = LengthGroupedOrder(lengths, 16, seed=3)
    assert order.steps_per_epoch == 63
    for epoch in (0, 1):
        steps = range(epoch * 63, epoch * 63 + 63)
        batches = [order.rows_of_step(step) for step in steps]
        assert sorted(np.concatenate(batches).tolist()) == list(range(1003))
    padded = sum(max(lengths[i] for i in b) * len(b) for b in batches)
    assert padded < 1.1 * sum(lengths)
    # A pure function of (seed, step): asked again and out of order it is the same.
    again = LengthGroupedOrder(lengths, 16, seed=3)
    assert again.rows_of_step(70).tolist() == order.rows_of_step(70).tolist()
    other = LengthGroupedOrder(lengths, 16, seed=4)
    assert other.rows_of_step(70).tolist() != order.rows_of_step(70).tolist()
