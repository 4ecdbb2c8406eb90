"""Thresholds learned from text that is known to be clean.

`ttl corpus RECIPE --calibrate CLEAN.txt` sets the threshold of each rule so that a small share of
the clean documents is beyond it. `ttl new --clean-sample` learns for a language without a folder
what such a folder holds: thresholds, stop words, letters and openings; and whether the language can
be identified at all with what is installed.
"""

from __future__ import annotations

import json
import math
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np

from teenytinyllama.errors import UserError
from teenytinyllama.languages import LanguageProfile
from teenytinyllama.languages.identification import Py3langid
from teenytinyllama.languages.language_codes import check_sample, read_code
from teenytinyllama.languages.segmentation import (
    has_spaces_between_words,
    spaced_length,
    word_spans,
)
from teenytinyllama.regular_files import check_regular
from teenytinyllama.settings.data_preparation import FilterSettings
from teenytinyllama.stages.corpus.batches import Values
from teenytinyllama.stages.corpus.filters.heuristic_rules import RULES
from teenytinyllama.stages.corpus.filters.language_data import language_data, load_language
from teenytinyllama.stages.corpus.filters.language_filter import language_probabilities, sample
from teenytinyllama.stages.corpus.filters.text_statistics import measure_batch
from teenytinyllama.stages.corpus.filters.word_table import read_words, words_of

TAIL_FRACTION = 0.01
"""Share of the clean documents that one rule may drop."""
DOCUMENT_CHARACTERS = (500, 1500, 4500)
"""A plain text is cut between paragraphs into documents of about these lengths in turn: what is
rare in a short document may be frequent in a long one. `spaced_length` counts them."""
DOCUMENTS_PER_BATCH = 50
# A plain text does not show how long documents are.
_LENGTH_RULES = ("gopher_short_doc", "gopher_long_doc")
REFERENCE = "pt"
"""A language without thresholds starts from the rules and lengths of this one."""
MIN_DOCUMENTS = 20
"""Fewer do not show what is rare; about 40 kB of plain text."""
NUM_STOP_WORDS = 16
MAX_STOP_WORDS_WANTED = 2.0
"""Gopher asks for two different stop words; a short text has no more in any language."""
NUM_OPENINGS, WORDS_OF_OPENING = 4, 3
MIN_RIVAL_SHARE = 0.1
"""Two languages are hard to tell apart where this share of the sample is taken for the other."""
MIN_LETTER_SHARE = 1e-5
"""Letters rarer than this among all letters are from other languages: names, quotations."""
# The length of words is a property of the language. Shares of repetition and of marks are not, and
# a small sample without a repeated line must not forbid them: there the looser threshold is taken.
_WORD_LENGTH_RULES = ("gopher_below_avg_threshold", "gopher_above_avg_threshold")
# The mean of one document may be far off: names and numbers in a list, children's tales.
WORD_LENGTH_SLACK = 1 / 3


@dataclass(frozen=True)
class CalibratedThresholds:
    """Thresholds by reason, and the share of the clean sample that they drop together."""

    thresholds: dict[str, float]
    num_documents: int
    dropped_fraction: float


def read_clean(path: Path) -> list[str]:
    """The documents of a clean sample. Raises UserError where it is unreadable, empty or JSON.

    Blocks between empty lines (or lines, where no line is empty) are joined until a document is
    long enough to be filtered.
    """
    try:
        check_regular(path)
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            "calibrate-unreadable",
            str(path),
            f"the clean sample cannot be read ({error})",
            "give a plain text file in UTF-8",
        ) from error
    if _is_json_record(text.lstrip().partition("\n")[0]):
        raise UserError(
            "calibrate-json",
            str(path),
            "holds JSON records; their keys and braces would be learned as words",
            "write their texts to a plain file, with empty lines between them: python -c "
            '\'import json, sys; [print(json.loads(line)["text"], end="\\n\\n") for line in '
            f'open(sys.argv[1], encoding="utf-8")]\' {shlex.quote(str(path))} > clean.txt',
        )
    documents = list(_documents(text))
    if not documents:
        raise UserError("calibrate-empty", str(path), "no text in it", "give a file of clean text")
    return documents


def _is_json_record(line: str) -> bool:
    if not line.startswith("{"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _documents(text: str) -> Iterator[str]:
    mark = "\n\n" if "\n\n" in text.strip() else "\n"
    blocks: list[str] = []
    size, lengths = 0, cycle(DOCUMENT_CHARACTERS)
    length = next(lengths)
    for block in text.split(mark):
        if not block.strip():
            continue
        blocks.append(block.strip("\n"))
        size += spaced_length(block)
        if size >= length:
            yield mark.join(blocks)
            blocks, size, length = [], 0, next(lengths)
    if blocks:
        yield mark.join(blocks)


def current_thresholds(language: str, settings: FilterSettings) -> dict[str, float]:
    """The current thresholds of a language; those of `REFERENCE` where it has none."""
    for known in (language, REFERENCE):
        found = load_language(known).thresholds.get(settings.words)
        if found:
            return found
    raise AssertionError(f"{REFERENCE} has thresholds for every word rule")


def calibrate(
    documents: list[str], settings: FilterSettings, language: str
) -> CalibratedThresholds:
    """For every rule in use the threshold that `TAIL_FRACTION` of the clean documents is beyond."""
    data = language_data(settings, language)
    current = current_thresholds(language, settings)
    in_use = [rule for rule in RULES if rule.reason in current]
    # With thresholds of 0 every value is exact, none an upper bound.
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
            thresholds[rule.reason] = current[rule.reason]
            continue
        values = np.concatenate(columns[rule.reason])
        if rule.side == "max":
            learned = float(np.nanquantile(values, 1 - TAIL_FRACTION, method="higher"))
        else:
            learned = float(np.nanquantile(values, TAIL_FRACTION, method="lower"))
        thresholds[rule.reason] = _outwards(learned, rule.side)
        dropped |= rule.drops(values, thresholds[rule.reason])
    return CalibratedThresholds(thresholds, len(documents), float(dropped.mean()))


def _outwards(value: float, side: str) -> float:
    """Three decimals, rounded to the side that keeps more."""
    scaled = value * 1000
    nearest = math.ceil(scaled - 1e-9) if side == "max" else math.floor(scaled + 1e-9)
    return nearest / 1000


def as_toml(found: CalibratedThresholds, settings: FilterSettings, language: str) -> str:
    """The table for `languages/<code>/filters.toml`, with the current thresholds beside it."""
    current = current_thresholds(language, settings)
    lines = [
        f"# Learned from {found.num_documents} clean documents: each rule drops at most "
        f"{TAIL_FRACTION:.0%} of them,",
        f"# all together {found.dropped_fraction:.1%}. The two on length are unchanged.",
        f"[thresholds.{settings.words}]",
    ]
    for reason, value in found.thresholds.items():
        lines.append(f"{f'{reason} = {value:g}':44}# now {current[reason]:g}")
    return "\n".join(lines)


def learn_language(path: Path, language: str) -> LanguageProfile:
    """Read a clean sample. Raises UserError where it cannot be read or is too small."""
    documents = [unicodedata.normalize("NFC", text) for text in read_clean(path)]
    if len(documents) < MIN_DOCUMENTS:
        raise UserError(
            "sample-small",
            str(path),
            f"only {len(documents)} documents of text, {MIN_DOCUMENTS} are needed",
            # In times, not kilobytes: documents are cut by letters, which take 1 to 4 bytes each.
            f"give about {math.ceil(MIN_DOCUMENTS / len(documents) * 10) / 10:g} times as much "
            "clean text, with empty lines between paragraphs",
        )
    known = known_fraction(documents, language)
    summary = check_sample(read_code(language), "\n".join(documents))
    stop_words = frequent_words(documents, language)
    settings = FilterSettings(stop_words=stop_words)
    found = calibrate(documents, settings, language)
    return LanguageProfile(
        num_documents=len(documents),
        summary=summary,
        thresholds=_loosened(found.thresholds, current_thresholds(language, settings)),
        stop_words=stop_words,
        letters=letters_in(documents),
        openings=_openings(documents),
        known_fraction=known,
        rival=None if known is None else rival_of(documents, language),
    )


def frequent_words(documents: Sequence[str], language: str) -> tuple[str, ...]:
    """Words with letters that occur in most documents, most frequent first.

    >>> frequent_words(["o rato e o gato", "o gato dorme", "e o cão"], "xx")[:3]
    ('o', 'e', 'gato')
    """
    counts: Counter[str] = Counter()
    for text in documents:
        words = {word.lower() for word in words_of(text, "fast", language)}
        counts.update(word for word in words if any(map(str.isalpha, word)))
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(word for word, _ in ranked[:NUM_STOP_WORDS])


def letters_in(documents: Sequence[str]) -> str:
    """Letters and combining marks of the language, in order of their code points.

    >>> letters_in(["Olá, você!"])
    'Oclováê'
    """
    signs = Counter(sign for text in documents for sign in text)
    counts = {c: n for c, n in signs.items() if unicodedata.category(c)[0] in "LM"}
    least = MIN_LETTER_SHARE * sum(counts.values())
    return "".join(sorted(letter for letter, count in counts.items() if count >= least))


def known_fraction(documents: Sequence[str], language: str) -> float | None:
    """Share of the documents that py3langid identifies as the language; None if unknown to it."""
    data = load_language(language)
    least = data.min_language_probability.get("py3langid", 0.5)
    try:
        found = language_probabilities(documents, language, "py3langid", data.labels)
    except UserError as error:
        if error.code == "language-unknown":
            return None
        raise
    return sum(probability >= least for probability in found) / len(found)


def rival_of(documents: Sequence[str], language: str) -> tuple[str, float] | None:
    """The other language that py3langid takes most documents for, and its share, from 10 %."""
    labels = Py3langid(language).likeliest([sample(text) for text in documents])
    others = Counter(label for label in labels if label != language)
    if not others:
        return None
    name, count = others.most_common(1)[0]
    share = count / len(labels)
    return (name, share) if share >= MIN_RIVAL_SHARE else None


def _openings(documents: Sequence[str]) -> tuple[str, ...]:
    """First words of some documents, spread over the sample."""
    step = max(1, len(documents) // NUM_OPENINGS)
    chosen = documents[::step][:NUM_OPENINGS]
    return tuple(dict.fromkeys(map(_opening, chosen)))


def _opening(text: str) -> str:
    """The first words of a text.

    >>> _opening("Era uma vez, ..."), _opening("我们明天去市场。")
    ('Era uma vez,', '我们明天去')
    """
    if has_spaces_between_words(text):
        return " ".join(text.split()[:WORDS_OF_OPENING])
    return text[: word_spans(text)[:WORDS_OF_OPENING][-1][1]].strip()


def _loosened(learned: dict[str, float], reference: dict[str, float]) -> dict[str, float]:
    sides = {rule.reason: rule.side for rule in RULES}
    kept: dict[str, float] = {}
    for reason, value in learned.items():
        if reason == "gopher_enough_stop_words":
            kept[reason] = min(value, MAX_STOP_WORDS_WANTED)
        elif reason in _WORD_LENGTH_RULES:
            slack = WORD_LENGTH_SLACK if sides[reason] == "max" else -WORD_LENGTH_SLACK
            kept[reason] = round(value * (1 + slack), 1)
        else:
            looser = max if sides[reason] == "max" else min
            kept[reason] = looser(value, reference[reason])
    return kept
