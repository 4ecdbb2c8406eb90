"""Batches through worker processes, results in order, a bounded number under way.

Small corpora are prepared in this process. Workers are started fresh (no fork: a forked child
would hold the run's lock) and end by themselves when their parent is gone.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import connection

from teenytinyllama.settings.data_preparation import CorpusSettings
from teenytinyllama.stages.corpus.corpus_records import Prepared, RawBatch
from teenytinyllama.stages.corpus.document_processor import Preparer
from teenytinyllama.stages.corpus.filters import Boilerplate

BATCHES_UNDER_WAY_PER_WORKER = 3
MAX_WORKERS = 16
_preparer: Preparer | None = None


def prepare_all(
    batches: Iterable[RawBatch],
    settings: CorpusSettings,
    language: str,
    *,
    num_workers: int,
    boilerplate: Mapping[str, Boilerplate] | None = None,
) -> Iterator[Prepared]:
    """Every batch prepared, in the order given, whatever the number of workers (0: none)."""
    if num_workers == 0:
        preparer = Preparer(settings, language, boilerplate)
        for batch in batches:
            yield preparer.prepare(batch)
        return
    start = multiprocessing.get_context("spawn")
    given = (settings, language, boilerplate)
    with ProcessPoolExecutor(num_workers, start, _begin, given) as pool:
        under_way: deque[Future[Prepared]] = deque()
        try:
            for batch in batches:
                under_way.append(pool.submit(_prepare, batch))
                if len(under_way) >= BATCHES_UNDER_WAY_PER_WORKER * num_workers:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def usable_cores() -> int:
    """Cores that this process may use, 16 at most: reading is one process, and feeds no more."""
    return min(len(os.sched_getaffinity(0)), MAX_WORKERS)


def _begin(
    settings: CorpusSettings, language: str, boilerplate: Mapping[str, Boilerplate] | None
) -> None:
    global _preparer
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _preparer = Preparer(settings, language, boilerplate)


def _prepare(batch: RawBatch) -> Prepared:
    assert _preparer is not None
    return _preparer.prepare(batch)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
