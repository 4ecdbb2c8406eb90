"""The search engine over the chat data: BM25 on stems and pairs of stems, and shared runs.

Built once, kept on disk as plain arrays and mapped into memory: 80,000 examples take seconds to
build, milliseconds to open, and a query reads only the lists of its own words.
"""

from __future__ import annotations

import json
import shutil
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from teenytinyllama.artifacts.conversations import Conversation
from teenytinyllama.artifacts.manifest import write_atomically, write_json
from teenytinyllama.languages import word_pattern
from teenytinyllama.serving.search.stemming import Stemmer, plain
from teenytinyllama.serving.search.suffix_array import BORDER, Ids, longest_runs, suffix_array

FORMAT = 2
SATURATION, LENGTH_SHARE = 1.2, 0.75  # BM25's k1 and b
PAIR_WEIGHT = 0.5  # two words in order count half as much again as each alone
MAX_POSTINGS_READ = 1_500_000  # rarest words first: bounds the time of any query
ARRAYS = ("keys", "starts", "examples", "scores", "runs", "order", "run_starts", "line_starts")


@dataclass(frozen=True)
class Example:
    """One conversation of the chat data."""

    number: int
    source: str
    messages: Conversation


class Index:
    """An open index; `open_index` and `build_index` give one."""

    def __init__(self, folder: Path, language: str) -> None:
        self.stemmer = Stemmer(language)
        self._plain: dict[str, int] = _numbered(folder / "plain.json")
        self._stems: dict[str, int] = _numbered(folder / "stems.json")
        self._keys, self._starts, self._examples, self._scores, *rest = (
            np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS
        )
        self._runs, self._order, self._run_starts, self._line_starts = rest
        self.folder = folder
        self._path = folder / "examples.jsonl"

    def __len__(self) -> int:
        """Number of examples."""
        return len(self._line_starts) - 1

    def example(self, number: int) -> Example:
        """One example, by its number from 0."""
        start, end = int(self._line_starts[number]), int(self._line_starts[number + 1])
        with self._path.open("rb") as file:
            file.seek(start)
            source, messages = json.loads(file.read(end - start))
        return Example(number, source, messages)

    def words_of(self, text: str) -> list[str]:
        """The plain words of a text, in order."""
        return [plain(word) for word in word_pattern().findall(unicodedata.normalize("NFC", text))]

    def share_of(self, stem: str) -> float:
        """The share of examples that hold this stem: what is everywhere says nothing."""
        if stem not in self._stems:
            return 0.0
        _, size = self._list_of(self._stems[stem])
        return size / max(len(self), 1)

    def nearest(self, text: str, limit: int) -> list[tuple[int, float]]:
        """The `limit` examples nearest to a text, best first, with their scores."""
        ids = [self._stems.get(self.stemmer(word), -1) for word in self.words_of(text)]
        keys = {one for one in ids if one >= 0}
        both = ((a, b) for a, b in pairwise(ids) if a >= 0 and b >= 0)
        keys |= {_pair_key(a, b, len(self._stems)) for a, b in both}
        lists = sorted(map(self._list_of, sorted(keys)), key=lambda one: one[1])
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

    def _list_of(self, key: int) -> tuple[int, int]:
        """Where a term's list begins, and how long it is."""
        at = int(np.searchsorted(self._keys, key))
        if at == len(self._keys) or int(self._keys[at]) != key:
            return 0, 0
        start = int(self._starts[at])
        return start, int(self._starts[at + 1]) - start

    def shared_runs(self, text: str) -> tuple[Ids, list[int]]:
        """For each word of a text: the longest run from there in the chat data, and whose it is."""
        query = self.run_ids(self.words_of(text))
        sizes, places = longest_runs(query, self._runs, self._order)
        numbers = np.searchsorted(self._run_starts, places, side="right") - 1
        return sizes, [int(number) for number in numbers]

    def run_ids(self, words: Sequence[str]) -> Ids:
        """Numbers of plain words; -1 for one that the data does not hold."""
        return np.array([self._plain.get(word, -1) for word in words], np.int32)


def open_index(folder: Path, fingerprint: str, language: str) -> Index | None:
    """The index kept in a folder, None where there is none of this very data."""
    try:
        head = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        if head["format"] != FORMAT or head["fingerprint"] != fingerprint:
            return None
        return Index(folder, language)
    except (OSError, ValueError, KeyError, EOFError):
        return None


def build_index(
    folder: Path,
    conversations: Iterable[tuple[str, Conversation]],
    fingerprint: str,
    language: str,
) -> Index:
    """Read the conversations, write their index and open it. `index.json` is written last."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    texts = _Texts(folder / "examples.jsonl")
    words = texts.read(conversations)
    plain_words, plain_of = _numbers([plain(word) for word in texts.words], first=BORDER + 1)
    stemmer = Stemmer(language)
    stem_words, stem_of = _numbers([stemmer(plain_words[i - 1]) for i in plain_of], first=0)
    is_word = words >= 0
    runs = np.where(is_word, np.asarray(plain_of, np.int32)[words], BORDER).astype(np.int32)
    stems = np.where(is_word, np.asarray(stem_of, np.int64)[words], -1)
    example_of = np.repeat(
        np.arange(len(texts.run_starts)), np.diff([*texts.run_starts, len(words)])
    )
    keys, starts, examples, scores = _postings(stems, example_of, len(stem_words), len(texts))
    arrays: tuple[NDArray[Any], ...] = (
        keys,
        starts,
        examples,
        scores,
        runs,
        suffix_array(runs),
        np.asarray(texts.run_starts, np.int64),
        np.asarray(texts.line_starts, np.int64),
    )
    for name, values in zip(ARRAYS, arrays, strict=True):
        np.save(folder / f"{name}.npy", values)
    for name, listed in (("plain", ["", *plain_words]), ("stems", stem_words)):
        write_atomically(folder / f"{name}.json", json.dumps(listed, ensure_ascii=False))
    write_json(folder / "index.json", {"format": FORMAT, "fingerprint": fingerprint})
    return Index(folder, language)


class _Texts:
    """Reads conversations into one row of word numbers, and writes them down as they come."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.words: dict[str, int] = {}
        self.run_starts: list[int] = []
        self.line_starts = [0]

    def __len__(self) -> int:
        return len(self.run_starts)

    def read(self, conversations: Iterable[tuple[str, Conversation]]) -> NDArray[Any]:
        """Word numbers of all messages, -1 after each."""
        row = array("i")
        with self.path.open("wb") as file:
            for source, messages in conversations:
                self.run_starts.append(len(row))
                for message in messages:
                    row.extend(self._numbers_of(message["content"]))
                    row.append(-1)
                line = json.dumps([source, messages], ensure_ascii=False).encode() + b"\n"
                file.write(line)
                self.line_starts.append(self.line_starts[-1] + len(line))
        return np.frombuffer(row, np.int32) if len(row) else np.zeros(0, np.int32)

    def _numbers_of(self, text: str) -> Iterator[int]:
        words = self.words
        for word in word_pattern().findall(unicodedata.normalize("NFC", text).casefold()):
            number = words.get(word)
            if number is None:
                number = words[word] = len(words)
            yield number


def _numbers(words: Sequence[str], *, first: int) -> tuple[list[str], list[int]]:
    """Different words in order of appearance, and each one's number."""
    known: dict[str, int] = {}
    numbers = [known.setdefault(word, len(known) + first) for word in words]
    return list(known), numbers


def _postings(
    stems: NDArray[Any], example_of: NDArray[Any], num_stems: int, num_examples: int
) -> tuple[NDArray[Any], ...]:
    """For each term the examples that hold it with their BM25 scores, terms ordered by key."""
    at = np.flatnonzero(stems >= 0)
    terms, owners, docs = stems[at], example_of[at], max(num_examples, 1)
    if num_stems * (num_stems + 1) * docs < 2**63:  # else single stems must do
        follows = np.flatnonzero((stems[:-1] >= 0) & (stems[1:] >= 0))
        both = _pair_key(stems[follows], stems[follows + 1], num_stems)
        terms, owners = np.append(terms, both), np.append(owners, example_of[follows])
    pairs, counts = np.unique(terms.astype(np.int64) * docs + owners, return_counts=True)
    found, example = np.divmod(pairs, docs)
    is_first = np.append(True, found[1:] != found[:-1])[: len(found)]
    keys, term = found[is_first], np.cumsum(is_first) - 1
    sizes = np.bincount(example_of[at], minlength=num_examples).astype(np.float64)
    found_in = np.bincount(term, minlength=len(keys))
    rarity = np.log1p((num_examples - found_in + 0.5) / (found_in + 0.5))
    rarity = np.where(keys < num_stems, rarity, PAIR_WEIGHT * rarity)
    norm = 1 - LENGTH_SHARE + LENGTH_SHARE * sizes / max(sizes.mean() if len(sizes) else 1, 1e-9)
    scores = rarity[term] * counts * (SATURATION + 1) / (counts + SATURATION * norm[example])
    starts = np.concatenate(([0], np.cumsum(found_in)))
    return keys, starts, example.astype(np.int32), scores.astype(np.float32)


def _pair_key(first: Any, second: Any, num_stems: int) -> Any:
    """A term's number for two stems in order: past those of single stems."""
    return num_stems + first * num_stems + second


def _numbered(path: Path) -> dict[str, int]:
    return {word: number for number, word in enumerate(json.loads(path.read_bytes()))}
