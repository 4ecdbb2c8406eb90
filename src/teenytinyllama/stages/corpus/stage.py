"""Stage 1: raw text to clean, deduplicated, licensed documents.

Two passes. The first reads every record once: workers take batches through `DOCUMENT_STEPS`, one
process collects the results. The second writes what `CORPUS_STEPS` decided. Every record is kept,
filtered, a duplicate or quarantined, and the manifest has the sums.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from teenytinyllama.artifacts.manifest import MANIFEST_NAME
from teenytinyllama.progress import Progress
from teenytinyllama.settings.data_preparation import CorpusSettings
from teenytinyllama.settings.datasets import with_presets
from teenytinyllama.stages.corpus.batch_collector import BatchCollector
from teenytinyllama.stages.corpus.batches import StepConfig
from teenytinyllama.stages.corpus.corpus_writer import CorpusWriter
from teenytinyllama.stages.corpus.decontamination import CONTAMINATED, count_short_items
from teenytinyllama.stages.corpus.filters.boilerplate import learn_boilerplate
from teenytinyllama.stages.corpus.filters.quality import learn_quality
from teenytinyllama.stages.corpus.readers.sources import (
    InputFile,
    SourceReader,
    check_enough_documents,
    find_files,
)
from teenytinyllama.stages.corpus.staging import OUTCOMES, CorpusState, CorpusStats, StagingFile
from teenytinyllama.stages.corpus.steps import CorpusSteps, process_all, usable_cores
from teenytinyllama.stages.corpus.text_cleaning import CHARACTERS_AS_WORDS, PERSONAL_DATA
from teenytinyllama.stages.interface import StageContext, StageResult

logger = logging.getLogger(__name__)


# Below this size starting worker processes costs more than it saves.
ONE_PROCESS_BYTES = 8 << 20
WORK_DIR = ".work"


def run(*, settings: CorpusSettings, context: StageContext, out_dir: Path) -> StageResult:
    """Read all sources, apply the steps, and write both splits.

    Raises UserError for sources that cannot be right, before or while they are read.
    """
    notes: Counter[str] = Counter()
    sources = with_presets(settings.sources, context.language, "corpus.sources")
    settings = settings.model_copy(update={"sources": sources})
    files = find_files(settings, notes)
    short_items = count_short_items(settings)
    work_dir = _clear(out_dir)
    state = CorpusState(settings, work_dir, StagingFile(work_dir / "texts"), notes=notes)
    steps = CorpusSteps(state)
    _read(state, steps, files, context.language, out_dir / "quarantine.jsonl")
    check_enough_documents(settings, files)
    steps.decide()
    written = CorpusWriter(out_dir, state, steps).run()
    shutil.rmtree(work_dir)
    logger.info(funnel(state.stats))
    _say_unsegmented(notes[CHARACTERS_AS_WORDS])
    return _result(state, written, short_items)


def _clear(out_dir: Path) -> Path:
    """Remove what an interrupted run left, and make the folder for unfinished files."""
    for path in out_dir.iterdir():
        if path.name == WORK_DIR or not path.name.startswith("."):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != MANIFEST_NAME:
                path.unlink()
    work_dir = out_dir / WORK_DIR
    work_dir.mkdir()
    return work_dir


def _read(
    state: CorpusState,
    steps: CorpusSteps,
    files: list[InputFile],
    language: str,
    quarantine_path: Path,
) -> None:
    """The first pass."""
    settings = state.settings
    size = sum(file.size_bytes for file in files)
    num_workers = usable_cores() if size > ONE_PROCESS_BYTES else 0
    with quarantine_path.open("w", encoding="ascii") as quarantine:
        collector = BatchCollector(state, steps, quarantine, language)
        boilerplate = learn_boilerplate(settings, language, files)
        classifier = learn_quality(settings, language, files)
        if classifier is not None:
            classifier.save(quarantine_path.parent)
            state.metrics["quality"] = dict(classifier.agreement)
        config = StepConfig(settings, language, boilerplate, classifier)
        reader = SourceReader(settings, language, files, state.notes)
        total = reader.total_megabytes
        unit = "documents" if total is None else "MB"
        with Progress("corpus: read", total=total, unit=unit) as work:
            for batch in process_all(reader.batches(), config, num_workers=num_workers):
                collector.collect(batch)
                now = collector.num_read if total is None else reader.megabytes
                detail = "" if total is None else f"{collector.num_read:,} documents"
                work.advance(now - work.done, detail)
        collector.finish()


def _say_unsegmented(num_documents: int) -> None:
    if num_documents:
        logger.warning(
            f"corpus: {num_documents:,} documents are in a script without spaces for which ICU has "
            "no dictionary: each of their characters counts as a word"
        )


def funnel(stats: CorpusStats) -> str:
    """What was read and what remains, in one line.

    >>> stats = CorpusStats()
    >>> stats.add("a", "kept", "", 10)
    >>> stats.add("a", "filtered", "too-short", 2)
    >>> funnel(stats)
    'corpus: 2 documents read = 1 kept + 1 filtered + 0 duplicate + 0 quarantined (too-short 1)'
    """
    parts = " + ".join(f"{stats.total(outcome):,} {outcome}" for outcome in OUTCOMES)
    reasons: Counter[str] = Counter()
    for outcome in OUTCOMES[1:]:
        reasons.update(stats.reasons(outcome))
    top = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common(6))
    return f"corpus: {stats.total():,} documents read = {parts}" + (f" ({top})" if top else "")


def _result(
    state: CorpusState, written: dict[str, int], short_items: dict[str, int]
) -> StageResult:
    stats, notes = state.stats, state.notes
    counts: dict[str, Any] = stats.counts() | written
    counts["licenses"] = dict(sorted(stats.licenses.items()))
    counts["personal_data"] = _with_prefix(notes, PERSONAL_DATA)
    counts["contaminated_by_task"] = _with_prefix(notes, f"{CONTAMINATED}:")
    counts["items_too_short_by_task"] = short_items
    counts["notes"] = {name: n for name, n in sorted(notes.items()) if n and ":" not in name}
    read = counts["documents_read"]
    metrics: dict[str, Any] = {
        f"{outcome}_fraction": round(counts[f"documents_{outcome}"] / read, 6)
        for outcome in OUTCOMES
    }
    metrics["kept_bytes_fraction"] = round(counts["bytes_kept"] / counts["bytes_read"], 6)
    rows = [{"step": "read", "documents": read, "bytes": counts["bytes_read"]}]
    left = read
    for outcome in ("quarantined", "duplicate", "filtered"):
        for reason, count in counts[f"{outcome}_by_reason"].items():
            left -= count
            rows.append({"step": f"{outcome}: {reason}", "documents": left, "dropped": count})
    metrics["funnel"] = rows
    return StageResult(counts, metrics | state.metrics)


def _with_prefix(notes: Counter[str], prefix: str) -> dict[str, int]:
    found = sorted(name for name in notes if name.startswith(prefix) and notes[name])
    return {name.removeprefix(prefix): notes[name] for name in found}
