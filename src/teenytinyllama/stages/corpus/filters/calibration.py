"""`ttl corpus RECIPE --calibrate CLEAN.txt`: thresholds learnt from text known to be clean.

Each rule's threshold is set so that a small share of the clean documents is beyond it. That is
how a new language, or another word rule, gets its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np

from teenytinyllama.errors import UserError
from teenytinyllama.settings.data_preparation import FilterSettings
from teenytinyllama.stages.corpus.filters.heuristic_rules import RULES
from teenytinyllama.stages.corpus.filters.text_statistics import Values, measure_batch
from teenytinyllama.stages.corpus.filters.thresholds import language_data, load_language
from teenytinyllama.stages.corpus.filters.word_table import read_words

TAIL_FRACTION = 0.01
"""Share of the clean documents that one rule may drop."""
DOCUMENT_CHARACTERS = (500, 1500, 4500)
"""A plain text is cut into documents of about these lengths in turn, between paragraphs: what is
rare in a short document need not be so in a long one."""
DOCUMENTS_PER_BATCH = 50
# A plain text says nothing of how long documents are.
_LENGTH_RULES = ("gopher_short_doc", "gopher_long_doc")
REFERENCE = "pt"
"""The language whose rules and lengths a language without numbers starts from."""


@dataclass(frozen=True)
class Calibration:
    """Learnt thresholds by reason, and the share of the clean sample that they drop together."""

    thresholds: dict[str, float]
    num_documents: int
    dropped_fraction: float


def read_clean(path: Path) -> list[str]:
    """The documents of a clean sample. Raises UserError where it cannot be read or is empty.

    Blocks between empty lines (lines, where no line is empty) are laid together until a document
    is long enough to be judged.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            "calibrate-unreadable",
            str(path),
            f"the clean sample cannot be read ({error})",
            "give a plain text file in UTF-8",
        ) from error
    documents = list(_documents(text))
    if not documents:
        raise UserError("calibrate-empty", str(path), "no text in it", "give a file of clean text")
    return documents


def _documents(text: str) -> Iterator[str]:
    mark = "\n\n" if "\n\n" in text.strip() else "\n"
    blocks: list[str] = []
    size, lengths = 0, cycle(DOCUMENT_CHARACTERS)
    length = next(lengths)
    for block in text.split(mark):
        if not block.strip():
            continue
        blocks.append(block.strip("\n"))
        size += len(block)
        if size >= length:
            yield mark.join(blocks)
            blocks, size, length = [], 0, next(lengths)
    if blocks:
        yield mark.join(blocks)


def thresholds_now(language: str, settings: FilterSettings) -> dict[str, float]:
    """The numbers a language has today; those of `REFERENCE` where it has none."""
    for known in (language, REFERENCE):
        found = load_language(known).thresholds.get(settings.words)
        if found:
            return found
    raise AssertionError(f"{REFERENCE} has thresholds for every word rule")


def calibrate(documents: list[str], settings: FilterSettings, language: str) -> Calibration:
    """Thresholds beyond which `TAIL_FRACTION` of the clean documents lie, for every rule in use."""
    data = language_data(settings, language)
    now = thresholds_now(language, settings)
    in_use = [rule for rule in RULES if rule.reason in now]
    # A threshold of 0 makes every share exact; from below nothing is bounded.
    exact = {rule.reason: 0.0 for rule in in_use}
    columns: dict[str, list[Values]] = {rule.reason: [] for rule in in_use}
    for start in range(0, len(documents), DOCUMENTS_PER_BATCH):
        batch = documents[start : start + DOCUMENTS_PER_BATCH]
        words = read_words(batch, settings.words, language)
        found = measure_batch(batch, words, exact, data.stop_words, first_reason_only=False)
        for reason, values in found.items():
            columns[reason].append(values)
    thresholds: dict[str, float] = {}
    dropped = np.zeros(len(documents), dtype=bool)
    for rule in in_use:
        if rule.reason in _LENGTH_RULES:
            thresholds[rule.reason] = now[rule.reason]
            continue
        values = np.concatenate(columns[rule.reason])
        if rule.side == "max":
            learnt = float(np.nanquantile(values, 1 - TAIL_FRACTION, method="higher"))
        else:
            learnt = float(np.nanquantile(values, TAIL_FRACTION, method="lower"))
        thresholds[rule.reason] = _outwards(learnt, rule.side)
        edge = thresholds[rule.reason]
        dropped |= values > edge if rule.side == "max" else values < edge
    return Calibration(thresholds, len(documents), float(dropped.mean()))


def _outwards(value: float, side: str) -> float:
    """Three digits after the point, rounded to the side that keeps more."""
    scaled = value * 1000
    nearest = math.ceil(scaled - 1e-9) if side == "max" else math.floor(scaled + 1e-9)
    return nearest / 1000


def as_toml(found: Calibration, settings: FilterSettings, language: str) -> str:
    """The table to put into `languages/<code>/filters.toml`, with today's numbers beside it."""
    now = thresholds_now(language, settings)
    lines = [
        f"# Learnt from {found.num_documents} clean documents: each rule drops at most "
        f"{TAIL_FRACTION:.0%} of them,",
        f"# all together {found.dropped_fraction:.1%}. The two on length are kept as they were.",
        f"[thresholds.{settings.words}]",
    ]
    for reason, value in found.thresholds.items():
        lines.append(f"{f'{reason} = {value:g}':44}# now {now[reason]:g}")
    return "\n".join(lines)
