"""A scaling law refitted to small training runs on the user's own tokens, with an interval.

The exponents are those of a published law: a handful of small runs cannot determine them. The
irreducible loss and the factors of parameters and tokens are fitted, by ordinary least squares.
The interval is that of one more run. It covers the noise of the runs and the distance of the plan
from them, not whether the law still holds there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from teenytinyllama.errors import UserError
from teenytinyllama.planning.scaling_laws import T95, Law

Matrix = list[list[float]]
MIN_SCALING_RUNS = 4
# Smallest singular value of columns of length 1 that still tells them apart.
SINGULAR = 1e-5


@dataclass(frozen=True)
class ScalingRun:
    """One small run: parameters, tokens, unique tokens, held-out loss in nats per token."""

    name: str
    parameters: int
    tokens: float
    unique_tokens: float
    loss: float


@dataclass(frozen=True)
class FittedLaw:
    """A law fitted to runs, and its uncertainty."""

    law: Law
    runs: tuple[ScalingRun, ...]
    bytes_per_token: float
    spread: float
    """Standard deviation of the runs around the law, in nats."""
    terms: tuple[bool, bool, bool]
    """Whether the constant, parameters and tokens have a term: negative ones are left out."""
    covariance: Matrix
    largest_predicted: float | None
    """Loss of the largest run, predicted from the others; None where they are too few."""

    def predict(self, parameters: float, tokens: float, unique: float) -> tuple[float, float]:
        """Loss of one more run, and half the width of its 95 % interval."""
        import numpy as np

        row = np.array(_row(self.law, parameters, tokens, unique))[list(self.terms)]
        distance = float(row @ np.array(self.covariance) @ row)
        half = _t(len(self.runs) - len(row)) * self.spread * math.sqrt(1 + distance)
        return self.law.loss_repeating(parameters, tokens, unique), half

    def summary(self, tokens: float) -> str:
        """The quality of the fit in a sentence or two, for a plan of so many tokens."""
        factor = tokens / max(run.tokens for run in self.runs)
        words = (
            f"Fitted to {len(self.runs)} runs on your tokens (spread {self.spread:.3f} nats); "
            f"the plan has {factor:,.0f} times as many tokens as the longest of them."
        )
        if self.largest_predicted is not None:
            largest = largest_run(self.runs)
            words += (
                f" Check: the others predict {self.largest_predicted:.3f} for the largest run, "
                f"which reached {largest.loss:.3f}."
            )
        return words


def largest_run(runs: Sequence[ScalingRun]) -> ScalingRun:
    """The run with the most compute."""
    return max(runs, key=lambda run: run.parameters * run.tokens)


def fit_law(base: Law, runs: Sequence[ScalingRun], bytes_per_token: float) -> FittedLaw:
    """Refit constant and factors of `base` to runs. Raises UserError for fewer than four."""
    if len(runs) < MIN_SCALING_RUNS:
        raise UserError(
            "scaling-runs-few",
            "ttl plan --calibrate",
            f"{len(runs)} scaling runs are done, {MIN_SCALING_RUNS} are needed for a fit",
            "run the same command again with more --minutes",
        )
    found, terms, covariance, spread = _least_squares(base, runs)
    predicted = None
    if len(runs) > MIN_SCALING_RUNS:
        largest = largest_run(runs)
        others = [run for run in runs if run is not largest]
        without = _least_squares(base, others)[0]
        predicted = without.loss_repeating(
            largest.parameters, largest.tokens, largest.unique_tokens
        )
    return FittedLaw(found, tuple(runs), bytes_per_token, spread, terms, covariance, predicted)


def _least_squares(
    base: Law, runs: Sequence[ScalingRun]
) -> tuple[Law, tuple[bool, bool, bool], Matrix, float]:
    """The best law without negative terms: its terms, (X'X)^-1, spread of the residuals."""
    import numpy as np

    rows = np.array([_row(base, run.parameters, run.tokens, run.unique_tokens) for run in runs])
    losses = np.array([run.loss for run in runs])
    best = None
    for size in (3, 2, 1):
        for chosen in combinations(range(3), size):
            kept = rows[:, list(chosen)]
            scale = np.linalg.norm(kept, axis=0)
            if np.linalg.matrix_rank(kept / scale, tol=SINGULAR) < size:
                continue
            factors = np.linalg.lstsq(kept, losses)[0]
            squares = float(((losses - kept @ factors) ** 2).sum())
            if factors.min() >= 0 and (best is None or squares < best[0]):
                inverse = np.linalg.inv((kept / scale).T @ (kept / scale))
                best = squares, chosen, factors.tolist(), inverse / np.outer(scale, scale)
    assert best is not None, "a mean loss is positive"
    squares, chosen, factors, inverse = best
    by_term = dict(zip(chosen, factors, strict=True))
    e, a, b = (by_term.get(term, 0.0) for term in range(3))
    spread = math.sqrt(squares / max(1, len(runs) - len(chosen)))
    law = Law(f"{base.name}, refitted", e, a, b, base.alpha, base.beta, discounts_parameters=False)
    return law, (0 in chosen, 1 in chosen, 2 in chosen), inverse.tolist(), spread


def _row(law: Law, parameters: float, tokens: float, unique: float) -> list[float]:
    """1, N^-alpha and D^-beta, where D is the effective number of tokens."""
    bare = Law("", 0.0, 1.0, 0.0, law.alpha, law.beta)
    token_part = Law("", 0.0, 0.0, 1.0, law.alpha, law.beta)
    # Only tokens are discounted for repetition: these runs are small compared with their text.
    return [
        1.0,
        bare.loss(parameters, tokens),
        token_part.loss(parameters, law.effective_tokens(tokens, unique)),
    ]


def _t(degrees: int) -> float:
    return T95[min(max(degrees, 1), len(T95)) - 1]
