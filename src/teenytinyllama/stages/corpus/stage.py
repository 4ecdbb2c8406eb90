"""Stage 1: raw text to clean, deduplicated, licensed documents.

Two passes. The first reads every record once: workers parse, clean and judge, one process keeps
the books. The second writes what was decided. Every record read is kept, filtered, a duplicate or
quarantined; the sums are asserted and stand in the manifest.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from teenytinyllama.artifacts.manifest import MANIFEST_NAME
from teenytinyllama.errors import UserError
from teenytinyllama.progress import Progress
from teenytinyllama.settings.data_preparation import CorpusSettings
from teenytinyllama.settings.datasets import with_presets
from teenytinyllama.stages.corpus.batch_collector import Intake
from teenytinyllama.stages.corpus.corpus_stats import HEADINGS, QUARANTINED, Ledger
from teenytinyllama.stages.corpus.corpus_writer import Closing, Written, heldout, heldout_limit
from teenytinyllama.stages.corpus.dedup.minhash import near_duplicates
from teenytinyllama.stages.corpus.dedup.repeated_paragraphs import Cuts
from teenytinyllama.stages.corpus.document_processor import CONTAMINATED, PERSONAL_DATA
from teenytinyllama.stages.corpus.filters import Boilerplate
from teenytinyllama.stages.corpus.filters.boilerplate_learner import BoilerplateLearner
from teenytinyllama.stages.corpus.mixture import apply_mix, plan_mix, table_of
from teenytinyllama.stages.corpus.process_pool import prepare_all, usable_cores
from teenytinyllama.stages.corpus.readers.reading import Reading
from teenytinyllama.stages.corpus.readers.sources import InputFile, find_files, read_file
from teenytinyllama.stages.interface import StageContext, StageResult

logger = logging.getLogger(__name__)


# Below this size the start of worker processes costs more than it saves.
ONE_PROCESS_BYTES = 8 << 20
WORK_DIR = ".work"
FOREIGN, FOREIGN_SHARE_SAID = "language", 0.1


def run(*, settings: CorpusSettings, context: StageContext, out_dir: Path) -> StageResult:
    """Read all sources, drop what the rules drop, split by hash, and write both splits.

    Raises UserError for sources that cannot be right, before or while they are read.
    """
    notes: Counter[str] = Counter()
    sources = with_presets(settings.sources, context.language, "corpus.sources")
    settings = settings.model_copy(update={"sources": sources})
    files = find_files(settings, notes)
    work_dir = _clear(out_dir)
    quarantine_path = out_dir / "quarantine.jsonl"
    with quarantine_path.open("w", encoding="ascii") as quarantine:
        intake = Intake(settings, work_dir, quarantine)
        size = sum(file.size_bytes for file in files)
        num_workers = usable_cores() if size > ONE_PROCESS_BYTES else 0
        boilerplate = _boilerplate(settings, files)
        reading = Reading(settings, context.language, files, notes)
        unit = "documents" if reading.total_megabytes is None else "MB"
        with Progress("corpus: read", total=reading.total_megabytes, unit=unit) as work:
            for batch in prepare_all(
                reading.batches(),
                settings,
                context.language,
                num_workers=num_workers,
                boilerplate=boilerplate,
            ):
                intake.take(batch)
                num_read = len(intake.index) + intake.ledger.total(QUARANTINED)
                now = num_read if reading.total_megabytes is None else reading.megabytes
                work.advance(now - work.done, "" if unit != "MB" else f"{num_read:,} documents")
        intake.finish()
    _check_language(settings, intake, context.language)
    _drop_near_duplicates(settings, intake)
    limit = heldout_limit(intake.index, settings.heldout_fraction)
    is_heldout = partial(heldout, intake.index, limit)
    mix = plan_mix(intake.index, is_heldout, settings.mix)
    logger.info(table_of(mix))
    copies = apply_mix(intake.index, mix, is_heldout)
    written = Closing(
        out_dir,
        intake.index,
        intake.ledger,
        is_heldout=is_heldout,
        copies=copies,
        cuts=_paragraphs_to_cut(settings, intake),
        min_document_bytes=settings.min_document_bytes,
    ).run(intake.spool)
    shutil.rmtree(work_dir)
    notes.update(intake.notes)
    notes["repeated-paragraphs-cut"] = written.lines_cut
    outcome = _outcome(intake.ledger, written, notes)
    outcome.metrics["mix"] = [asdict(row) for row in mix]
    logger.info(funnel(intake.ledger))
    return outcome


def _clear(out_dir: Path) -> Path:
    """Remove what an interrupted run left, and make the folder for unfinished things."""
    for path in out_dir.iterdir():
        if path.name == WORK_DIR or not path.name.startswith("."):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != MANIFEST_NAME:
                path.unlink()
    work_dir = out_dir / WORK_DIR
    work_dir.mkdir()
    return work_dir


def _boilerplate(settings: CorpusSettings, files: list[InputFile]) -> dict[str, Boilerplate]:
    """Lines that the sources repeat, by source; none where the recipe lets them stay."""
    if settings.filters.max_boilerplate_fraction == 1:
        return {}
    learner = BoilerplateLearner(settings)
    for file in files:
        source = settings.sources[file.source]
        learner.read(source, read_file(file, source, settings, Counter()))
    return learner.result()


def _check_language(settings: CorpusSettings, intake: Intake, language: str) -> None:
    """Say how much is in another language. Raises UserError where it is nearly everything."""
    index = intake.index
    foreign = sum(index.reason(row) == FOREIGN for row in range(len(index)))
    share = foreign / max(len(index), 1)
    if share > settings.max_foreign_fraction:
        raise UserError(
            "corpus-language",
            "corpus.sources",
            f'{share:.0%} of {len(index)} documents are not in the language "{language}", '
            f"expected at most {settings.max_foreign_fraction:.0%}",
            "set the recipe's language, take other sources, or raise corpus.max_foreign_fraction",
        )
    if share > FOREIGN_SHARE_SAID:
        logger.info(
            f"corpus: {share:.0%} of the documents are not in the language {language}, dropped"
        )


def _drop_near_duplicates(settings: CorpusSettings, intake: Intake) -> None:
    if settings.near_duplicates is None or intake.keys is None:
        return
    with Progress("corpus: near duplicates", unit="copies") as work:
        copies, left_out = near_duplicates(
            intake.index, intake.keys, intake.spool, settings.near_duplicates
        )
        for copy in copies:
            intake.index.drop(copy.dropped, "duplicate-near", duplicate_of=copy.kept)
            intake.index.similarity[copy.dropped] = copy.similarity
        work.advance(len(copies))
    intake.notes["near-duplicate-comparisons-left-out"] += left_out


def _paragraphs_to_cut(settings: CorpusSettings, intake: Intake) -> Cuts | None:
    if settings.repeated_paragraphs is None or intake.paragraphs is None:
        return None
    return intake.paragraphs.cuts(intake.index, settings.repeated_paragraphs)


def funnel(ledger: Ledger) -> str:
    """What was read and what remains, in one line.

    >>> ledger = Ledger()
    >>> ledger.add("a", "kept", "", 10)
    >>> ledger.add("a", "filtered", "too-short", 2)
    >>> funnel(ledger)
    'corpus: 2 documents read = 1 kept + 1 filtered + 0 duplicate + 0 quarantined (too-short 1)'
    """
    parts = " + ".join(f"{ledger.total(heading):,} {heading}" for heading in HEADINGS)
    reasons: Counter[str] = Counter()
    for heading in HEADINGS[1:]:
        reasons.update(ledger.reasons(heading))
    words = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common(6))
    return f"corpus: {ledger.total():,} documents read = {parts}" + (f" ({words})" if words else "")


def _outcome(ledger: Ledger, written: Written, notes: Counter[str]) -> StageResult:
    counts: dict[str, Any] = ledger.counts()
    counts["documents_train"] = written.documents_train
    counts["documents_heldout"] = written.documents_heldout
    counts["bytes_train"] = written.bytes_train
    counts["bytes_heldout"] = written.bytes_heldout
    counts["licenses"] = dict(sorted(ledger.licenses.items()))
    counts["personal_data"] = _with_prefix(notes, PERSONAL_DATA)
    counts["contaminated_by_task"] = _with_prefix(notes, CONTAMINATED)
    counts["notes"] = {name: n for name, n in sorted(notes.items()) if n and ":" not in name}
    read = counts["documents_read"]
    metrics: dict[str, Any] = {
        f"{heading}_fraction": round(counts[f"documents_{heading}"] / read, 6)
        for heading in HEADINGS
    }
    metrics["kept_bytes_fraction"] = round(counts["bytes_kept"] / counts["bytes_read"], 6)
    steps = [{"step": "read", "documents": read, "bytes": counts["bytes_read"]}]
    left = read
    for heading in ("quarantined", "duplicate", "filtered"):
        for reason, count in counts[f"{heading}_by_reason"].items():
            left -= count
            steps.append({"step": f"{heading}: {reason}", "documents": left, "dropped": count})
    metrics["funnel"] = steps
    return StageResult(counts, metrics)


def _with_prefix(notes: Counter[str], prefix: str) -> dict[str, int]:
    found = sorted(name for name in notes if name.startswith(prefix) and notes[name])
    return {name.removeprefix(prefix): notes[name] for name in found}
