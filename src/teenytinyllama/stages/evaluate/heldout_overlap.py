"""What of the held-out text and of the test items stands in the training text, counted and said."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from teenytinyllama.artifacts.documents import Document, read_documents
from teenytinyllama.progress import Progress
from teenytinyllama.stages.evaluate.benchmark import Benchmark
from teenytinyllama.stages.evaluate.contamination import Contamination, OverlapCheck, item_parts

logger = logging.getLogger(__name__)


def check_overlap(
    benchmarks: Sequence[Benchmark], documents: Sequence[Document], corpus_dir: Path
) -> dict[str, Any]:
    """Figures of the leaks and, by task, of the contaminated items; reads the corpus once."""
    check = OverlapCheck()
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

        leaks, contamination = check.read_training(texts())
    return {
        "checked": True,
        "heldout_documents": leaks.num_documents,
        "heldout_leaks_exact": leaks.num_exact,
        "heldout_leaks_near": leaks.num_near,
        "heldout_leaks_examples": leaks.examples,
        "tasks": {name: _figures(found) for name, found in contamination.items()},
    }


def _figures(found: Contamination) -> dict[str, Any]:
    return {
        "contaminated_items": found.num_contaminated,
        "contaminated_fraction": found.fraction,
        "items_checked_for_overlap": found.num_checked,
        "items_too_short_to_check": found.num_too_short,
    }


def say_overlap(metrics: dict[str, Any]) -> None:
    """One line for the held-out text and one for each task."""
    if not metrics["checked"]:
        return
    logger.info(
        f"evaluate: of {metrics['heldout_documents']:,} held-out documents "
        f"{metrics['heldout_leaks_exact']} stand in the training text word for word, "
        f"{metrics['heldout_leaks_near']} nearly so"
    )
    for name, found in metrics["tasks"].items():
        logger.info(
            f"evaluate: {name}: {found['contaminated_items']:,} of "
            f"{found['items_checked_for_overlap']:,} items share a run of words with the training "
            f"text; {found['items_too_short_to_check']:,} more are too short to tell"
        )
