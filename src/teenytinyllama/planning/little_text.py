"""What much compute buys where text is little: passes, an ensemble and its student.

A law of held-out bits per byte in parameters, megabytes of text and passes over them, fitted by
`bench/little_text_law.py` to small trainings, with enough weight decay for their passes, and to
large public ones. It is about text of any tokenizer; what kind of text it is decides as much as
anything, so that an interval reaches from manuals and laws, the text of the small trainings, to
the web's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from teenytinyllama.planning.reference_data import little_text_law

FEW_EPOCHS = 4.0
MIN_MEMBERS, MAX_MEMBERS = 2, 8
"""Of an ensemble. Published ones have eight at most (arXiv 2509.14786, slowrun)."""


@dataclass(frozen=True)
class LittleTextTraining:
    """One way to train on a text: its cost, and what is expected of it."""

    epochs: float
    members: int
    """Of an ensemble that teaches the final model; 0 without one."""
    hours: float
    usd: float
    low: float
    """Held-out bits per byte, 95 %, for the easiest kind of text; `high` for the hardest."""
    high: float
    worth: float
    """How many times the text four epochs would need to be as good."""


def effective_mb(text_mb: float, epochs: float) -> float:
    """Text that is worth as much, read once, as `text_mb` read `epochs` times.

    >>> effective_mb(2.0, epochs=1)
    2.0
    """
    repeats = little_text_law()["repeats"]
    return text_mb * (1 + repeats * (1 - math.exp(-(epochs - 1) / repeats)))


def bits_per_byte(parameters: float, text_mb: float, epochs: float, members: int = 0) -> float:
    """Expected on held-out text like the small trainings'; with `members`, of their student."""
    law = little_text_law()
    of_text = law["b"] * effective_mb(text_mb, epochs) ** -law["beta"] * _kept(members)
    return float(law["e"] + law["a"] * parameters ** -law["alpha"] + of_text)


def _kept(members: int) -> float:
    """What a student of an ensemble leaves of the part of the loss that more text would lower."""
    law = little_text_law()
    share = 1 - 1 / members if members else 0.0
    return 1 - float(law["student_keeps"] * law["ensemble_gain"]) * share


def affordable_members(hours: float, training_hours: float) -> int:
    """Members of an ensemble whose trainings, and their student's, end within `hours`.

    The student costs one training, and a third of one for each member that it listens to.

    >>> [affordable_members(hours, training_hours=1.0) for hours in (3, 4, 100)]
    [0, 2, 8]
    """
    members = math.floor((hours / training_hours - 1) / (1 + 1 / 3) + 1e-9)
    return 0 if members < MIN_MEMBERS else min(members, MAX_MEMBERS)


def ways_to_train(
    *,
    parameters: float,
    text_mb: float,
    epochs: float,
    hours: float,
    usd: float,
    hours_available: float,
    difficulty: float = 1.0,
) -> Iterator[LittleTextTraining]:
    """Four epochs, the plan's epochs, and with what is left of the hours an ensemble's student.

    `hours` and `usd` are those of the plan's one training. `difficulty` is how many bits a byte has
    beside one of Portuguese: less where a character has several bytes.
    """
    law = little_text_law()

    def way(epochs: float, members: int, cost: float) -> LittleTextTraining:
        text = effective_mb(text_mb / difficulty, epochs)
        middle = bits_per_byte(parameters, text_mb / difficulty, epochs, members)
        return LittleTextTraining(
            epochs=epochs,
            members=members,
            hours=hours * cost,
            usd=usd * cost,
            low=max(0.0, middle - law["half_width"]) * difficulty,
            high=(middle + law["other_text"] + law["half_width"]) * difficulty,
            worth=text
            * _kept(members) ** (-1 / law["beta"])
            / effective_mb(text_mb / difficulty, FEW_EPOCHS),
        )

    if epochs > FEW_EPOCHS:
        yield way(FEW_EPOCHS, 0, FEW_EPOCHS / epochs)
    yield way(epochs, 0, 1.0)
    if members := affordable_members(hours_available, hours):
        yield way(epochs, members, members + 1 + members / 3)


def largest_trainings() -> str:
    """What the law is extrapolated from, in words."""
    law = little_text_law()
    return (
        f"trainings of at most {law['largest_parameters'] / 1e6:g} M parameters on "
        f"{law['largest_text_mb']:g} MB"
    )
