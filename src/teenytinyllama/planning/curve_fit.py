"""A law fitted to pilots: small trainings on the user's own tokens, refitted with an interval.

The exponents are those of a published law, which a handful of small runs cannot find again; what
is fitted is linear in them: the floor of the text, and what parameters and tokens are worth. The
interval is that of one more run by ordinary least squares. It knows the noise of the pilots and
how far the plan is from them, not whether the law still holds there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from teenytinyllama.errors import UserError
from teenytinyllama.planning.scaling_laws import T95, Law

Matrix = list[list[float]]
MIN_PILOTS = 4


@dataclass(frozen=True)
class PilotResult:
    """One small training: sizes, tokens seen, different tokens, held-out loss in nats per token."""

    name: str
    parameters: int
    tokens: float
    unique_tokens: float
    loss: float


@dataclass(frozen=True)
class FittedLaw:
    """A law through pilots, and how sure it is."""

    law: Law
    pilots: tuple[PilotResult, ...]
    bytes_per_token: float
    spread: float
    """Standard deviation of the pilots round the law, nats."""
    terms: tuple[bool, bool, bool]
    """Whether floor, parameters and tokens are in it: what would come out negative is not."""
    covariance: Matrix
    largest_predicted: float | None
    """What the other pilots say of the largest one; None where they are too few."""

    def predict(self, parameters: float, tokens: float, unique: float) -> tuple[float, float]:
        """Loss of one more run, and half of its 95 % interval."""
        row = _kept(_row(self.law, parameters, tokens, unique), self.terms)
        distance = sum(
            a * b * c
            for a, line in zip(row, self.covariance, strict=True)
            for b, c in zip(row, line, strict=True)
        )
        half = _t(len(self.pilots) - len(row)) * self.spread * math.sqrt(1 + distance)
        return self.law.loss_repeating(parameters, tokens, unique), half

    def says(self, tokens: float) -> str:
        """What a user should know of the fit."""
        far = tokens / max(one.tokens for one in self.pilots)
        words = (
            f"Fitted to {len(self.pilots)} pilots on your tokens (spread {self.spread:.3f} nats); "
            f"the plan is {far:,.0f} times as many tokens as the longest of them."
        )
        if self.largest_predicted is not None:
            largest = largest_pilot(self.pilots)
            words += (
                f" Check: the others predict {self.largest_predicted:.3f} for the largest pilot, "
                f"it reached {largest.loss:.3f}."
            )
        return words


def largest_pilot(pilots: Sequence[PilotResult]) -> PilotResult:
    """The one of most compute."""
    return max(pilots, key=lambda one: one.parameters * one.tokens)


def fit_law(base: Law, pilots: Sequence[PilotResult], bytes_per_token: float) -> FittedLaw:
    """Refit floor and factors of `base` to pilots. Raises UserError for fewer than four of them."""
    if len(pilots) < MIN_PILOTS:
        raise UserError(
            "pilots-few",
            "ttl plan --calibrate",
            f"{len(pilots)} pilots are done, {MIN_PILOTS} are needed for a fit",
            "give the same command again with more --minutes",
        )
    found, terms, covariance, spread = _least_squares(base, pilots)
    predicted = None
    if len(pilots) > MIN_PILOTS:
        largest = largest_pilot(pilots)
        others = [one for one in pilots if one is not largest]
        without = _least_squares(base, others)[0]
        predicted = without.loss_repeating(
            largest.parameters, largest.tokens, largest.unique_tokens
        )
    return FittedLaw(found, tuple(pilots), bytes_per_token, spread, terms, covariance, predicted)


def _least_squares(
    base: Law, pilots: Sequence[PilotResult]
) -> tuple[Law, tuple[bool, bool, bool], Matrix, float]:
    """The best law without a negative term; its kept terms, (X'X)^-1, spread of the residuals."""
    rows = [_row(base, one.parameters, one.tokens, one.unique_tokens) for one in pilots]
    losses = [one.loss for one in pilots]
    best = None
    for size in (3, 2, 1):
        for chosen in combinations(range(3), size):
            terms = tuple(place in chosen for place in range(3))
            kept = [_kept(row, terms) for row in rows]
            inverse = _inverse(_gram(kept))
            if inverse is None:
                continue
            moments = [
                sum(r[i] * y for r, y in zip(kept, losses, strict=True)) for i in range(size)
            ]
            factors = [sum(a * b for a, b in zip(line, moments, strict=True)) for line in inverse]
            if min(factors) < 0:
                continue
            errors = [
                y - sum(f * x for f, x in zip(factors, r, strict=True))
                for r, y in zip(kept, losses, strict=True)
            ]
            squares = sum(error**2 for error in errors)
            if best is None or squares < best[0]:
                best = (squares, terms, factors, inverse)
    assert best is not None, "a mean loss is positive"
    squares, terms, factors, inverse = best
    whole = iter(factors)
    e, a, b = (next(whole) if kept else 0.0 for kept in terms)
    spread = math.sqrt(squares / max(1, len(pilots) - len(factors)))
    law = Law(f"{base.name}, refitted", e, a, b, base.alpha, base.beta, discounts_parameters=False)
    return law, (terms[0], terms[1], terms[2]), inverse, spread


def _row(law: Law, parameters: float, tokens: float, unique: float) -> list[float]:
    """1, N^-alpha and D^-beta, with what repeated tokens are worth in place of their number."""
    bare = Law("", 0.0, 1.0, 0.0, law.alpha, law.beta)
    token_part = Law("", 0.0, 0.0, 1.0, law.alpha, law.beta)
    # Only tokens are discounted for repetition here: pilots are small beside their text.
    return [
        1.0,
        bare.loss(parameters, tokens),
        token_part.loss(parameters, law.worth_of_tokens(tokens, unique)),
    ]


def _kept(row: Sequence[float], terms: Sequence[bool]) -> list[float]:
    return [value for value, kept in zip(row, terms, strict=True) if kept]


def _gram(rows: Sequence[Sequence[float]]) -> Matrix:
    size = len(rows[0])
    return [[sum(row[i] * row[j] for row in rows) for j in range(size)] for i in range(size)]


def _inverse(matrix: Matrix) -> Matrix | None:
    """Gauss-Jordan with scaling; None for a matrix that has none."""
    size = len(matrix)
    scale = [math.sqrt(matrix[i][i]) for i in range(size)]
    if min(scale) == 0:
        return None
    work = [
        [matrix[i][j] / scale[i] / scale[j] for j in range(size)]
        + [float(i == j) for j in range(size)]
        for i in range(size)
    ]
    for column in range(size):
        pivot = max(range(column, size), key=lambda r: abs(work[r][column]))
        if abs(work[pivot][column]) < 1e-10:
            return None
        work[column], work[pivot] = work[pivot], work[column]
        head = work[column][column]
        work[column] = [value / head for value in work[column]]
        for other in range(size):
            if other != column:
                factor = work[other][column]
                work[other] = [
                    value - factor * top
                    for value, top in zip(work[other], work[column], strict=True)
                ]
    return [[work[i][size + j] / scale[i] / scale[j] for j in range(size)] for i in range(size)]


def _t(degrees: int) -> float:
    return T95[min(max(degrees, 1), len(T95)) - 1]
