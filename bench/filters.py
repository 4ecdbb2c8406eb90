"""Speed of the filters per core against datatrove, and whether the two decide the same.

    python bench/filters.py [--data DIR] [--every 24] [--whole]

Both sides run FineWeb-2's filters for Portuguese (repetition, FineWeb, quality) in turn, round by
round: we take a third of the corpus, datatrove every `--every`-th document of that third, because
it is slow. Our cache of spaCy's tokens starts empty.
Speeds are UTF-8 bytes of text per second of CPU time of one process. `--whole` gives datatrove all
documents (about ten minutes). Documents with different decisions are listed.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.filters import (
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.utils import word_tokenizers
from datatrove.utils.text import split_into_parts
from datatrove.utils.word_tokenizers import WordTokenizer

from teenytinyllama.settings.data_preparation import FilterSettings
from teenytinyllama.stages.corpus.filters import heuristic_rules
from teenytinyllama.stages.corpus.filters.language_data import language_data, load_language
from teenytinyllama.stages.corpus.filters.rule_filters import thresholds_for
from teenytinyllama.stages.corpus.filters.word_table import FAST_WORD, spacy_cuts, words_of
from teenytinyllama.stages.corpus.steps import FilterPipeline

ROUNDS = 3
Filter = Callable[[Sequence[str]], list[str | None]]


class FastWords(WordTokenizer):
    """Our word rule, for datatrove."""

    def word_tokenize(self, text: str) -> list[str]:
        return FAST_WORD.findall(text)

    def sent_tokenize(self, text: str) -> list[str]:
        raise NotImplementedError

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        raise NotImplementedError


def datatrove_filters(language: object, thresholds: dict[str, float]) -> Filter:
    """datatrove's three filters, one after the other, as its pipeline runs them."""
    t = thresholds
    filters = [
        GopherRepetitionFilter(
            dup_line_frac=t["dup_line_frac"],
            dup_para_frac=0,
            dup_line_char_frac=0,
            dup_para_char_frac=0,
            top_n_grams=tuple((n, t[f"top_{n}_gram"]) for n in (2, 3, 4)),
            dup_n_grams=tuple((n, t[f"duplicated_{n}_n_grams"]) for n in range(5, 11)),
            language=language,
        ),
        FineWebQualityFilter(
            line_punct_thr=t["line_punct_ratio"],
            short_line_thr=999,
            char_duplicates_ratio=t["char_dup_ratio"],
            new_line_ratio=t["list_ratio"],
            language=language,
        ),
        GopherQualityFilter(
            min_doc_words=int(t["gopher_short_doc"]),
            max_doc_words=int(t["gopher_long_doc"]),
            min_avg_word_length=t["gopher_below_avg_threshold"],
            max_avg_word_length=t["gopher_above_avg_threshold"],
            max_symbol_word_ratio=t["gopher_too_many_hashes"],
            max_bullet_lines_ratio=t["gopher_too_many_bullets"],
            max_ellipsis_lines_ratio=t["gopher_too_many_end_ellipsis"],
            max_non_alpha_words_ratio=t["gopher_below_alpha_threshold"],
            min_stop_words=int(t["gopher_enough_stop_words"]),
            stop_words=sorted(load_language("pt").stop_words),
            language=language,
        ),
    ]

    def run(texts: Sequence[str]) -> list[str | None]:
        reasons: list[str | None] = []
        for text in texts:
            document = Document(text=text, id="")
            reason = None
            for one in filters:
                result = one.filter(document)
                if result is not True:
                    reason = result[1]
                    break
            reasons.append(reason)
        return reasons

    return run


def our_filters(pipeline: FilterPipeline) -> Filter:
    return lambda texts: [result.reason for result in pipeline.apply(texts)]


def timed(run: Filter, texts: Sequence[str]) -> tuple[list[str | None], float]:
    """Reasons, and megabytes per second of CPU time."""
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    start = time.process_time()
    reasons = run(texts)
    return reasons, size / 1e6 / (time.process_time() - start)


def explain(text: str, filters: FilterSettings, ours: str | None, theirs: str | None) -> str:
    """Both reasons with their numbers."""
    stop_words = language_data(filters, "pt").stop_words
    values = heuristic_rules.measure(text, words_of(text, filters.words, "pt"), stop_words)
    shown = {name: round(values.get(name, -1), 5) for name in (ours, theirs) if name in values}
    return f"ours {ours}, datatrove {theirs}: {shown} in {text[:60]!r} ({len(text)} characters)"


def read_texts(folder: Path) -> list[str]:
    texts = []
    for path in sorted(folder.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            texts.extend(json.loads(line)["text"] for line in lines)
    return texts


def figure(
    name: str, rows: list[float], unit: str, peer: object, goal: object, *, holds: bool
) -> None:
    record = {
        "figure": name,
        "value": round(statistics.median(rows), 3),
        "spread": [round(min(rows), 3), round(max(rows), 3)],
        "unit": unit,
        "peer": peer,
        "goal": goal,
        "holds": holds,
    }
    print(json.dumps(record))


def compare(words: str, goal: float, texts: list[str], every: int) -> None:
    filters = FilterSettings(words=words, families=("repetition", "fineweb", "quality"))
    language = word_tokenizers.load_word_tokenizer("por_Latn") if words == "spacy" else FastWords()
    theirs = datatrove_filters(language, thresholds_for(filters, "pt"))
    ours = our_filters(FilterPipeline(filters, "pt"))
    warm = ["Bom dia a todos.", "Uma frase."]
    ours(warm)
    theirs(warm)
    if words == "spacy":
        spacy_cuts.cache_clear()
        spacy_cuts("pt")
    our_speeds, their_speeds, differ, checked = [], [], [], 0
    our_seconds = our_megabytes = 0.0
    for number in range(ROUNDS):
        part = texts[number::ROUNDS]
        megabytes = sum(len(text.encode()) for text in part) / 1e6
        reasons, speed = timed(ours, part)
        our_speeds.append(speed)
        our_megabytes += megabytes
        our_seconds += megabytes / speed
        sample = range(0, len(part), every)
        split_into_parts.cache_clear()
        their_reasons, speed = timed(theirs, [part[place] for place in sample])
        their_speeds.append(speed)
        for place, their_reason in zip(sample, their_reasons, strict=True):
            checked += 1
            if reasons[place] != their_reason:
                differ.append(explain(part[place], filters, reasons[place], their_reason))
        kept = Counter(reasons)[None]
        line = f"ours {our_speeds[-1]:.2f}, datatrove {speed:.3f} MB/s, kept {kept}"
        print(f"{words} round {number}: {line}")
    for line in differ:
        print(f"  differs: {line}")
    peer = round(statistics.median(their_speeds), 3)
    whole = our_megabytes / our_seconds
    ratios = [a / b for a, b in zip(our_speeds, their_speeds, strict=True)]
    name = f"filters_{words}"
    figure(f"{name}_mb_per_s", our_speeds, "MB/s", peer, goal, holds=whole >= goal)
    figure(f"{name}_whole_corpus_mb_per_s", [whole], "MB/s", peer, goal, holds=whole >= goal)
    figure(f"{name}_times_datatrove", ratios, "ratio", "datatrove 0.10.1", 1, holds=min(ratios) > 1)
    same = 1 - len(differ) / checked
    unit = f"share of {checked}"
    figure(f"{name}_same_decision_and_reason", [same], unit, None, 0.998, holds=same >= 0.998)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/corpus"))
    parser.add_argument("--every", type=int, default=24)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--words", choices=("fast", "spacy"), action="append")
    options = parser.parse_args()
    texts = read_texts(options.data)
    if not texts:
        sys.exit(f"no *.jsonl.gz in {options.data}")
    every = 1 if options.whole else options.every
    goals = {"fast": 6.0, "spacy": 2.5}
    for words in options.words or goals:
        compare(words, goals[words], texts, every)


if __name__ == "__main__":
    main()
