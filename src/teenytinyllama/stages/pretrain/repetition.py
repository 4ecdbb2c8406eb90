"""Sequences that repeat a passage, early in training: a tiny model learns to look back sooner.

A model of five million parameters, trained on eight million tokens of natural text, predicted a
passage hardly better the second time than the first (EXPERIMENTS.md). In a sequence that repeats
one passage, looking back helps at almost every token. The share of such sequences falls linearly
to zero, so that most of the training, and all of its end, is the text itself (after Bi-Induct,
arXiv 2509.22947, which mixes in copied spans and anneals them away).

    the text       a b c d e f g h i j k l
    its sequence   a b c d e a b c d e a b

Which sequences repeat, and how long their passages are, is a function of (seed, step, sequence)
alone: no micro-batch, rank or resume changes it.
"""

# B sequences of a batch, T + 1 tokens of each (the last is only predicted)

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from teenytinyllama.settings.pretraining import RepetitionSettings
from teenytinyllama.training.data_order import key_of, mix

# A passage takes between 1/32 and 1/4 of the sequence: short ones repeat often, long ones favour
# looking back by content over looking back by distance.
SHORTEST, LONGEST = 32, 4


def repeat_passages(
    block: NDArray[np.int64],
    rows: NDArray[np.int64],
    settings: RepetitionSettings,
    *,
    step: int,
    seed: int,
) -> NDArray[np.int64]:
    """A copy of `block` (B, T + 1) in which some sequences repeat their first tokens.

    `rows` (B) are the numbers of the sequences; `step` counts from 0.
    """
    chance = settings.share * (1 - step / settings.until_step)
    if chance <= 0:
        return block
    width = block.shape[1]
    low = max(2, width // SHORTEST)
    high = max(low + 1, width // LONGEST)
    first, second = _draws(seed, step, rows)
    repeated = block.copy()
    for ids, draw, place in zip(repeated, first, second, strict=True):
        if float(draw >> np.uint64(11)) * 2.0**-53 < chance:
            ids[:] = np.resize(ids[: low + int(place) % (high - low)], width)
    return repeated


def _draws(
    seed: int, step: int, rows: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[Any]]:
    """Two random 64-bit numbers for every sequence."""
    with np.errstate(over="ignore"):
        first = mix(key_of(seed, step + 1) + rows.astype(np.uint64))
        return first, mix(first + np.uint64(1))
