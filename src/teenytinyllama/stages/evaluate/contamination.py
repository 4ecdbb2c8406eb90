"""Held-out documents and test items that also occur in the training text.

Text is compared as word n-grams (lower case, letters and digits only; the words of scripts without
spaces are those of `languages.segmentation`) in one pass over the training documents:

- a held-out document with the same words as a training document is an exact copy;
- one that shares at least 80 % of its 5-grams with a single training document is a near copy;
- a test item that shares one 13-gram with any training document is contaminated (Brown et al. 2020,
  appendix C). An item of fewer words cannot be checked, and is counted apart.

A changed word spoils as many n-grams as they are long. Of a copy with every 50th word changed, 74 %
of the 13-grams remain, and it would pass for new text; of the 5-grams 90 % remain. That costs no
false alarms: of 700 documents against 9,457 others (laws, manuals, novels), 6 were near copies by
13-grams and 8 by 5-grams; the two more are an iOS page with an Android twin, and a code example
that extends another.

N-grams are compared by 64-bit hashes: for a billion n-grams against a million, the chance of one
false match is about one in twenty thousand.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from teenytinyllama.artifacts.documents import Document, read_documents
from teenytinyllama.languages import mark_class
from teenytinyllama.languages.segmentation import may_be_unspaced, separate_words
from teenytinyllama.progress import Progress
from teenytinyllama.stages.evaluate.benchmark import Benchmark

logger = logging.getLogger(__name__)

ITEM_NGRAM = 13  # one match is enough, so it must be longer than a figure of speech
COPY_NGRAM = 5
NEAR_COPY_SHARE = 0.8
MAX_CACHED_WORDS = 2_000_000
MAX_EXAMPLES = 20
_WORD = re.compile(r"[^\W_]+")
_MARKED_WORD = re.compile(rf"[^\W_]+(?:[{mark_class()}]+[^\W_]*)*")

Hashes = NDArray[np.uint64]


class WordHasher:
    """Turns a text into one 64-bit hash a word, which depends on the word's letters alone."""

    def __init__(self) -> None:
        self._cache: dict[str, int] = {}

    def words(self, text: str) -> Hashes:
        """The hashes of a text's words, in order."""
        if len(self._cache) > MAX_CACHED_WORDS:
            self._cache.clear()
        cache = self._cache
        hashes = []
        lower = text.lower()
        # True for the scripts of India, too, whose vowels are marks.
        if may_be_unspaced(lower.encode("utf-8", "replace")):
            words = _MARKED_WORD.findall(separate_words(lower))
        else:
            words = _WORD.findall(lower)
        for word in words:
            value = cache.get(word)
            if value is None:
                digest = hashlib.blake2b(word.encode("utf-8"), digest_size=8).digest()
                value = cache[word] = int.from_bytes(digest, "little")
            hashes.append(value)
        return np.array(hashes, dtype=np.uint64)


def ngrams(words: Hashes, length: int) -> Hashes:
    """The distinct hashes of all n-grams of `length` words; empty for a shorter text.

    A hash is a polynomial in the words' hashes, so all n-grams of a document cost one pass.
    """
    count = len(words) - length + 1
    if count <= 0:
        return np.zeros(0, np.uint64)
    hashes = np.zeros(count, np.uint64)
    factor = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        for offset in range(length):
            hashes = hashes * factor + words[offset : offset + count]
    return np.unique(hashes)


def item_parts(item: Mapping[str, Any]) -> list[str]:
    """The texts of an item that n-grams are taken from.

    Question and right answer are one text, as they would be in a copy of the item, so that an
    n-gram may span both; wrong choices are texts of their own. An item with other fields than
    ours (the reader `raw`) gives every text it has.
    """
    before = item.get("question") or item.get("context")
    choices, target = item.get("choices"), item.get("target")
    if isinstance(before, str) and isinstance(target, str):
        return [f"{before} {target.strip()}"]
    if isinstance(choices, list) and isinstance(item.get("gold"), int):
        labels = item.get("labels") or [place == item["gold"] for place in range(len(choices))]
        return [
            f"{before or ''} {choice}" if is_right else choice
            for choice, is_right in zip(choices, labels, strict=True)
        ]
    texts = [
        part for value in item.values() for part in (value if isinstance(value, list) else [value])
    ]
    return [text for text in texts if isinstance(text, str)] or [""]


class ContaminationCheck:
    """Collects held-out documents and test items, then reads the training text once."""

    def __init__(self) -> None:
        self._hasher = WordHasher()
        self._ids: list[str] = []  # of held-out documents
        self._by_content: dict[int, list[int]] = {}  # hash of all words -> held-out documents
        self._ngrams: list[Hashes] = []  # of each held-out document
        self._items: dict[str, list[Hashes]] = {}  # task -> n-grams of each item

    def add_heldout(self, document_id: str, text: str) -> None:
        """Check this held-out document for copies in the training text."""
        words = self._hasher.words(text)
        self._by_content.setdefault(_content_hash(words), []).append(len(self._ids))
        self._ids.append(document_id)
        self._ngrams.append(ngrams(words, COPY_NGRAM))

    def add_item(self, task: str, parts: Sequence[str]) -> None:
        """Check whether any part of this item shares an n-gram: see `item_parts`."""
        found = [ngrams(self._hasher.words(part), ITEM_NGRAM) for part in parts]
        self._items.setdefault(task, []).append(np.unique(np.concatenate(found)))

    def read_training(self, texts: Iterable[str]) -> dict[str, Any]:
        """Read the training documents; metrics of the documents, and of items by task."""
        sizes = np.array([len(hashes) for hashes in self._ngrams], np.int64)
        hashes = np.concatenate([*self._ngrams, np.zeros(0, np.uint64)])
        owners = np.repeat(np.arange(len(sizes)), sizes)
        order = np.argsort(hashes, kind="stable")
        hashes, owners = hashes[order], owners[order]
        of_items = [item for items in self._items.values() for item in items]
        wanted = np.unique(np.concatenate([*of_items, np.zeros(0, np.uint64)]))
        found = np.zeros(len(wanted), bool)
        most_shared = np.zeros(len(sizes), np.int64)
        exact: set[int] = set()
        for text in texts:
            words = self._hasher.words(text)
            exact.update(self._by_content.get(_content_hash(words), ()))
            if len(wanted):
                found[_positions(wanted, ngrams(words, ITEM_NGRAM))] = True
            shared = _count_shared(hashes, owners, ngrams(words, COPY_NGRAM), len(sizes))
            np.maximum(most_shared, shared, out=most_shared)
        is_near = (sizes > 0) & (most_shared >= NEAR_COPY_SHARE * sizes)
        near = {int(index) for index in np.flatnonzero(is_near)} - exact
        seen = wanted[found]
        return {
            "heldout_documents": len(sizes),
            "heldout_leaks_exact": len(exact),
            "heldout_leaks_near": len(near),
            "heldout_leaks_examples": [self._ids[i] for i in sorted(exact | near)[:MAX_EXAMPLES]],
            "tasks": {
                task: _count_contaminated(items, seen) for task, items in self._items.items()
            },
        }


def _content_hash(words: Hashes) -> int:
    """One hash of all words of a text, in order."""
    return hash(words.tobytes())


def _positions(sorted_values: Hashes, queries: Hashes) -> NDArray[np.int64]:
    """Positions in `sorted_values`, which is not empty, of the `queries` that occur there."""
    at = np.minimum(np.searchsorted(sorted_values, queries), len(sorted_values) - 1)
    found: NDArray[np.int64] = at[sorted_values[at] == queries]
    return found


def _count_shared(
    hashes: Hashes, owners: NDArray[np.int64], queries: Hashes, num_owners: int
) -> NDArray[np.int64]:
    """How many of the `queries` each owner of the sorted `hashes` has: (num_owners,)."""
    starts = np.searchsorted(hashes, queries, "left")
    ends = np.searchsorted(hashes, queries, "right")
    hit = ends > starts
    if not hit.any():
        return np.zeros(num_owners, np.int64)
    matches = [owners[a:b] for a, b in zip(starts[hit], ends[hit], strict=True)]
    return np.bincount(np.concatenate(matches), minlength=num_owners)


def _count_contaminated(items: Sequence[Hashes], seen: Hashes) -> dict[str, Any]:
    """Metrics of one task's items; the fraction is None where no item could be checked."""
    num_checked = sum(len(item) > 0 for item in items)
    num_contaminated = sum(bool(np.isin(item, seen).any()) for item in items)
    return {
        "contaminated_items": num_contaminated,
        "contaminated_fraction": num_contaminated / num_checked if num_checked else None,
        "items_checked_for_overlap": num_checked,
        "items_too_short_to_check": len(items) - num_checked,
    }


def check_contamination(
    benchmarks: Sequence[Benchmark], documents: Sequence[Document], corpus_dir: Path
) -> dict[str, Any]:
    """Overlap of the held-out documents and of each task's items; reads the corpus once."""
    check = ContaminationCheck()
    for document in documents:
        check.add_heldout(document.id, document.text)
    for benchmark in benchmarks:
        for item in benchmark.scored_items:
            check.add_item(benchmark.name, item_parts(item))
    with Progress("evaluate: overlap with the training text", unit="documents") as progress:

        def texts() -> Iterator[str]:
            for document in read_documents(corpus_dir, "train"):
                progress.advance()
                yield document.text

        return {"checked": True, **check.read_training(texts())}


def log_contamination(metrics: dict[str, Any]) -> None:
    """One line for the held-out text and one for each task."""
    if not metrics["checked"]:
        return
    exact, near = metrics["heldout_leaks_exact"], metrics["heldout_leaks_near"]
    logger.info(
        f"evaluate: held-out overlap: {exact} exact, {near} near copies, "
        f"of {metrics['heldout_documents']:,} documents"
    )
    for name, found in metrics["tasks"].items():
        logger.info(
            f"evaluate: {name}: {found['contaminated_items']:,} of "
            f"{found['items_checked_for_overlap']:,} items share {ITEM_NGRAM} words in a row with "
            f"the training text; {found['items_too_short_to_check']:,} are too short to check"
        )
