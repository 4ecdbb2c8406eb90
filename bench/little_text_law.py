"""Fit the planner's law of little text to the trainings of little_text.py.

    python bench/little_text_law.py    # seconds; prints the rows of planning/reference_data.toml

bits per byte = e + a / N^alpha + b / D^beta for N parameters. D is the effective text in MB of U MB
read P times, U (1 + r (1 - exp(-(P - 1) / r))) as by Muennighoff et al. (2023). alpha is Besiroglu
et al.'s: models of about one size say nothing about it. beta and r are the best of a grid, e, a and
b least squares without negative terms. The public Portuguese runs of reference_data.toml, 100 to
1,000 times as large, hold the far end; their text is other text, so they have a constant more.

Trainings of four passes, and of more with about the decay that they need (the best of each text,
passes and size); the pilot before the package had these settings is in PILOT (EXPERIMENTS.md).

An ensemble of K members lowers the text's term by the share g (1 - 1 / K).
"""

from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from scipy.optimize import nnls

from teenytinyllama.modeling.model_size import num_parameters
from teenytinyllama.planning.planner import bytes_per_token
from teenytinyllama.planning.reference_data import law_constants, reference_runs

RESULTS = Path(__file__).parent / "results" / "little_text.jsonl"
ALPHA = law_constants("besiroglu")["alpha"]
BETAS = np.arange(0.10, 0.45, 0.01)
REPEATS = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 15.4)
REFERENCE_VOCAB_SIZE = 32_000
# Text in MB, passes, parameters, bits per byte.
PILOT = ((1, 4, 1.3e6, 2.102), (2, 4, 1.3e6, 1.827), (4, 4, 1.3e6, 1.681))
PILOT += ((1, 16, 1.3e6, 1.941), (1, 16, 2.5e6, 1.953))
# Members' mean, and ensembles of two and three of them.
PILOT_ENSEMBLES = ((1.941, 2, 1.880), (1.941, 3, 1.858))
# qlabs-eng/slowrun, a plain model on 100 M tokens, against one pass; arXiv 2509.14786, passes, size
# and ensembles on 200 M tokens.
PUBLISHED = {"slowrun, one model": (3.7, 1), "2509.14786, ensemble": (5.2, 8)}


class Run(NamedTuple):
    text_mb: float
    passes: float
    parameters: float
    bpb: float
    is_public: bool = False


def read_runs() -> list[Run]:
    """The best training of each text, number of passes and size, averaged over seeds."""
    found: dict[tuple[Any, ...], dict[str, list[float]]] = {}
    for line in RESULTS.read_text().splitlines():
        row = json.loads(line)
        if "heldout_bpb" not in row or "heldout_bpb_of_ensemble" in row:
            continue
        key = (row["text"], row["text_mb"], row["passes"], row["parameters"])
        found.setdefault(key, {}).setdefault(row["recipe"], []).append(row["heldout_bpb"])
    runs = [
        Run(size, passes, parameters, min(float(np.mean(seeds)) for seeds in recipes.values()))
        for (_, size, passes, parameters), recipes in found.items()
    ]
    # Where more passes made it worse the decay was wrong.
    four = {(r.text_mb, r.parameters): r.bpb for r in runs if r.passes == 4}
    good = [r for r in runs if r.bpb <= four.get((r.text_mb, r.parameters), math.inf)]
    return [*good, *(Run(*row) for row in PILOT)]


def public_runs() -> list[Run]:
    each = bytes_per_token(REFERENCE_VOCAB_SIZE)
    found = []
    for one in reference_runs():
        unique = min(one.unique_tokens, one.tokens)
        size = num_parameters(one.model, REFERENCE_VOCAB_SIZE)
        bpb = one.loss / math.log(2) / each
        found.append(Run(unique * each / 1e6, one.tokens / unique, size, bpb, is_public=True))
    return found


def effective(text_mb: float, passes: float, repeats: float) -> float:
    return text_mb * (1 + repeats * (1 - math.exp(-(passes - 1) / repeats)))


def fit(runs: list[Run]) -> dict[str, float]:
    best: tuple[float, dict[str, float]] | None = None
    targets = np.array([r.bpb for r in runs])
    # A public run counts as one of ours; they are few, and about other text.
    for beta, repeats in product(BETAS, REPEATS):
        rows = np.array(
            [
                [
                    1.0,
                    r.parameters**-ALPHA,
                    effective(r.text_mb, r.passes, repeats) ** -beta,
                    float(r.is_public),
                ]
                for r in runs
            ]
        )
        factors, norm = nnls(rows, targets)
        if best is None or norm < best[0]:
            names = ("e", "a", "b", "other_text")
            best = (
                norm,
                {**dict(zip(names, factors, strict=True)), "beta": beta, "repeats": repeats},
            )
    assert best is not None
    norm, law = best
    degrees = len(runs) - len(law)
    law["half_width"] = stats.t.ppf(0.975, degrees) * norm / math.sqrt(degrees)
    return law


def predict(law: dict[str, float], run: Run) -> float:
    text = effective(run.text_mb, run.passes, law["repeats"])
    terms = law["e"] + law["a"] * run.parameters**-ALPHA + law["b"] * text ** -law["beta"]
    return float(terms + law["other_text"] * run.is_public)


def ensemble_gain(law: dict[str, float]) -> float:
    """g of the text's term, by least squares over ensembles."""
    pairs = []
    term = law["b"] * effective(1, 16, law["repeats"]) ** -law["beta"]
    for single, members, bpb in PILOT_ENSEMBLES:
        pairs.append((1 - 1 / members, (single - bpb) / term))
    for line in RESULTS.read_text().splitlines():
        row = json.loads(line)
        if "heldout_bpb_of_ensemble" in row:
            alone = row["heldout_bpb_of_members"]
            term = (
                law["b"] * effective(row["text_mb"], row["passes"], law["repeats"]) ** -law["beta"]
            )
            lower = float(np.mean(alone)) - row["heldout_bpb_of_ensemble"]
            pairs.append((1 - 1 / len(alone), lower / term))
    shares, gains = np.array(pairs).T
    return float(shares @ gains / (shares @ shares))


def main() -> None:
    ours, public = read_runs(), public_runs()
    law = fit([*ours, *public])
    law["ensemble_gain"] = ensemble_gain(law)
    for run in [*ours, *public]:
        print(f"{run.text_mb:>12,.2f} MB x {run.passes:<5.2f} {run.parameters / 1e6:>8.2f} M: "
              f"{run.bpb:.3f}, law {predict(law, run):.3f}")  # fmt: skip
    largest = max(r.text_mb for r in ours)
    rest = [r for r in ours if r.text_mb < largest]
    without = fit([*rest, *public])
    for run in (r for r in ours if r.text_mb == largest):
        print(f"fitted without {largest:g} MB: {predict(without, run):.3f} there, {run.bpb:.3f} "
              "measured")  # fmt: skip
    within, count = 0, 0
    for place, run in enumerate(ours):
        others = fit([*ours[:place], *ours[place + 1 :], *public])
        within += abs(predict(others, run) - run.bpb) <= others["half_width"]
        count += 1
    print(f"fitted without it, {within} of {count} trainings lie in the interval")
    for name, (worth, members) in PUBLISHED.items():
        text = effective(1, 16, law["repeats"])
        text *= (1 - law["ensemble_gain"] * (1 - 1 / members)) ** (-1 / law["beta"])
        print(f"{name}: {worth} times the text, law {text:.1f} times one pass")
    print("[little_text]")
    for name, value in law.items():
        print(f"{name} = {value:.4g}")
    print(f"largest_parameters = {max(r.parameters for r in ours):.3g}")
    print(f"largest_text_mb = {largest:g}")


if __name__ == "__main__":
    main()
