"""Search in the chat data, and attribution: does an answer match training data word for word?"""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np

from teenytinyllama.errors import UserError
from teenytinyllama.languages.segmentation import has_unspaced_letters, word_spans
from teenytinyllama.progress import format_duration
from teenytinyllama.serving.search.chat_sources import ChatSources
from teenytinyllama.serving.search.retriever import (
    ChatExample,
    Retriever,
    build_index,
    normalize_word,
    open_index,
    words_of,
)

logger = logging.getLogger(__name__)

MAX_WORDS = 1500
NUM_SHOWN = 5
NUM_CANDIDATES = 50
MIN_RUN_WORDS = 6
"""A shorter shared run is chance and does not count as a match."""
MIN_WHOLE_WORDS = 3
"""A shorter answer of at least this many words matches where all of it is one run of the data."""
COMMON_FRACTION = 0.2
MIN_LETTERS = 3
"""Shorter words, where spaces separate them, are not marked; nor are words that are in more than
COMMON_FRACTION of the examples."""
PLAIN, SHARED, RUN = 0, 1, 2

Segments = list[tuple[str, int]]


class SearchLoader:
    """Opens the index, or builds it, in a background thread."""

    def __init__(self, sources: ChatSources) -> None:
        self.sources = sources
        self.service: SearchService | None = None
        self.state = "the search index is being built"
        self._thread = threading.Thread(target=self._load, name="index", daemon=True)

    def start(self) -> None:
        """Start to open or build."""
        self._thread.start()

    def wait(self, timeout_s: float) -> None:
        """Return when the index is ready or has failed."""
        self._thread.join(timeout_s)

    def _load(self) -> None:
        try:
            self.service = SearchService(self._open_or_build())
            self.state = "ready"
        except Exception as error:  # the files may hold anything; the models are served without
            self.state = "the chat data cannot be searched, see the server's log"
            is_bug = not isinstance(error, UserError | OSError | ValueError)
            logger.warning(f"serve: the chat data cannot be searched: {error}", exc_info=is_bug)

    def _open_or_build(self) -> Retriever:
        fingerprint = self.sources.fingerprint()
        folder, language = self.sources.index_dir, self.sources.language
        kept = open_index(folder, fingerprint, language)
        if kept is not None:
            return kept
        started_at = time.monotonic()
        try:
            retriever = build_index(folder, self.sources.conversations(), fingerprint, language)
        except PermissionError:
            folder = Path(tempfile.mkdtemp(prefix="ttl-search-")) / "index"
            retriever = build_index(folder, self.sources.conversations(), fingerprint, language)
        took = format_duration(time.monotonic() - started_at)
        logger.info(f"serve: {len(retriever):,} chat examples indexed in {took}, kept in {folder}")
        return retriever


class SearchService:
    """Answers the page's requests from an open index."""

    def __init__(self, retriever: Retriever) -> None:
        self.retriever = retriever

    def examples(self, query: str = "", offset: int = 0, limit: int = 10) -> dict[str, Any]:
        """One page of the examples that match a query, or of all of them in order."""
        started_at = time.perf_counter()
        if query := query.strip():
            ranked = self.retriever.nearest(query, min(offset + limit + 1, 1000))
            page = [number for number, _ in ranked[offset : offset + limit]]
            more = len(ranked) > offset + limit
        else:
            page = list(range(offset, min(offset + limit, len(self.retriever))))
            more = offset + limit < len(self.retriever)
        stems = self._rare_stems(query)
        found = [self._as_json(self.retriever.example(number), stems, []) for number in page]
        return {
            "total": len(self.retriever),
            "more": more,
            "examples": found,
            "duration_ms": round(1000 * (time.perf_counter() - started_at), 2),
        }

    def attribution(self, text: str) -> dict[str, Any]:
        """Where an answer's words may come from: its longest shared run and nearest examples."""
        started_at = time.perf_counter()
        spans = word_spans(text)[:MAX_WORDS]
        if len(spans) == MAX_WORDS:
            text = text[: spans[-1][1]]
        sizes, numbers = self.retriever.shared_runs(text)
        sizes, numbers = sizes[: len(spans)], numbers[: len(spans)]
        longest = int(sizes.max(initial=0))
        is_whole = longest == len(spans) >= MIN_WHOLE_WORDS
        min_run = min(len(spans), MIN_RUN_WORDS) if is_whole else MIN_RUN_WORDS
        matched = _covered(sizes, min_run)
        words = words_of(text)
        ranked = [number for number, _ in self.retriever.nearest(text, NUM_CANDIDATES)]
        if longest >= min_run:
            first = int(sizes.argmax())
            run = words[first : first + longest]
            origin = self._origin_of(run, ranked, numbers[first])
            ranked = [origin, *(number for number in ranked if number != origin)]
        stems = self._rare_stems(text)
        return {
            "num_words": len(spans),
            "longest_run_words": longest,
            "matched_fraction": round(float(matched.mean()) if len(spans) else 0.0, 4),
            "min_run_words": min_run,
            "too_short": len(spans) < MIN_WHOLE_WORDS,
            "answer": _segments(text, spans, np.where(matched, RUN, PLAIN).tolist()),
            "examples": [self._as_json(one, stems, words) for one in self._distinct(ranked)],
            "duration_ms": round(1000 * (time.perf_counter() - started_at), 2),
        }

    def _distinct(self, numbers: list[int]) -> list[ChatExample]:
        """The first NUM_SHOWN examples with different messages."""
        shown: list[ChatExample] = []
        for number in numbers:
            example = self.retriever.example(number)
            if all(example.messages != other.messages for other in shown):
                shown.append(example)
            if len(shown) == NUM_SHOWN:
                break
        return shown

    def _origin_of(self, run: list[str], candidates: list[int], otherwise: int) -> int:
        """The nearest example that contains this run; many may."""
        wanted = f" {' '.join(run)} "
        for number in candidates:
            messages = self.retriever.example(number).messages
            if any(wanted in f" {' '.join(words_of(m['content']))} " for m in messages):
                return number
        return otherwise

    def _rare_stems(self, text: str) -> set[str]:
        """Stems of a text that are in at most COMMON_FRACTION of the examples."""
        words = {
            word
            for word in words_of(text)
            if len(word) >= MIN_LETTERS or has_unspaced_letters(word)
        }
        stems = {self.retriever.stemmer(word) for word in words}
        frequency = self.retriever.document_frequency
        return {stem for stem in stems if 0 < frequency(stem) <= COMMON_FRACTION}

    def _as_json(self, example: ChatExample, stems: set[str], words: list[str]) -> dict[str, Any]:
        """An example for the page: its text in segments, marked where it is shared."""
        spans = [word_spans(message["content"]) for message in example.messages]
        normalized = [
            [normalize_word(message["content"][start:end]) for start, end in places]
            for message, places in zip(example.messages, spans, strict=True)
        ]
        runs = [
            SequenceMatcher(None, its_words, words, autojunk=False).find_longest_match()
            for its_words in normalized
        ]
        owner = max(range(len(runs)), key=lambda number: runs[number].size)
        messages = []
        for number, its_words in enumerate(normalized):
            shared = {word: self.retriever.stemmer(word) in stems for word in its_words}
            kinds = [SHARED if shared[word] else PLAIN for word in its_words]
            start, size = runs[number].a, runs[number].size
            if owner == number and size > 2:
                kinds[start : start + size] = [RUN] * size
            message = example.messages[number]
            segments = _segments(message["content"], spans[number], kinds)
            messages.append({"role": message["role"], "segments": segments})
        return {
            "number": example.number,
            "source": example.source,
            "messages": messages,
            "run_words": runs[owner].size,
        }


def _covered(sizes: Any, min_words: int) -> Any:
    """Which words lie in a run of at least `min_words`."""
    covered = np.zeros(len(sizes), bool)
    for start in np.flatnonzero(sizes >= min_words):
        covered[start : start + sizes[start]] = True
    return covered


def _segments(text: str, spans: list[tuple[int, int]], kinds: list[int]) -> Segments:
    """The text cut where its marks change; what lies between two words of a run belongs to it.

    >>> _segments("a raposa, Lila!", [(0, 1), (2, 8), (10, 14)], [0, 2, 2])
    [('a ', 0), ('raposa, Lila', 2), ('!', 0)]
    """
    parts: Segments = []
    at, last = 0, PLAIN
    for (start, end), kind in zip(spans, kinds, strict=False):
        between = RUN if kind == last == RUN else PLAIN
        parts += [(text[at:start], between), (text[start:end], kind)]
        at, last = end, kind
    parts.append((text[at:], PLAIN))
    joined: Segments = []
    for words, kind in parts:
        if joined and joined[-1][1] == kind:
            joined[-1] = (joined[-1][0] + words, kind)
        elif words:
            joined.append((words, kind))
    return joined
