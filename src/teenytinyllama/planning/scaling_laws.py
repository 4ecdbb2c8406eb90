"""Loss from parameters and tokens: Chinchilla, its refit, and what repetition costs.

The laws were fitted on English text. On Portuguese text with 32,000 pieces public runs end lower
by a near constant amount; `calibration` measures it on those runs and says how well it holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from teenytinyllama.modeling.model_size import num_parameters
from teenytinyllama.planning.reference_data import Anchor, anchors, law_constants, repetition

ANCHOR_VOCAB_SIZE = 32_000
# Two-sided 95 % points of Student's t for 1 to 6 degrees of freedom.
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447)
# Below this no published law says anything: the smallest runs they were fitted on are larger.
# At 0.82 B tokens the paper's own checkpoint still lies inside the interval.
MIN_TOKENS_OF_LAWS = 5e8


@dataclass(frozen=True)
class Law:
    """loss(N, D) = e + a / N^alpha + b / D^beta, in nats per token."""

    name: str
    e: float
    a: float
    b: float
    alpha: float
    beta: float
    discounts_parameters: bool = True
    """Whether parameters beyond need lose their worth as Muennighoff's do."""

    def loss(self, parameters: float, tokens: float) -> float:
        """Loss with tokens that are all different.

        >>> round(law("hoffmann").loss(162_417_408, 3_751_936_000), 3)
        3.203
        >>> round(law("besiroglu").loss(162_417_408, 3_751_936_000), 3)
        3.145
        >>> round(law("paper").loss(162_417_408, 3_751_936_000), 3)
        3.505
        """
        return float(self.e + self.a / parameters**self.alpha + self.b / tokens**self.beta)

    def loss_repeating(self, parameters: float, tokens: float, unique_tokens: float) -> float:
        """Loss where the text is read more than once (Muennighoff et al. 2023).

        Up to four passes are nearly free; far beyond, neither passes nor parameters help.

        >>> chinchilla = law("besiroglu")
        >>> fresh = chinchilla.loss(162e6, 4e9)
        >>> four, forty = (chinchilla.loss_repeating(162e6, 4e9, 4e9 / n) for n in (4, 40))
        >>> round(four - fresh, 3), round(forty - fresh, 3)
        (0.07, 0.969)
        """
        token_life, parameter_life = repetition()
        unique = min(tokens, unique_tokens)
        worth = _worth(unique, tokens, token_life)
        if not self.discounts_parameters:
            return self.loss(parameters, worth)
        needed = min(parameters, self.best_parameters(unique))
        return self.loss(_worth(needed, parameters, parameter_life), worth)

    def worth_of_tokens(self, tokens: float, unique_tokens: float) -> float:
        """How many different tokens these are worth, when they repeat the unique ones.

        >>> round(law("besiroglu").worth_of_tokens(4e9, 1e9) / 1e9, 2)
        3.73
        """
        return _worth(min(tokens, unique_tokens), tokens, repetition()[0])

    def best_parameters(self, tokens: float) -> float:
        """Parameters for which so many tokens are the best number, at equal compute.

        From 6 N D = const: alpha a / N^alpha = beta b / D^beta.
        """
        if not self.a or not self.b:  # a fitted law may lack a term: then nothing is in balance
            return math.inf
        worth = self.alpha * self.a * tokens**self.beta / (self.beta * self.b)
        return float(worth ** (1 / self.alpha))


def _worth(unique: float, used: float, half_life: float) -> float:
    """How many different ones the used ones are worth, when they repeat the unique ones."""
    repeats = used / unique - 1
    return unique + unique * half_life * (1 - math.exp(-repeats / half_life))


def law(name: str) -> Law:
    """One of the published laws, by name."""
    row = law_constants(name)
    return Law(name, row["e"], row["a"], row["b"], row["alpha"], row["beta"])


@dataclass(frozen=True)
class Calibration:
    """How public runs end against the law: by `offset` nats, give or take `half_width` (95 %)."""

    offset: float
    half_width: float
    num_runs: int


def calibration(chosen: Law, *, without: Sequence[str] = ()) -> Calibration:
    """Mean distance of the public runs from the law, and the 95 % interval of one more run.

    `without` leaves runs out, so that a prediction can be held against a run it has not seen.
    """
    distances = [_distance(chosen, one) for one in anchors() if one.name not in without]
    count = len(distances)
    mean = sum(distances) / count
    variance = sum((d - mean) ** 2 for d in distances) / (count - 1)
    t = T95[min(count - 1, len(T95)) - 1]
    return Calibration(mean, t * math.sqrt(variance * (1 + 1 / count)), count)


def _distance(chosen: Law, one: Anchor) -> float:
    parameters = num_parameters(one.model, ANCHOR_VOCAB_SIZE)
    return one.loss - chosen.loss_repeating(parameters, one.tokens, one.unique_tokens)
