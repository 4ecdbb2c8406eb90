"""What the page asks the chat data: is this answer quoting, and what is there at all?"""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from teenytinyllama.errors import UserError
from teenytinyllama.inference.chat_model import ChatModel
from teenytinyllama.progress import format_duration
from teenytinyllama.serving.protocol import Fields, bad
from teenytinyllama.serving.search.chat_sources import ChatSources, sources_of
from teenytinyllama.serving.search.retriever import Example, Index, build_index, open_index
from teenytinyllama.serving.search.stemming import plain, spans_of
from teenytinyllama.serving.search.vectors import (
    Vectors,
    build_vectors,
    fingerprint_of_table,
    open_vectors,
)

logger = logging.getLogger(__name__)


__all__ = ["Finder", "Lookup", "sources_of"]

MAX_WORDS = 1500
MAX_CHARACTERS = 8000  # of a text that is turned into a vector
NUM_SHOWN = 5
NUM_CANDIDATES = 50
MIN_RUN_WORDS = 6
"""A shorter run than this is shared by chance and not called a quote."""
MIN_WHOLE_WORDS = 3
"""An answer of so many words is a quote where all of it stands in the data in one run."""
COMMON_SHARE = 0.2
MIN_LETTERS = 3
"""A shorter word, or one that more than this share of the examples holds, is not marked."""
PLAIN, SHARED, RUN = 0, 1, 2
MAX_PAGE_SIZE = 50

Segments = list[tuple[str, int]]


class Lookup:
    """Opens the index, or builds it, beside the server's other work."""

    def __init__(self, sources: ChatSources, chat_model: ChatModel | None = None) -> None:
        self.sources, self.chat_model = sources, chat_model
        self.ready: Finder | None = None
        self.state = "the search index is being built"
        self._thread = threading.Thread(target=self._prepare, name="index", daemon=True)

    def start(self) -> None:
        """Begin to open or build."""
        self._thread.start()

    def wait(self, timeout_s: float) -> None:
        """Return when it is ready or has failed."""
        self._thread.join(timeout_s)

    def _prepare(self) -> None:
        try:
            index = self._open()
            self.ready = Finder(index)
            self.state = "ready"
            if self.chat_model is not None:
                self.ready = Finder(index, self._open_view(index, self.chat_model))
        except (UserError, OSError, ValueError) as error:
            self.state = f"the chat data cannot be searched: {error}"
            logger.info(f"serve: {self.state}")

    def _open(self) -> Index:
        fingerprint = self.sources.fingerprint()
        folder, language = self.sources.index_dir, self.sources.language
        kept = open_index(folder, fingerprint, language)
        if kept is not None:
            return kept
        started_at = time.monotonic()
        try:
            index = build_index(folder, self.sources.conversations(), fingerprint, language)
        except PermissionError:
            folder = Path(tempfile.mkdtemp(prefix="ttl-search-")) / "index"
            index = build_index(folder, self.sources.conversations(), fingerprint, language)
        took = format_duration(time.monotonic() - started_at)
        logger.info(f"serve: {len(index):,} chat examples indexed in {took}, kept in {folder}")
        return index

    def _open_view(self, index: Index, chat_model: ChatModel) -> View:
        """The model's own view of the same examples; words alone answer until it is there."""
        embedding = chat_model.decoder.embedding.detach().float().cpu().numpy()
        fingerprint = fingerprint_of_table(self.sources.fingerprint(), embedding)
        folder = index.folder / "vectors"
        vectors = open_vectors(folder, fingerprint)
        if vectors is None:
            started_at = time.monotonic()
            texts = (text_of(index.example(number)) for number in range(len(index)))
            ids = (chat_model.encoder.encode(text[:MAX_CHARACTERS]) for text in texts)
            vectors = build_vectors(folder, ids, embedding, fingerprint)
            took = format_duration(time.monotonic() - started_at)
            logger.info(
                f"serve: {len(vectors):,} vectors by {chat_model.name}'s own table in {took}"
            )
        return View(chat_model.name, vectors, chat_model.encoder.encode)


class View(NamedTuple):
    """What a model finds near: its name, its vectors, and how it spells a text."""

    model: str
    vectors: Vectors
    encode: Callable[[str], list[int]]

    def nearest(self, text: str, limit: int) -> list[tuple[int, float]]:
        """Numbers of the nearest examples with their cosines."""
        return self.vectors.nearest(self.encode(text[:MAX_CHARACTERS]), limit)


def text_of(example: Example) -> str:
    """What an example's vector stands for: all its words, question first."""
    return "\n".join(message["content"] for message in example.messages)


class Finder:
    """Answers the page's questions from an open index."""

    def __init__(self, index: Index, view: View | None = None) -> None:
        self.index, self.view = index, view

    def examples(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Examples that a query finds, or all of them in order; a page of them at a time."""
        started_at = time.perf_counter()
        fields = Fields(values, frozenset({"query", "offset", "limit", "view"}))
        query = fields.text("query", "").strip()
        if len(query) > 2000:
            raise bad("query", f"query has {len(query)} characters, at most 2000 are allowed")
        offset = fields.whole("offset", 0, 0, 10**9)
        limit = fields.whole("limit", 10, 1, MAX_PAGE_SIZE)
        nearest = self._ranking(fields.text("view", "words"))
        if query:
            ranked = nearest(query, min(offset + limit + 1, 1000))
            page = [number for number, _ in ranked[offset : offset + limit]]
            more = len(ranked) > offset + limit
        else:
            page = list(range(offset, min(offset + limit, len(self.index))))
            more = offset + limit < len(self.index)
        stems = self._telling_stems(query)
        return {
            "total": len(self.index),
            "vectors_of": self.view.model if self.view else None,
            "more": more,
            "examples": [self._shown(self.index.example(number), stems, []) for number in page],
            "duration_ms": round(1000 * (time.perf_counter() - started_at), 2),
        }

    def _ranking(self, view: str) -> Callable[[str, int], list[tuple[int, float]]]:
        if view == "words":
            return self.index.nearest
        if view == "vectors" and self.view is not None:
            return self.view.nearest
        expected = '"words" or "vectors"' if self.view else '"words" (no vectors here)'
        raise bad("view", f"view = {ascii(view)[:40]}, expected {expected}")

    def quotes(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Where an answer's words may come from: its longest shared run and nearest examples."""
        started_at = time.perf_counter()
        text = Fields(values, frozenset({"text"})).text("text")
        spans = spans_of(text)[:MAX_WORDS]
        if spans:
            text = text[: spans[-1][1] if len(spans) == MAX_WORDS else len(text)]
        sizes, numbers = self.index.shared_runs(text)
        sizes, numbers = sizes[: len(spans)], numbers[: len(spans)]
        longest = int(sizes.max(initial=0))
        is_whole = longest == len(spans) >= MIN_WHOLE_WORDS
        min_run = len(spans) if is_whole else MIN_RUN_WORDS
        quoted = _covered(sizes, min(min_run, MIN_RUN_WORDS))
        ranked = self.index.nearest(text, NUM_CANDIDATES)
        chosen = [number for number, _ in ranked]
        if longest >= min(min_run, MIN_RUN_WORDS):
            first = int(sizes.argmax())
            words = self.index.words_of(text)[first : first + longest]
            origin = self._holder_of(words, [number for number, _ in ranked], numbers[first])
            chosen = [origin, *(number for number in chosen if number != origin)]
        stems = self._telling_stems(text)
        words = self.index.words_of(text)
        return {
            "num_words": len(spans),
            "longest_run_words": longest,
            "quoted_share": round(float(quoted.mean()) if len(spans) else 0.0, 4),
            "min_run_words": min(min_run, MIN_RUN_WORDS),
            "too_short": len(spans) < MIN_WHOLE_WORDS,
            "answer": _segments(text, spans, np.where(quoted, RUN, PLAIN).tolist()),
            "examples": [self._shown(one, stems, words) for one in self._different(chosen)],
            "vectors_of": self.view.model if self.view else None,
            "similar": self._similar(text, stems, words),
            "duration_ms": round(1000 * (time.perf_counter() - started_at), 2),
        }

    def _similar(self, text: str, stems: set[str], words: list[str]) -> list[dict[str, Any]]:
        """The nearest examples by the model's vectors, each with its cosine."""
        found = dict(self.view.nearest(text, NUM_CANDIDATES)) if self.view else {}
        return [
            self._shown(one, stems, words) | {"cosine": round(found[one.number], 3)}
            for one in self._different(list(found))
        ]

    def _different(self, numbers: list[int]) -> list[Example]:
        """The first NUM_SHOWN examples that say different things."""
        shown: list[Example] = []
        for number in numbers:
            example = self.index.example(number)
            if all(example.messages != other.messages for other in shown):
                shown.append(example)
            if len(shown) == NUM_SHOWN:
                break
        return shown

    def _holder_of(self, words: list[str], candidates: list[int], otherwise: int) -> int:
        """The nearest example that holds this run; many may."""
        for number in candidates:
            messages = self.index.example(number).messages
            if any(_holds(self.index.words_of(m["content"]), words) for m in messages):
                return number
        return otherwise

    def _telling_stems(self, text: str) -> set[str]:
        """Stems of a text that do not stand in every other example."""
        words = {word for word in self.index.words_of(text) if len(word) >= MIN_LETTERS}
        stems = {self.index.stemmer(word) for word in words}
        return {stem for stem in stems if 0 < self.index.share_of(stem) <= COMMON_SHARE}

    def _shown(self, example: Example, stems: set[str], words: list[str]) -> dict[str, Any]:
        """An example for the page: its words in segments, marked where they are shared."""
        messages, longest = [], (0, 0, 0)
        spans = [spans_of(message["content"]) for message in example.messages]
        told = [
            [plain(message["content"][a:b]) for a, b in places]
            for message, places in zip(example.messages, spans, strict=True)
        ]
        for number, its_words in enumerate(told):
            start, size = _longest_common_run(its_words, words)
            longest = max(longest, (size, number, start), key=lambda run: run[0])
        for number, (message, places) in enumerate(zip(example.messages, spans, strict=True)):
            shared = {word: self.index.stemmer(word) in stems for word in set(told[number])}
            kinds = [SHARED if shared[word] else PLAIN for word in told[number]]
            size, owner, start = longest
            if owner == number and size > 2:
                kinds[start : start + size] = [RUN] * min(size, len(kinds) - start)
            segments = _segments(message["content"], places, kinds)
            messages.append({"role": message["role"], "segments": segments})
        return {
            "number": example.number,
            "source": example.source,
            "messages": messages,
            "run_words": longest[0],
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
    pieces: Segments = []
    at, last = 0, PLAIN
    for (start, end), kind in zip(spans, kinds, strict=False):
        between = RUN if kind == last == RUN else PLAIN
        pieces += [(text[at:start], between), (text[start:end], kind)]
        at, last = end, kind
    pieces.append((text[at:], PLAIN))
    joined: Segments = []
    for words, kind in pieces:
        if joined and joined[-1][1] == kind:
            joined[-1] = (joined[-1][0] + words, kind)
        elif words:
            joined.append((words, kind))
    return joined


def _holds(words: list[str], run: list[str]) -> bool:
    size = len(run)
    return any(words[at : at + size] == run for at in range(len(words) - size + 1))


def _longest_common_run(words: list[str], others: list[str]) -> tuple[int, int]:
    """Where in `words` the longest run begins that is also in `others`, and its length.

    >>> _longest_common_run("o rei viu a raposa".split(), "e viu a raposa".split())
    (2, 3)
    """
    places: dict[str, list[int]] = {}
    for place, word in enumerate(others):
        places.setdefault(word, []).append(place)
    best, before = (0, 0), dict[int, int]()
    for at, word in enumerate(words):
        now = {place: before.get(place - 1, 0) + 1 for place in places.get(word, ())}
        size = max(now.values(), default=0)
        if size > best[1]:
            best = (at - size + 1, size)
        before = now
    return best
