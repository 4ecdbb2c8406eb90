"""Near duplicates by MinHash LSH, verified: of texts that are nearly equal the longest stays.

Workers make the band keys (`shingles.py`); they lie on disk and are read one band at a time. Texts
that share a key are compared by their true Jaccard index, longest first: a text is dropped when
it is near one that is kept. So every dropped text has a kept one beside it, and no chain of small
differences drops a text that is near nothing kept.

Memory: 24 bytes per document for one band, and what the candidates need.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from teenytinyllama.settings.data_preparation import NearDuplicateSettings
from teenytinyllama.stages.corpus.dedup.shingling import Hashes32, Shingler, jaccard
from teenytinyllama.stages.corpus.document_index import Index
from teenytinyllama.stages.corpus.staging import Spool

# A text of boilerplate may share keys with thousands: it is compared with the likeliest.
MAX_COMPARISONS = 256


@dataclass(frozen=True, slots=True)
class Copy:
    """A dropped text, the kept one that it is near, and the Jaccard index of the two."""

    dropped: int
    kept: int
    similarity: float


class BandKeys:
    """Band keys on disk, a row per document in reading order."""

    def __init__(self, path: Path, num_bands: int) -> None:
        self.path, self.num_bands = path, num_bands
        self.rows = array("q")
        self._file = path.open("wb")

    def add(self, row: int, keys: bytes) -> None:
        """The keys of the document in this row of the index."""
        self.rows.append(row)
        self._file.write(keys)

    def close(self) -> npt.NDArray[np.uint64]:
        """Everything, mapped from disk, with one row per document."""
        self._file.close()
        if not self.path.stat().st_size:
            return np.empty((0, self.num_bands), np.uint64)
        return np.memmap(self.path, np.uint64, "r").reshape(-1, self.num_bands)


def candidate_groups(
    keys: npt.NDArray[np.uint64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(documents, groups), two columns: who is in which group of equal keys; groups of two or more.

    Sorted by document. One band is in memory at a time.
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
    """Sorted n-gram hashes of the candidates, on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._spans: dict[int, tuple[int, int]] = {}
        self._all: npt.NDArray[np.uint32] = np.empty(0, np.uint32)

    def fill(self, batches: Iterable[tuple[list[int], list[str]]], shingler: Shingler) -> None:
        """Store the n-grams of these documents, given as batches of numbers and texts."""
        end = 0
        with self._path.open("wb") as file:
            for numbers, texts in batches:
                for number, shingles in zip(numbers, shingler.shingles(texts), strict=True):
                    hashes = np.unique(shingles)
                    file.write(hashes.tobytes())
                    self._spans[number] = (end, end + len(hashes))
                    end += len(hashes)
        if end:
            self._all = np.memmap(self._path, np.uint32, "r")

    def size(self, number: int) -> int:
        """Different n-grams of a document."""
        start, end = self._spans[number]
        return end - start

    def __getitem__(self, number: int) -> Hashes32:
        start, end = self._spans[number]
        return np.asarray(self._all[start:end])


def near_duplicates(
    index: Index, keys: BandKeys, spool: Spool, settings: NearDuplicateSettings
) -> tuple[list[Copy], int]:
    """Rows that are near copies of kept ones, and how many comparisons were left out."""
    documents, groups = candidate_groups(keys.close())
    documents = np.asarray(keys.rows, np.int64)[documents]
    store = ShingleStore(keys.path.with_name("shingles"))
    candidates = set(np.unique(documents).tolist())
    batches = (
        ([row for row, _ in batch], [record["text"] for _, record in batch])
        for batch in spool.batches(candidates)
    )
    store.fill(batches, Shingler(settings.ngram_words))
    return find_copies(documents, groups, index.num_bytes, store, settings)


def find_copies(
    documents: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
    sizes: Sequence[int],
    store: ShingleStore,
    settings: NearDuplicateSettings,
) -> tuple[list[Copy], int]:
    """The copies among the candidates, and how many comparisons were left out as too many.

    `sizes` ranks: of two near texts the larger stays, of equal ones the earlier.
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
) -> Copy | None:
    """The first of the kept texts that this one is near, most shared keys first."""
    mine = None
    for other in others:
        small, large = sorted((store.size(number), store.size(other)))
        if small < threshold * large:
            continue
        mine = store[number] if mine is None else mine
        similarity = jaccard(mine, store[other])
        if similarity >= threshold:
            return Copy(number, other, round(similarity, 4))
    return None
