"""Loss from parameters and tokens: Chinchilla's law, its refit, and the cost of repeated text.

The laws were fitted on English text. Public runs on Portuguese text with a vocabulary of 32,000
tokens end lower by a nearly constant amount; `law_offset` measures it on those runs, with its
interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from teenytinyllama.modeling.model_size import num_parameters
from teenytinyllama.planning.reference_data import (
    ReferenceRun,
    law_constants,
    reference_runs,
    repetition,
)

REFERENCE_VOCAB_SIZE = 32_000
# Two-sided 95 % points of Student's t for 1 to 6 degrees of freedom.
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447)
# No published law holds below this: the smallest runs they were fitted on are larger. At 0.82 B
# tokens the paper's own checkpoint is still inside the interval.
MIN_TOKENS_OF_LAWS = 5e8
# Of different tokens: the least that Muennighoff et al. repeated.
MIN_UNIQUE_TOKENS_OF_LAWS = 1e8


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
    """Whether excess parameters are discounted, as by Muennighoff et al."""

    def loss(self, parameters: float, tokens: float) -> float:
        """Loss for tokens that are all different, in nats per token.

        >>> round(published_law("hoffmann").loss(162_417_408, 3_751_936_000), 3)
        3.203
        >>> round(published_law("besiroglu").loss(162_417_408, 3_751_936_000), 3)
        3.145
        >>> round(published_law("paper").loss(162_417_408, 3_751_936_000), 3)
        3.505
        """
        return float(self.e + self.a / parameters**self.alpha + self.b / tokens**self.beta)

    def loss_repeating(self, parameters: float, tokens: float, unique_tokens: float) -> float:
        """Loss where text is read more than once (Muennighoff et al. 2023).

        Up to four epochs cost almost nothing; far beyond, neither epochs nor parameters help.

        >>> chinchilla = published_law("besiroglu")
        >>> unique = chinchilla.loss(162e6, 4e9)
        >>> four, forty = (chinchilla.loss_repeating(162e6, 4e9, 4e9 / n) for n in (4, 40))
        >>> round(four - unique, 3), round(forty - unique, 3)
        (0.07, 0.969)
        """
        token_life, parameter_life = repetition()
        unique = min(tokens, unique_tokens)
        effective = _effective(unique, tokens, token_life)
        if not self.discounts_parameters:
            return self.loss(parameters, effective)
        needed = min(parameters, self.best_parameters(unique))
        return self.loss(_effective(needed, parameters, parameter_life), effective)

    def effective_tokens(self, tokens: float, unique_tokens: float) -> float:
        """The number of unique tokens that are worth as much as these, which repeat some.

        >>> round(published_law("besiroglu").effective_tokens(4e9, 1e9) / 1e9, 2)
        3.73
        """
        return _effective(min(tokens, unique_tokens), tokens, repetition()[0])

    def best_parameters(self, tokens: float) -> float:
        """Parameters for which so many tokens are compute-optimal.

        From 6 N D = const: alpha a / N^alpha = beta b / D^beta.
        """
        if not self.a or not self.b:  # a fitted law may lack a term: then there is no optimum
            return math.inf
        power = self.alpha * self.a * tokens**self.beta / (self.beta * self.b)
        return float(power ** (1 / self.alpha))


def _effective(unique: float, used: float, half_life: float) -> float:
    """Unique units that are worth as much as `used` units, which repeat the `unique` ones."""
    repeats = used / unique - 1
    return unique + unique * half_life * (1 - math.exp(-repeats / half_life))


def published_law(name: str) -> Law:
    """A published law by its name in `reference_data.toml`."""
    row = law_constants(name)
    return Law(name, row["e"], row["a"], row["b"], row["alpha"], row["beta"])


@dataclass(frozen=True)
class LawOffset:
    """Distance of public runs from a law: `offset` nats, give or take `half_width` (95 %)."""

    offset: float
    half_width: float
    num_runs: int


def law_offset(law: Law, *, without: Sequence[str] = ()) -> LawOffset:
    """Mean distance of the public runs from a law, and the 95 % interval of one more run.

    `without` names runs to leave out, to test the prediction on an unseen run.
    """
    distances = [_distance(law, run) for run in reference_runs() if run.name not in without]
    count = len(distances)
    mean = sum(distances) / count
    variance = sum((d - mean) ** 2 for d in distances) / (count - 1)
    t = T95[min(count - 1, len(T95)) - 1]
    return LawOffset(mean, t * math.sqrt(variance * (1 + 1 / count)), count)


def _distance(law: Law, run: ReferenceRun) -> float:
    parameters = num_parameters(run.model, REFERENCE_VOCAB_SIZE)
    return run.loss - law.loss_repeating(parameters, run.tokens, run.unique_tokens)
