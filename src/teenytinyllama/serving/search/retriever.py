"""BM25 search over the chat data, on stems and pairs of stems, and exact shared runs of words.

Built once, kept on disk as plain arrays and read whole (a mapped file that is cut kills the
process): 80,000 examples take seconds to build, a fraction of one to open, and a query reads only
the posting lists of its own words.
"""

from __future__ import annotations

import json
import shutil
import tomllib
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from teenytinyllama.artifacts.conversations import Conversation
from teenytinyllama.artifacts.manifest import write_atomically, write_json
from teenytinyllama.languages.segmentation import find_words
from teenytinyllama.serving.search.suffix_array import BORDER, Ids, longest_runs, suffix_array

FORMAT = 3
K1, B = 1.2, 0.75  # BM25's term saturation and length normalization
PAIR_WEIGHT = 0.5  # of a pair of stems in order, beside 1 for each stem
MAX_POSTINGS_READ = 1_500_000  # rarest terms first: bounds the time of any query
ARRAYS = ("keys", "starts", "examples", "scores", "runs", "order", "run_starts", "line_starts")


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


@lru_cache
def _read_endings(language: str) -> tuple[frozenset[str], int]:
    path = resources.files("teenytinyllama.languages") / language / "stems.toml"
    if not path.is_file():
        return frozenset(), 0
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    return frozenset(values["endings"]), int(values["min_letters"])


@dataclass(frozen=True)
class ChatExample:
    """One conversation of the chat data."""

    number: int
    source: str
    messages: Conversation


class Retriever:
    """An open index; `open_index` and `build_index` return one."""

    def __init__(self, folder: Path, language: str) -> None:
        self.stemmer = Stemmer(language)
        self._words: dict[str, int] = _read_numbered(folder / "plain.json")
        self._stems: dict[str, int] = _read_numbered(folder / "stems.json")
        self._keys, self._starts, self._examples, self._scores, *rest = (
            np.load(folder / f"{name}.npy") for name in ARRAYS
        )
        self._runs, self._order, self._run_starts, self._line_starts = rest
        self._lines = (folder / "examples.jsonl").read_bytes()
        if len(self._lines) != self._line_starts[-1]:
            raise ValueError("examples.jsonl was cut")

    def __len__(self) -> int:
        """Number of examples."""
        return len(self._line_starts) - 1

    def example(self, number: int) -> ChatExample:
        """One example, by its number from 0."""
        start, end = int(self._line_starts[number]), int(self._line_starts[number + 1])
        source, messages = json.loads(self._lines[start:end])
        return ChatExample(number, source, messages)

    def words_of(self, text: str) -> list[str]:
        """The normalized words of a text, in order."""
        return [normalize_word(word) for word in find_words(unicodedata.normalize("NFC", text))]

    def document_frequency(self, stem: str) -> float:
        """The fraction of examples that contain this stem."""
        if stem not in self._stems:
            return 0.0
        _, size = self._postings_of(self._stems[stem])
        return size / max(len(self), 1)

    def nearest(self, text: str, limit: int) -> list[tuple[int, float]]:
        """The `limit` examples with the highest BM25 score, best first, with their scores."""
        ids = [self._stems.get(self.stemmer(word), -1) for word in self.words_of(text)]
        keys = {one for one in ids if one >= 0}
        both = ((a, b) for a, b in pairwise(ids) if a >= 0 and b >= 0)
        keys |= {_pair_key(a, b, len(self._stems)) for a, b in both}
        lists = sorted(map(self._postings_of, sorted(keys)), key=lambda one: one[1])
        totals = np.zeros(len(self), np.float32)
        num_read = 0
        for start, size in lists:
            num_read += size
            if num_read > MAX_POSTINGS_READ and num_read > size:
                break
            part = slice(start, start + size)
            totals[self._examples[part]] += self._scores[part]
        limit = min(limit, int(np.count_nonzero(totals)))
        if not limit:
            return []
        top = np.argpartition(-totals, limit - 1)[:limit]
        top = top[np.lexsort((top, -totals[top]))]
        return [(int(number), float(totals[number])) for number in top]

    def _postings_of(self, key: int) -> tuple[int, int]:
        """Where a term's posting list starts, and its length."""
        at = int(np.searchsorted(self._keys, key))
        if at == len(self._keys) or int(self._keys[at]) != key:
            return 0, 0
        start = int(self._starts[at])
        return start, int(self._starts[at + 1]) - start

    def shared_runs(self, text: str) -> tuple[Ids, list[int]]:
        """For each word of a text: the longest run from there in the chat data, and its example."""
        query = np.array([self._words.get(word, -1) for word in self.words_of(text)], np.int32)
        sizes, places = longest_runs(query, self._runs, self._order)
        numbers = np.searchsorted(self._run_starts, places, side="right") - 1
        return sizes, [int(number) for number in numbers]


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
    texts = _ExampleWriter(folder / "examples.jsonl")
    ids = texts.write(conversations)
    words, word_of = _number([normalize_word(word) for word in texts.words], first=BORDER + 1)
    stemmer = Stemmer(language)
    stems, stem_of = _number([stemmer(words[i - 1]) for i in word_of], first=0)
    is_word = ids >= 0
    runs = np.where(is_word, np.asarray(word_of, np.int32)[ids], BORDER).astype(np.int32)
    stem_ids = np.where(is_word, np.asarray(stem_of, np.int64)[ids], -1)
    example_of = np.repeat(np.arange(len(texts)), np.diff([*texts.run_starts, len(ids)]))
    arrays: tuple[NDArray[Any], ...] = (
        *_postings(stem_ids, example_of, len(stems), len(texts)),
        runs,
        suffix_array(runs),
        np.asarray(texts.run_starts, np.int64),
        np.asarray(texts.line_starts, np.int64),
    )
    for name, values in zip(ARRAYS, arrays, strict=True):
        np.save(folder / f"{name}.npy", values)
    for name, listed in (("plain", ["", *words]), ("stems", stems)):
        write_atomically(folder / f"{name}.json", json.dumps(listed, ensure_ascii=False))
    write_json(folder / "index.json", {"format": FORMAT, "fingerprint": fingerprint})
    return Retriever(folder, language)


class _ExampleWriter:
    """Writes conversations as JSON lines and numbers their words."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.words: dict[str, int] = {}
        self.run_starts: list[int] = []
        self.line_starts = [0]

    def __len__(self) -> int:
        return len(self.run_starts)

    def write(self, conversations: Iterable[tuple[str, Conversation]]) -> NDArray[Any]:
        """Word numbers of all messages, -1 after each."""
        row = array("i")
        with self.path.open("wb") as file:
            for source, messages in conversations:
                self.run_starts.append(len(row))
                for message in messages:
                    row.extend(self._word_numbers(message["content"]))
                    row.append(-1)
                line = json.dumps([source, messages], ensure_ascii=False).encode() + b"\n"
                file.write(line)
                self.line_starts.append(self.line_starts[-1] + len(line))
        return np.frombuffer(row, np.int32) if len(row) else np.zeros(0, np.int32)

    def _word_numbers(self, text: str) -> Iterator[int]:
        words = self.words
        for word in find_words(unicodedata.normalize("NFC", text).casefold()):
            yield words.setdefault(word, len(words))


def _number(words: Sequence[str], *, first: int) -> tuple[list[str], list[int]]:
    """Distinct words in order of appearance, and each word's number."""
    known: dict[str, int] = {}
    numbers = [known.setdefault(word, len(known) + first) for word in words]
    return list(known), numbers


def _postings(
    stems: NDArray[Any], example_of: NDArray[Any], num_stems: int, num_examples: int
) -> tuple[NDArray[Any], ...]:
    """For each term the examples that contain it with their BM25 scores, terms ordered by key."""
    at = np.flatnonzero(stems >= 0)
    terms, owners, docs = stems[at], example_of[at], max(num_examples, 1)
    if num_stems * (num_stems + 1) * docs < 2**63:  # else single stems alone
        follows = np.flatnonzero((stems[:-1] >= 0) & (stems[1:] >= 0))
        both = _pair_key(stems[follows], stems[follows + 1], num_stems)
        terms, owners = np.append(terms, both), np.append(owners, example_of[follows])
    pairs, counts = np.unique(terms.astype(np.int64) * docs + owners, return_counts=True)
    found, example = np.divmod(pairs, docs)
    is_first = np.append(True, found[1:] != found[:-1])[: len(found)]
    keys, term = found[is_first], np.cumsum(is_first) - 1
    sizes = np.bincount(example_of[at], minlength=num_examples).astype(np.float64)
    found_in = np.bincount(term, minlength=len(keys))
    idf = np.log1p((num_examples - found_in + 0.5) / (found_in + 0.5))
    idf = np.where(keys < num_stems, idf, PAIR_WEIGHT * idf)
    norm = 1 - B + B * sizes / max(sizes.mean() if len(sizes) else 1, 1e-9)
    scores = idf[term] * counts * (K1 + 1) / (counts + K1 * norm[example])
    starts = np.concatenate(([0], np.cumsum(found_in)))
    return keys, starts, example.astype(np.int32), scores.astype(np.float32)


def _pair_key(first: Any, second: Any, num_stems: int) -> Any:
    """The term number of two stems in order: beyond those of single stems."""
    return num_stems + first * num_stems + second


def _read_numbered(path: Path) -> dict[str, int]:
    return {word: number for number, word in enumerate(json.loads(path.read_bytes()))}
