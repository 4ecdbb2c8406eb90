"""`MinHashSignature` and `NearDuplicates`: MinHash LSH, verified; the longest text stays.

Workers compute band keys (`shingling.py`), which are kept on disk and read one band at a time.
Texts that share a key are compared by their true Jaccard index, longest first: a text is dropped
when it is near one that is kept. So every dropped text has a kept one beside it, and no chain of
small differences drops a text that is near nothing kept.

In scripts without spaces texts are compared as characters, by the Jaccard index of their alignment:
the characters of their longest common subsequence against all. Texts of unlike content in the same
few words share half of their short n-grams, and a third of this at most.

Memory: 24 bytes per document for one band, and what the candidates need.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import LCSseq

from teenytinyllama.languages.segmentation import has_spaces_between_words
from teenytinyllama.progress import Progress
from teenytinyllama.settings.data_preparation import NearDuplicateSettings
from teenytinyllama.stages.corpus.batches import DocumentBatch, DocumentStep, IndexEntry, StepConfig
from teenytinyllama.stages.corpus.dedup.shingling import (
    Hashes32,
    MinHasher,
    Shingler,
    characters,
    jaccard,
)
from teenytinyllama.stages.corpus.staging import CorpusState, CorpusStep

# A text of boilerplate may share keys with thousands: only the most similar are compared.
MAX_COMPARISONS = 256
# Without spaces: of so few characters, texts that differ in nothing but their numbers are records
# of a form or a log, and all stay.
MAX_RECORD_CHARACTERS = 200
# Longer texts are aligned piece by piece, which bounds the time: a copy of such a text into which a
# whole piece was put near its beginning is not found.
MAX_ALIGNED_CHARACTERS = 4_000
_DIGITS = re.compile(r"\d+")


class MinHashSignature(DocumentStep):
    """Gives each document its band keys."""

    setting = "near_duplicates"

    def __init__(self, config: StepConfig) -> None:
        super().__init__(config)
        assert self.settings.near_duplicates is not None
        self._hasher = MinHasher(self.settings.near_duplicates)

    def apply(self, batch: DocumentBatch) -> None:
        """Annotate."""
        remaining = batch.remaining()
        keys = self._hasher.band_keys([one.text for one in remaining])
        for one, row in zip(remaining, keys, strict=True):
            one.band_keys = row.tobytes() if row[0] else b""


class NearDuplicates(CorpusStep):
    """Drops documents that are near copies of kept ones."""

    setting = "near_duplicates"
    needs_all_documents = True

    def __init__(self, state: CorpusState) -> None:
        super().__init__(state)
        assert state.settings.near_duplicates is not None
        self._settings = state.settings.near_duplicates
        self._rows = array("q")
        self._path = state.work_dir / "keys"
        self._file = self._path.open("wb")

    def collect(self, first_row: int, entries: Sequence[IndexEntry]) -> None:
        """Store the band keys of documents that may stay."""
        for row, entry in enumerate(entries, start=first_row):
            if entry.band_keys and not self.state.index.reasons[row]:
                self._rows.append(row)
                self._file.write(entry.band_keys)

    def decide(self) -> None:
        """Compare the candidates; counts comparisons left out because there are too many."""
        index = self.state.index
        with Progress("corpus: near duplicates", unit="copies") as work:
            copies, left_out = self._find()
            for copy in copies:
                index.drop(copy.dropped, "duplicate-near", duplicate_of=copy.kept)
                index.similarity[copy.dropped] = copy.similarity
            work.advance(len(copies))
        self.state.notes["near-duplicate-comparisons-left-out"] += left_out

    def _find(self) -> tuple[list[NearDuplicate], int]:
        self._file.close()
        keys = np.empty(0, np.uint64)
        if self._rows:  # an empty file cannot be mapped
            keys = np.memmap(self._path, np.uint64, "r")
        documents, groups = candidate_groups(keys.reshape(-1, self._settings.num_bands))
        documents = np.asarray(self._rows, np.int64)[documents]
        store = ShingleStore(self._path.with_name("shingles"))
        candidates = set(np.unique(documents).tolist())
        batches = (
            ([row for row, _ in batch], [record["text"] for _, record in batch])
            for batch in self.state.texts.batches(candidates)
        )
        store.fill(batches, Shingler(self._settings.ngram_words))
        return find_copies(documents, groups, self.state.index.num_bytes, store, self._settings)


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """A dropped text, the kept one that it is near, and the Jaccard index of the two."""

    dropped: int
    kept: int
    similarity: float


def candidate_groups(
    keys: npt.NDArray[np.uint64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Two columns, documents and groups: which document is in which group of equal keys.

    Groups have two documents or more. Sorted by document. One band is in memory at a time.
    """
    documents, groups, num_groups = [], [], 0
    for band in range(keys.shape[1]):
        column = np.array(keys[:, band])
        order = np.argsort(column, kind="stable")
        ordered = column[order]
        same = np.zeros(len(ordered) + 1, bool)
        same[1:-1] = (ordered[1:] == ordered[:-1]) & (ordered[1:] != 0)
        member = same[1:] | same[:-1]
        starts = member & ~same[:-1]
        documents.append(order[member])
        groups.append(num_groups + np.cumsum(starts)[member] - 1)
        num_groups += int(starts.sum())
    if not documents:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    all_documents, all_groups = np.concatenate(documents), np.concatenate(groups)
    order = np.argsort(all_documents, kind="stable")
    return all_documents[order].astype(np.int64), all_groups[order].astype(np.int64)


class ShingleStore:
    """What candidates are compared by, on disk: sorted hashes of n-grams, or characters."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._spans: dict[int, tuple[int, int]] = {}
        self._of_characters: set[int] = set()
        self._all: npt.NDArray[np.uint32] = np.empty(0, np.uint32)

    def fill(self, batches: Iterable[tuple[list[int], list[str]]], shingler: Shingler) -> None:
        """Store these documents, given as batches of numbers and texts."""
        end = 0
        with self._path.open("wb") as file:
            for numbers, texts in batches:
                for number, text, shingles in zip(
                    numbers, texts, shingler.shingles(texts), strict=True
                ):
                    if has_spaces_between_words(text):
                        kept = np.unique(shingles).tobytes()
                    else:
                        self._of_characters.add(number)
                        kept = characters(text).encode("utf-32-le", "surrogatepass")
                    file.write(kept)
                    self._spans[number] = (end, end + len(kept) // 4)
                    end += len(kept) // 4
        if end:
            self._all = np.memmap(self._path, np.uint32, "r")

    def similarity(self, one: int, other: int, least: float) -> float:
        """Jaccard index of two documents, 0 to 1; 0 where it is below `least`."""
        small, large = sorted(end - start for start, end in (self._spans[one], self._spans[other]))
        if small < least * large or (one in self._of_characters) != (other in self._of_characters):
            return 0.0
        if one in self._of_characters:
            found = aligned_share(self._text(one), self._text(other), least)
        else:
            found = jaccard(self._values(one), self._values(other))
        return found if found >= least else 0.0

    def _values(self, number: int) -> Hashes32:
        start, end = self._spans[number]
        return np.asarray(self._all[start:end])

    def _text(self, number: int) -> str:
        return self._values(number).tobytes().decode("utf-32-le", "surrogatepass")


def aligned_share(one: str, other: str, least: float) -> float:
    """Jaccard index of the aligned characters of two texts; 0 where it is below `least`.

    0 for two records, too: see `MAX_RECORD_CHARACTERS`.

    >>> aligned_share("我们今天去市场", "我们明天去市场", 0.5)
    0.75
    >>> aligned_share("第1天卖了3条鱼", "第2天卖了5条鱼", 0.5)
    0.0
    """
    total = len(one) + len(other)
    are_short = total <= 2 * MAX_RECORD_CHARACTERS
    if are_short and one != other and _DIGITS.sub("0", one) == _DIGITS.sub("0", other):
        return 0.0
    num_pieces = -(-max(len(one), len(other)) // MAX_ALIGNED_CHARACTERS) or 1
    cuts = [[len(t) * n // num_pieces for n in range(num_pieces + 1)] for t in (one, other)]
    shared, missing = 0, total / 2 - total * least / (1 + least)  # s / (total - s) >= least
    for (a, b), (c, d) in zip(pairwise(cuts[0]), pairwise(cuts[1]), strict=True):
        found = LCSseq.similarity(one[a:b], other[c:d])
        shared += found
        missing -= (b - a + d - c) / 2 - found
        if missing < 0:
            return 0.0
    return shared / (total - shared) if total else 0.0


def find_copies(
    documents: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
    sizes: Sequence[int],
    store: ShingleStore,
    settings: NearDuplicateSettings,
) -> tuple[list[NearDuplicate], int]:
    """The copies among the candidates, and how many comparisons were left out as too many.

    Of two near texts the one with the larger of `sizes` stays, of equal ones the earlier.
    """
    borders = np.flatnonzero(documents[1:] != documents[:-1]) + 1
    firsts = documents[np.r_[0, borders]].tolist() if len(documents) else []
    spans = dict(zip(firsts, np.split(groups, borders), strict=False))
    kept_in: dict[int, list[int]] = defaultdict(list)
    copies, left_out = [], 0
    for number in sorted(spans, key=lambda n: (-sizes[n], n)):
        shared: Counter[int] = Counter()
        for group in spans[number].tolist():
            shared.update(kept_in[group])
        likeliest = shared.most_common(MAX_COMPARISONS)
        left_out += len(shared) - len(likeliest)
        copy = _nearest(number, [other for other, _ in likeliest], store, settings.threshold)
        if copy is not None:
            copies.append(copy)
            continue
        for group in spans[number].tolist():
            kept_in[group].append(number)
    return copies, left_out


def _nearest(
    number: int, others: Sequence[int], store: ShingleStore, threshold: float
) -> NearDuplicate | None:
    """The first kept text in `others`, most shared keys first, that this one is near."""
    for other in others:
        similarity = store.similarity(number, other, threshold)
        if similarity:
            return NearDuplicate(number, other, round(similarity, 4))
    return None
