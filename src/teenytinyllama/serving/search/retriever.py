"""BM25 search over the chat data, on stems and pairs of stems, and exact shared runs of words.

bm25s ranks. The index is built once, kept on disk as plain arrays and read whole: a mapped file
that is cut kills the process.
"""

from __future__ import annotations

import json
import shutil
import tomllib
import unicodedata
from array import array
from collections.abc import Iterable
from functools import lru_cache
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import bm25s
import numpy as np

from teenytinyllama.artifacts.conversations import Conversation
from teenytinyllama.artifacts.manifest import write_json
from teenytinyllama.languages.segmentation import find_words
from teenytinyllama.serving.search.suffix_array import BORDER, Ids, RunFinder, suffix_array

FORMAT = 4
UNKNOWN = 2**32 - 1  # no word of the data
MAX_POSTINGS_READ = 1_500_000  # rarest terms first: bounds the time of any query
ARRAYS = ("runs", "order", "run_starts")


def normalize_word(word: str) -> str:
    """A word without case and accents; marks that other scripts spell with stay.

    >>> normalize_word("Coração"), normalize_word("ใกล้")
    ('coracao', 'ใกล้')
    """
    folded = word.casefold()
    if folded.isascii():
        return folded
    parts = unicodedata.normalize("NFKD", folded)
    return "".join(part for part in parts if not _is_accent(part))


def _is_accent(sign: str) -> bool:
    """Whether this is an accent, or a vowel point of Hebrew or Arabic.

    Not the nukta and virama of India, the voicing of kana, or the vowels and tones of Thai and Lao.
    """
    place = unicodedata.combining(sign)  # canonical combining class: Unicode Standard, 4.3
    return 10 <= place <= 36 or place >= 200


def words_of(text: str) -> list[str]:
    """The normalized words of a text, in order."""
    return [normalize_word(word) for word in find_words(unicodedata.normalize("NFC", text))]


class Stemmer:
    """Strips a language's endings; a language without `stems.toml` keeps its words whole.

    >>> [Stemmer("pt")(normalize_word(word)) for word in ("raposas", "raposa", "florestas", "ao")]
    ['rapos', 'rapos', 'florest', 'ao']
    """

    def __init__(self, language: str) -> None:
        self._endings, self._min_letters = _read_endings(language)

    def __call__(self, word: str) -> str:
        """The stem of a normalized word."""
        for size in range(min(7, len(word) - self._min_letters), 0, -1):
            if word[-size:] in self._endings:
                return word[:-size]
        return word

    def terms_of(self, words: Iterable[str]) -> list[str]:
        """What words are searched by: their stems, and pairs of stems in order."""
        stems = [self(word) for word in words]
        return stems + [f"{first} {second}" for first, second in pairwise(stems)]


@lru_cache
def _read_endings(language: str) -> tuple[frozenset[str], int]:
    path = resources.files("teenytinyllama.languages") / language / "stems.toml"
    if not path.is_file():
        return frozenset(), 0
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    return frozenset(values["endings"]), int(values["min_letters"])


class ChatExample(NamedTuple):
    """One conversation of the chat data."""

    number: int
    source: str
    messages: Conversation


class Retriever:
    """An open index; `open_index` and `build_index` return one."""

    def __init__(self, folder: Path, language: str) -> None:
        self.stemmer = Stemmer(language)
        self._words: dict[str, int] = json.loads((folder / "words.json").read_bytes())
        self._bm25 = bm25s.BM25.load(folder)
        runs, order, self._run_starts = (np.load(folder / f"{name}.npy") for name in ARRAYS)
        self._runs = RunFinder(runs, order)
        self._lines = (folder / "examples.jsonl").read_bytes().splitlines(keepends=True)
        is_cut = not all(line.endswith(b"\n") for line in self._lines[-1:])
        if is_cut or len(self._lines) != len(self._run_starts):
            raise ValueError("examples.jsonl was cut")

    def __len__(self) -> int:
        """Number of examples."""
        return len(self._lines)

    def example(self, number: int) -> ChatExample:
        """One example, by its number from 0."""
        return ChatExample(number, *json.loads(self._lines[number]))

    def document_frequency(self, stem: str) -> float:
        """The fraction of examples that contain this stem."""
        return self._num_postings(stem) / max(len(self), 1)

    def _num_postings(self, term: str) -> int:
        number = self._bm25.vocab_dict.get(term)
        starts = self._bm25.scores["indptr"]
        return 0 if number is None else int(starts[number + 1] - starts[number])

    def nearest(self, text: str, limit: int) -> list[tuple[int, float]]:
        """The `limit` examples with the highest BM25 score, best first, with their scores."""
        sizes = {term: self._num_postings(term) for term in self.stemmer.terms_of(words_of(text))}
        known = sorted((term for term in sizes if sizes[term]), key=lambda term: sizes[term])
        num_read = np.cumsum([sizes[term] for term in known])
        read = known[: max(1, int(np.searchsorted(num_read, MAX_POSTINGS_READ, side="right")))]
        if not read:
            return []
        totals = self._bm25.get_scores(read)
        limit = min(limit, int(np.count_nonzero(totals)))
        top = np.argpartition(-totals, limit - 1)[:limit]
        top = top[np.lexsort((top, -totals[top]))]
        return [(int(number), float(totals[number])) for number in top]

    def shared_runs(self, text: str) -> tuple[Ids, list[int]]:
        """For each word of a text: the longest run from there in the chat data, and its example."""
        query = [self._words.get(word, UNKNOWN) for word in words_of(text)]
        sizes, places = self._runs.longest_runs(query)
        numbers = np.searchsorted(self._run_starts, places, side="right") - 1
        return sizes, numbers.tolist()


def open_index(folder: Path, fingerprint: str, language: str) -> Retriever | None:
    """The index kept in a folder; None where there is none of exactly this data."""
    try:
        head = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        if head["format"] != FORMAT or head["fingerprint"] != fingerprint:
            return None
        return Retriever(folder, language)
    except (OSError, ValueError, KeyError, IndexError, TypeError, EOFError, MemoryError):
        return None


def build_index(
    folder: Path,
    conversations: Iterable[tuple[str, Conversation]],
    fingerprint: str,
    language: str,
) -> Retriever:
    """Index the conversations (source, messages) and open the index. `index.json` comes last."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    raw, row, run_starts = dict[str, int](), array("i"), list[int]()
    with (folder / "examples.jsonl").open("wb") as file:
        for source, messages in conversations:
            run_starts.append(len(row))
            for message in messages:
                found = find_words(unicodedata.normalize("NFC", message["content"]).casefold())
                row.extend(raw.setdefault(word, len(raw)) for word in found)
                row.append(-1)
            file.write(json.dumps([source, messages], ensure_ascii=False).encode() + b"\n")
    words, of_raw = _numbered(map(normalize_word, raw))
    stems, of_word = _numbered(map(Stemmer(language), words))
    ids = of_raw[np.array(row, np.int32)]  # the last, for -1, is BORDER
    sizes = np.diff([*run_starts, len(ids)])
    terms, examples = _terms(of_word[ids - 1], np.repeat(np.arange(len(sizes)), sizes), list(stems))
    retriever = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    retriever.index(([*examples, [0]], terms), show_progress=False)  # it needs one with a term
    retriever.save(folder, show_progress=False)
    arrays: tuple[Ids, ...] = ids, suffix_array(ids), np.array(run_starts, np.int32)
    for name, values in zip(ARRAYS, arrays, strict=True):
        np.save(folder / f"{name}.npy", values)
    write_json(folder / "words.json", words)
    write_json(folder / "index.json", {"format": FORMAT, "fingerprint": fingerprint})
    return Retriever(folder, language)


def _numbered(words: Iterable[str]) -> tuple[dict[str, int], Ids]:
    """Distinct words, numbered from 1, and the number of each word; BORDER comes last."""
    known: dict[str, int] = {}
    numbers = [known.setdefault(word, len(known) + 1) for word in words]
    return known, np.array([*numbers, BORDER], np.int32)


def _terms(stems: Ids, owners: Ids, names: list[str]) -> tuple[dict[str, int], list[list[int]]]:
    """Each term's number, and the numbers of the terms of each example; "" is term 0.

    A term is a stem or a pair of stems in order, written as one number.
    """
    base = len(names) + 1
    first = stems.astype(np.int64)
    second = np.append(first[1:], BORDER)
    at, both = np.flatnonzero(first), np.flatnonzero((first > 0) & (second > 0))
    keys = np.concatenate(([0], first[at], first[both] * base + second[both]))
    found, numbers = np.unique(keys, return_inverse=True)
    of_keys = np.concatenate((owners[at], owners[both]))
    order = np.argsort(of_keys, kind="stable")
    sizes = np.bincount(of_keys, minlength=int(owners.max(initial=-1)) + 1)
    parts = np.split(numbers[1:][order], np.cumsum(sizes)[:-1])
    known = ["", *names]
    terms = {
        f"{known[key // base]} {known[key % base]}" if key >= base else known[key]: number
        for number, key in enumerate(found.tolist())
    }
    return terms, [part.tolist() for part in parts[: len(sizes)]]
