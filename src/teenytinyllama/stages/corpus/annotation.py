"""`ttl annotate`: a large model scores documents, and the corpus learns to score from its labels.

The documents are those with the smallest hashes, as many of each source, so that the same ones are
drawn whatever the order of the files. Labels are written in that order, one line each; a work that
was stopped goes on after its last whole line.
"""

from __future__ import annotations

import fcntl
import hashlib
import heapq
import json
import logging
import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any

from teenytinyllama.artifacts.json_lines import read_lines
from teenytinyllama.chat_endpoint import Answer, ChatEndpoint
from teenytinyllama.errors import UserError
from teenytinyllama.languages import rubric_of
from teenytinyllama.progress import Progress, format_money
from teenytinyllama.settings.data_preparation import CorpusSettings
from teenytinyllama.stages.corpus.batches import StepConfig
from teenytinyllama.stages.corpus.filters.boilerplate import usable_documents
from teenytinyllama.stages.corpus.filters.quality import MAX_SCORE
from teenytinyllama.stages.corpus.readers.sources import find_files

logger = logging.getLogger(__name__)

MAX_CHARACTERS = 3000
"""Of a document that the model reads: its beginning, to the last end of a line or word."""
CHARACTERS_PER_TOKEN, TOKENS_PER_ANSWER = 3, 80
"""For the estimate before the first answer."""
MAX_ANSWER_TOKENS = 400
ATTEMPTS = 3
"""For an answer without a score: the first at temperature 0, then others."""
JUDGED_AFTER, MAX_UNSCORED_SHARE = 20, 0.75
SCORE = re.compile(r"(?i)(?:score|nota|pontuação|puntuación)\W{0,6}(\d(?:[.,]\d+)?)(?!\d)")
ALONE = re.compile(r"\W*([0-5](?:[.,]\d+)?)\W*")


@dataclass(frozen=True)
class AnnotationSettings:
    """How much is asked, and what it may cost in US dollars; prices are per million tokens."""

    out: Path
    num_documents: int = 1000
    workers: int = 4
    seed: int = 0
    usd_read: float = 0.0
    usd_written: float = 0.0
    max_usd: float = 0.0

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        """In US dollars; 0 without prices."""
        return (prompt_tokens * self.usd_read + completion_tokens * self.usd_written) / 1e6

    @property
    def unscored(self) -> Path:
        """Where documents go whose answers have no score."""
        return self.out.with_name(f"{self.out.stem}.unscored.jsonl")


@dataclass(frozen=True)
class Sample:
    """The beginning of a document."""

    text: str
    id: str
    source: str


def score_in(answer: str) -> float | None:
    """The last score that an answer names, from 0 to 5.

    >>> score_in("Explica bem. **Nota:** 4/5"), score_in("3"), score_in("Nota: 9"), score_in("não")
    (4.0, 3.0, None, None)
    """
    named = SCORE.findall(answer)
    alone = ALONE.fullmatch(answer)
    found = named[-1] if named else alone[1] if alone else ""
    score = float(found.replace(",", ".")) if found else -1.0
    return score if 0 <= score <= MAX_SCORE else None


def draw_samples(settings: CorpusSettings, language: str, num: int, seed: int) -> list[Sample]:
    """Beginnings of documents, as many of each source, in an order that only the texts decide."""
    config = StepConfig(settings, language)
    files = find_files(settings, Counter())
    others = sum(source.kind != "files" for source in settings.sources)
    if not files:
        what = 'has no source of kind = "files", and only these are scored'
        raise UserError("annotate-no-files", "corpus.sources", what, 'add one: kind = "files"')
    if others:
        logger.warning(f'annotate: {others} sources that are not kind = "files" are not scored')
    smallest: dict[str, _Smallest] = defaultdict(lambda: _Smallest(num))
    megabytes = sum(file.size_bytes for file in files) / 1e6
    with Progress("annotate: read", total=megabytes, unit="MB") as progress:
        for file in files:
            for one in usable_documents(file, config):
                sample = Sample(_beginning(one.text), one.document.id, one.document.source)
                digest = hashlib.sha256(f"{seed}:{sample.text}".encode()).digest()
                smallest[sample.source].add(int.from_bytes(digest), sample)
            progress.advance(file.size_bytes / 1e6)
    turns = zip_longest(*(smallest[source].sorted() for source in sorted(smallest)))
    by_text = {one.text: one for turn in turns for one in turn if one is not None}
    return list(by_text.values())[:num]


class _Smallest:
    """The samples with the smallest hashes, each once."""

    def __init__(self, num: int) -> None:
        self._num = num
        self._heap: list[int] = []  # negative: the first is the largest hash, the next to go
        self._samples: dict[int, Sample] = {}

    def add(self, key: int, sample: Sample) -> None:
        if key in self._samples:
            return
        self._samples[key] = sample
        heapq.heappush(self._heap, -key)
        if len(self._heap) > self._num:
            del self._samples[-heapq.heappop(self._heap)]

    def sorted(self) -> list[Sample]:
        return [self._samples[key] for key in sorted(self._samples)]


def _beginning(text: str) -> str:
    if len(text) <= MAX_CHARACTERS:
        return text
    cut = text[:MAX_CHARACTERS]
    ends = [end for end in (cut.rfind("\n"), cut.rfind(" ")) if end > MAX_CHARACTERS // 2]
    return cut[: ends[0]] if ends else cut


def annotate(
    settings: CorpusSettings, language: str, endpoint: ChatEndpoint, wanted: AnnotationSettings
) -> Counter[str]:
    """Write labels until all documents have one; counts of scores, and of answers without.

    Raises UserError where the endpoint gives no answers, other than scores, or another model's,
    and where the money is spent: what is written stays, and the same call goes on.
    """
    rubric = rubric_of(language)
    name = hashlib.sha256(rubric.encode()).hexdigest()[:8]
    samples = draw_samples(settings, language, wanted.num_documents, wanted.seed)
    with _opened(wanted.out) as labels, _opened(wanted.unscored) as unscored:
        work = _Work(wanted, endpoint, rubric, name)
        work.read([*read_lines(wanted.out), *read_lines(wanted.unscored)])
        left = [sample for sample in samples if sample.text not in work.done]
        work.say(samples, left)
        with Progress("annotate: score", total=len(left), unit="documents") as progress:
            for sample, answer, score in work.answers(left):
                row = work.row(sample, answer, score)
                into = unscored if score is None else labels
                into.write(json.dumps(row, ensure_ascii=False) + "\n")
                into.flush()
                progress.advance(note=work.note())
                work.check(answer)
    return work.counts


class _Work:
    """What was asked so far, in this process and in earlier ones."""

    def __init__(
        self, wanted: AnnotationSettings, endpoint: ChatEndpoint, rubric: str, name: str
    ) -> None:
        self.wanted, self.endpoint, self.rubric, self.name = wanted, endpoint, rubric, name
        self.counts: Counter[str] = Counter()
        self.done: set[str] = set()
        self.model = ""
        self.tokens = [0, 0]

    def read(self, rows: Iterable[dict[str, Any]]) -> None:
        """Rows of an earlier process. Raises UserError where they are of another rubric."""
        for row in rows:
            if row.get("rubric") != self.name:
                what = f"has labels by another rubric ({row.get('rubric')})"
                raise UserError("labels-mixed", str(self.wanted.out), what, "choose another --out")
            self.done.add(str(row.get("text")))
            self.model = self.model or str(row.get("model"))
            self._count(row.get("score"), row.get("tokens") or (0, 0))

    def _count(self, score: float | None, tokens: Iterable[int]) -> None:
        self.counts["no score" if score is None else f"{score:g}"] += 1
        self.tokens = [old + new for old, new in zip(self.tokens, tokens, strict=True)]

    def say(self, samples: list[Sample], left: list[Sample]) -> None:
        """What will be asked and what it costs, before the first question."""
        read = sum(len(self.rubric) + len(one.text) for one in left) / CHARACTERS_PER_TOKEN
        written = len(left) * TOKENS_PER_ANSWER
        cost = self.wanted.cost(read, written)
        sources = Counter(sample.source for sample in samples)
        logger.info(
            f"annotate: {len(left):,} of {len(samples):,} documents to score "
            f"({', '.join(f'{name} {count:,}' for name, count in sorted(sources.items())[:8])}), "
            f"about {read / 1e3:,.0f} k tokens to read and {written / 1e3:,.0f} k to write"
            + (f", about {format_money(cost)}" if cost else "; no price given (--usd-read)")
        )

    def answers(self, samples: list[Sample]) -> Iterator[tuple[Sample, Answer, float | None]]:
        """Answers in the samples' order, several asked for at a time."""
        waiting: deque[tuple[Sample, Future[tuple[Answer, float | None]]]] = deque()
        rest = iter(samples)
        with ThreadPoolExecutor(self.wanted.workers) as pool:
            try:
                while True:
                    while len(waiting) < 2 * self.wanted.workers and (one := next(rest, None)):
                        waiting.append((one, pool.submit(self._ask, one)))
                    if not waiting:
                        return
                    sample, future = waiting.popleft()
                    yield sample, *future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, sample: Sample) -> tuple[Answer, float | None]:
        prompt = self.rubric.replace("{text}", sample.text)
        tokens = [0, 0]
        for attempt in range(ATTEMPTS):
            answer = self.endpoint.ask(
                prompt,
                max_tokens=MAX_ANSWER_TOKENS,
                temperature=0.0 if attempt == 0 else 0.7,
                seed=self.wanted.seed + attempt,
            )
            tokens = [tokens[0] + answer.prompt_tokens, tokens[1] + answer.completion_tokens]
            answer = Answer(answer.text, answer.model, *tokens)
            if (score := score_in(answer.text)) is not None:
                return answer, score
        return answer, None

    def row(self, sample: Sample, answer: Answer, score: float | None) -> dict[str, Any]:
        """A line of the file, counted."""
        tokens = (answer.prompt_tokens, answer.completion_tokens)
        self._count(score, tokens)
        return {
            "text": sample.text,
            "score": score,
            "source": sample.source,
            "id": sample.id,
            "model": answer.model,
            "rubric": self.name,
            "tokens": tokens,
            "answer": answer.text[-500:],
        }

    def note(self) -> str:
        """For the progress line: what it cost so far."""
        cost = self.wanted.cost(*self.tokens)
        return f"{self.counts['no score']} without a score" + (
            f", {format_money(cost)}" if cost else ""
        )

    def check(self, answer: Answer) -> None:
        """Raise UserError where going on makes no sense."""
        self.model = self.model or answer.model
        if answer.model != self.model:
            what = f"answers as {answer.model}, the labels before are by {self.model}"
            fix = "choose another --out for this model, or start the one before"
            raise UserError("endpoint-model-changed", self.endpoint.url, what, fix)
        asked, unscored = self.counts.total(), self.counts["no score"]
        if asked >= JUDGED_AFTER and unscored > MAX_UNSCORED_SHARE * asked:
            what = f"{unscored} of {asked} answers have no score, the last: {answer.text[:80]!r}"
            raise UserError("endpoint-nonsense", self.endpoint.url, what, "take a larger --model")
        cost = self.wanted.cost(*self.tokens)
        if self.wanted.max_usd and cost >= self.wanted.max_usd:
            what = f"{format_money(cost)} are spent, at most {format_money(self.wanted.max_usd)}"
            fix = f"--max-usd {2 * self.wanted.max_usd:g}: the same line goes on"
            raise UserError("endpoint-budget", str(self.wanted.out), what, fix)


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    """A file to append whole lines to; a line cut by a kill is removed. One process at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            what = "is being written by another ttl"
            raise UserError("file-busy", str(path), what, "wait, or another --out") from error
        data = path.read_bytes()
        file.truncate(data.rfind(b"\n") + 1)
        try:
            yield file
        finally:
            file.flush()
            if not path.stat().st_size:
                path.unlink()
