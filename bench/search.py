"""The search over the chat data at full size: index, opening and attribution of 80,000 examples.

    python bench/search.py [--examples 80000] [--data '../shared/data/instruct/*.jsonl.gz']

The conversations of --data, repeated with a number until there are enough; without data, those of
the synthetic world. Times are CPU time, which other work on the machine changes least.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from teenytinyllama.artifacts.conversation_layouts import ConversationError, parse_conversation
from teenytinyllama.artifacts.conversations import Conversation
from teenytinyllama.artifacts.records import read_records
from teenytinyllama.serving.search.retriever import build_index, open_index
from teenytinyllama.serving.search.search_service import SearchService
from teenytinyllama.settings.datasets import Source
from teenytinyllama.synthetic import dataset as synthetic

NUM_QUERIES = 60
PEER = "none: the paper's demo was never in its repository"


def conversations(pattern: str, wanted: int) -> Iterator[tuple[str, Conversation]]:
    """`wanted` conversations of the data, each with another number at its end."""
    found: list[Conversation] = []
    for path in Source(kind="files", path=pattern).local_paths() if pattern else ():
        for record in read_records(path):
            if record.error:
                continue
            try:
                found.append(parse_conversation(record.fields))
            except ConversationError:
                continue
    if not found:
        rows = synthetic.conversations(seed=0, num_conversations=2000, split="train")
        found = [parse_conversation({"messages": row["messages"]}) for row in rows]
    for number, one in zip(range(wanted), itertools.cycle(found), strict=False):
        last = {**one[-1], "content": f"{one[-1]['content']} {number}"}
        yield "data", [*one[:-1], last]  # type: ignore[list-item]


def cpu_ms(ask: Callable[[], object]) -> float:
    started_at = time.process_time()
    ask()
    return 1000 * (time.process_time() - started_at)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--examples", type=int, default=80_000)
    parser.add_argument("--data", default="")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        index_dir = Path(folder) / "index"
        started_at = time.process_time()
        rows = conversations(options.data, options.examples)
        retriever = build_index(index_dir, rows, "bench", "pt")
        build_s = time.process_time() - started_at
        size_mb = sum(path.stat().st_size for path in index_dir.iterdir()) / 1e6
        open_ms = cpu_ms(lambda: open_index(index_dir, "bench", "pt"))
        service = SearchService(retriever)
        chosen = rng.integers(0, len(retriever), NUM_QUERIES)
        texts = [retriever.example(int(number)).messages[-1]["content"] for number in chosen]
        match_ms = [cpu_ms(lambda text=text: service.attribution(text)) for text in texts]
    for figure, values, unit, goal in (
        ("index built", [build_s], "s of CPU", 30),
        ("index on disk", [size_mb], "MB", None),
        ("index opened", [open_ms], "ms of CPU", None),
        ("attribution", match_ms, "ms of CPU", 50),
    ):
        value, spread = statistics.median(values), max(values) - min(values)
        row = {"figure": f"search {options.examples}: {figure}", "value": value, "spread": spread}
        holds = goal is None or max(values) <= goal
        print(json.dumps({**row, "unit": unit, "peer": PEER, "goal": goal, "holds": holds}))


if __name__ == "__main__":
    main()
