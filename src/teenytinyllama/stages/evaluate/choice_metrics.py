"""Which choice a model prefers, with ties, and what the lengths of the choices give away.

A tie at the top counts as a draw among its choices: one of two is half right. The harness takes the
first of them, so that a model that tells nothing apart scores 100 % where the right choice always
comes first, as in minimal pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from teenytinyllama.stages.evaluate.intervals import wilson95

# Closer log-probabilities are a tie: fp32 sums of one text differ by as much between batches.
TIE_TOLERANCE = 1e-6
MIN_LENGTH_EFFECT = 0.05  # above chance, for a task to be named
MIN_LENGTH_ITEMS = 20


class TopChoice(NamedTuple):
    """The right choice's part of the top place (1, 0, or a share), and whether it is tied."""

    score: float
    is_tie: bool


def prefer(values: Sequence[float] | NDArray[np.float64], right: int) -> TopChoice:
    """The right choice's part of the top place.

    >>> prefer([-3.0, -1.0], 1), prefer([-1.0, -1.0, -4.0], 0)
    (TopChoice(score=1.0, is_tie=False), TopChoice(score=0.5, is_tie=True))
    """
    best = float(max(values))
    top = [n for n, value in enumerate(values) if best - value <= TIE_TOLERANCE * abs(best)]
    return TopChoice(float(right in top) / len(top), len(top) > 1)


def preferences(
    logprobs: Sequence[float], choices: Sequence[str], right: int
) -> dict[str, TopChoice]:
    """One item by each of the harness's metrics that choose; the names are theirs.

    `logprobs` are those of the choices, followed by those without the question where the task
    asks for mutual information.
    """
    own = np.array(logprobs[: len(choices)], np.float64)
    found = {
        "acc": prefer(own, right),
        "acc_norm": prefer(own / [len(choice) for choice in choices], right),
        "acc_bytes": prefer(own / [len(choice.encode("utf-8")) for choice in choices], right),
    }
    if len(logprobs) == 2 * len(choices):
        alone = np.array(logprobs[len(choices) :], np.float64)
        found["acc_mutual_info"] = prefer(own - alone, right)
    return found


def lengths_differ(choices: Iterable[Sequence[str]]) -> bool:
    """Whether any item has choices of different lengths."""
    return any(len({len(choice) for choice in item}) > 1 for item in choices)


def length_rule(
    choices: Sequence[Sequence[str]], right: Sequence[int], chance: float
) -> dict[str, Any] | None:
    """The rule "take the longest" or "take the shortest", where it scores above chance.

    None where neither does, beyond its 95 % interval and by 5 points: lengths tell little then.
    Nor for a few items.
    """
    found = None
    if len(choices) < MIN_LENGTH_ITEMS:
        return None
    for name, sign in (("longest", 1), ("shortest", -1)):
        scores = [
            prefer([sign * float(len(choice)) for choice in item], index).score
            for item, index in zip(choices, right, strict=True)
        ]
        accuracy = sum(scores) / len(scores)
        low, high = wilson95(accuracy, len(scores))
        if low > chance and accuracy >= chance + MIN_LENGTH_EFFECT:
            found = {"choose": name, "accuracy": accuracy, "interval95": [low, high]}
    return found
