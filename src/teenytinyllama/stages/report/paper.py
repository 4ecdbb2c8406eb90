"""The paper's own numbers, for comparison: facts in `paper.json`, with their source.

Its label "8.1M tokens" at 100,000 steps is 0.82 B; the data file has the true counts.
"""

from __future__ import annotations

import json
import math
from functools import cache
from importlib.resources import files
from typing import Any

SOURCE = "the paper (Figure 1, Table 6)"


@cache
def _facts() -> dict[str, Any]:
    text = (files(__package__) / "paper.json").read_text(encoding="utf-8")
    facts: dict[str, Any] = json.loads(text)
    return facts


def heldout_losses(model: str) -> list[tuple[float, float]]:
    """Tokens seen and held-out loss in nats per token of one of the paper's models.

    >>> heldout_losses("160m")[0]
    (819200000, 3.19)
    """
    return [(tokens, loss) for tokens, loss in _facts()["heldout_loss_nats"][model]]


def perplexities_by_energy(model: str) -> list[tuple[float, float]]:
    """Kilowatt-hours used and held-out perplexity of one of the paper's models (Table 6).

    >>> [(kwh, round(value, 1)) for kwh, value in perplexities_by_energy("160m")][0]
    (3.75, 24.3)
    """
    energy, losses = _facts()["energy_kwh"][model], _facts()["heldout_loss_nats"][model]
    return [
        (kwh, math.exp(loss))
        for (tokens, kwh), (at, loss) in zip(energy, losses, strict=True)
        if tokens == at
    ]


def arc_accuracies() -> list[tuple[float, float]]:
    """Tokens seen and accuracy on ARC-Challenge of the 460m model (Figure 2)."""
    return [(tokens, accuracy) for tokens, accuracy in _facts()["arc_accuracy_460m"]]
