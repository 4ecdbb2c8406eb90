"""Mixes that follow one another in training: which documents each phase has.

Every source is one stream of documents: all of them in a seeded order, then, where it may be read
more than once, all of them again in another. A phase takes whole documents from each stream until
the tokens of all phases so far are at least those asked for; the next one goes on from there. So
no document is read twice before its whole source was read, and counts are right to one document.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from teenytinyllama.console import aligned
from teenytinyllama.errors import UserError
from teenytinyllama.settings.data_preparation import PackSettings
from teenytinyllama.stages.pack.document_order import arrange, check_sources


def tokens_by_phase(settings: PackSettings) -> list[dict[str, int]]:
    """Tokens of each source that each phase asks for.

    >>> last = {"share": 0.25, "weights": {"books": 1.0}}
    >>> first = {"share": 0.75, "weights": {"web": 2.0, "books": 1.0}}
    >>> tokens_by_phase(PackSettings.model_validate({"num_tokens": 400, "phases": (first, last)}))
    [{'web': 200, 'books': 100}, {'books': 100}]
    """
    return [
        {
            name: round(settings.num_tokens * phase.share * weight / sum(phase.weights.values()))
            for name, weight in phase.weights.items()
            if weight
        }
        for phase in settings.phases
    ]


def phase_table(settings: PackSettings, available: Mapping[str, int] | None = None) -> str:
    """Tokens of each source in each phase as lines of text; with `available` (the tokens that each
    source has) also how often it is read.
    """
    wanted = tokens_by_phase(settings)
    names = sorted({name for phase in wanted for name in phase} | set(available or ()))
    totals = {name: sum(phase.get(name, 0) for phase in wanted) for name in names}
    rows = [["phase", "share", "tokens", *names]]
    for number, (phase, tokens) in enumerate(zip(settings.phases, wanted, strict=True), start=1):
        cells = [f"{tokens.get(name, 0):,}" for name in names]
        rows.append([str(number), f"{phase.share:.1%}", f"{sum(tokens.values()):,}", *cells])
    if available is not None:
        cells = [f"{available.get(name, 0):,}" for name in names]
        rows.append(["there are", "", f"{sum(available.values()):,}", *cells])
        times = [f"{totals[name] / available[name]:.2f}" for name in names]
        rows.append(["times read", "", "", *times])
    return "\n".join(aligned(rows))


def tokens_of_sources(num_tokens: NDArray[np.int64], sources: ArrayLike) -> dict[str, int]:
    """Tokens of each source."""
    names, place = np.unique(np.asarray(sources), return_inverse=True)
    totals = np.zeros(len(names), np.int64)
    np.add.at(totals, place, num_tokens)
    return {str(name): int(total) for name, total in zip(names, totals, strict=True)}


def check_phases(settings: PackSettings, available: Mapping[str, int]) -> None:
    """Raise UserError for a source that does not exist, or has too few tokens for the phases."""
    known = sorted(available)
    check_sources("pack.epochs", settings.epochs, known)
    used = dict.fromkeys(known, 0)
    for number, phase in enumerate(tokens_by_phase(settings), start=1):
        check_sources(f"pack.phases.{number}.weights", phase, known)
        for name, tokens in phase.items():
            used[name] += tokens
            allowed = settings.epochs.get(name, 1.0)
            if used[name] > allowed * available[name] + 0.5:
                total = sum(one.get(name, 0) for one in tokens_by_phase(settings))
                times = math.ceil(100 * total / available[name]) / 100
                raise UserError(
                    "phase-uses-up-source",
                    f"pack.phases.{number}.weights.{name}",
                    f"{name} has {available[name]:,} tokens, and the phases up to this one read "
                    f"{used[name]:,}; all of them would read it {times:g} times, allowed "
                    f"{allowed:g}",
                    f"--set pack.epochs.{name}={times:g}, or another weight",
                )


def phase_orders(
    num_tokens: NDArray[np.int64], sources: Sequence[str], settings: PackSettings
) -> list[NDArray[np.int64]]:
    """Indices of the documents of each phase, in packing order: a function of the seed alone.

    The settings are those that `check_phases` takes.
    """
    wanted = tokens_by_phase(settings)
    generator = np.random.Generator(np.random.Philox(key=settings.seed))
    names = np.array(sources)
    chosen: list[list[NDArray[np.int64]]] = [[] for _ in wanted]
    for name in sorted({name for phase in wanted for name in phase}):
        documents = np.flatnonzero(names == name)
        targets = np.cumsum([phase.get(name, 0) for phase in wanted])
        passes = math.ceil(targets[-1] / int(num_tokens[documents].sum()))
        stream = np.concatenate([generator.permutation(documents) for _ in range(passes)])
        # The first document that reaches beyond the target is the last of the phase.
        stops = np.searchsorted(np.cumsum(num_tokens[stream]), targets, side="right") + 1
        stops = np.where(targets > 0, np.minimum(stops, len(stream)), 0)
        for phase, part in zip(chosen, np.split(stream[: stops[-1]], stops[:-1]), strict=True):
            phase.append(part)
    return [arrange(np.concatenate(phase), num_tokens, settings, generator) for phase in chosen]
