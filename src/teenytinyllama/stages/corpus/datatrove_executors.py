"""The document steps on many machines, under datatrove's executors.

    executor_for("local", settings, "pt", output_dir, workers=8).run()

One task per file that the sources name, so that what is written does not depend on how many workers
or machines there are: `kept/`, `dropped/<reason>/` and `quarantine/` hold `part-NNNNN` for file N,
in the stage's own format. `DOCUMENT_STEPS` are one block, so that batches survive; its statistics
name each step. The corpus steps need the whole corpus: run the stage on `kept/`. An interrupted
task starts again from the beginning; finished tasks are skipped (datatrove's marks in `logs/`).
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from teenytinyllama.artifacts.documents import DocumentWriter
from teenytinyllama.errors import UserError, missing_extra
from teenytinyllama.settings.data_preparation import CorpusSettings
from teenytinyllama.stages.corpus.batches import StepConfig, quarantine_row
from teenytinyllama.stages.corpus.corpus_writer import DROPPED_DIR
from teenytinyllama.stages.corpus.filters.boilerplate import learn_boilerplate
from teenytinyllama.stages.corpus.filters.quality import learn_quality
from teenytinyllama.stages.corpus.readers.sources import InputFile, find_files, read_file
from teenytinyllama.stages.corpus.steps import DocumentProcessor

try:
    from datatrove.executor import LocalPipelineExecutor, RayPipelineExecutor, SlurmPipelineExecutor
    from datatrove.pipeline.base import PipelineStep
except ImportError:
    # The module can be imported without the extra; `executor_for` says what to install.
    PipelineStep = object
    LocalPipelineExecutor = RayPipelineExecutor = SlurmPipelineExecutor = None

Kind = Literal["local", "ray", "slurm"]


class DocumentSteps(PipelineStep):  # type: ignore[misc]
    """Task N reads file N, takes its batches through `DOCUMENT_STEPS`, and writes part N."""

    name = "TeenyTinyLlama document steps"
    type = "FILTER"

    def __init__(self, config: StepConfig, files: list[InputFile], output_dir: Path) -> None:
        super().__init__()
        self.config, self.files, self.output_dir = config, files, output_dir

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """One file, batch by batch."""
        file, notes = self.files[rank], Counter[str]()
        processor, stem = DocumentProcessor(self.config), f"part-{rank:05d}"
        quarantine_path = self.output_dir / "quarantine" / f"{stem}.jsonl"
        quarantine_path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack, quarantine_path.open("w", encoding="ascii") as quarantine:
            writers = {"kept": stack.enter_context(DocumentWriter(self.output_dir / "kept", stem))}
            for raw in read_file(file, self.config, notes):
                batch = processor.apply(raw)
                for one in batch.documents:
                    if one.is_quarantined:
                        row = quarantine_row(one, batch.source, batch.kind)
                        quarantine.write(json.dumps(row, ensure_ascii=True) + "\n")
                        continue
                    place = f"{DROPPED_DIR}/{one.reason}" if one.reason else "kept"
                    if place not in writers:
                        writer = DocumentWriter(self.output_dir / place, stem)
                        writers[place] = stack.enter_context(writer)
                    writers[place].write(one.document)
                    notes[place] += 1
                notes.update(batch.dropped_by + batch.notes)
        for name, count in notes.items():
            self.stat_update(name, value=count)


def document_steps(settings: CorpusSettings, language: str, output_dir: Path) -> DocumentSteps:
    """The block of all document steps that the recipe asks for.

    Raises UserError for files that cannot be read, and for sources that are none.
    """
    others = [source.title for source in settings.sources if source.kind != "files"]
    if others:
        raise UserError(
            "source-without-files",
            "corpus.sources",
            f"{', '.join(others)}: no files, expected only sources of files: a task reads one file",
            'give sources with kind = "files"',
        )
    # What these two annotate is for the corpus steps, and is not written here.
    settings = settings.model_copy(update={"near_duplicates": None, "repeated_paragraphs": None})
    files = find_files(settings, Counter())
    boilerplate = learn_boilerplate(settings, language, files)
    config = StepConfig(settings, language, boilerplate, learn_quality(settings, language, files))
    return DocumentSteps(config, files, output_dir)


def executor_for(
    kind: Kind,
    settings: CorpusSettings,
    language: str,
    output_dir: Path,
    *,
    workers: int = -1,
    **options: Any,
) -> Any:
    """A datatrove executor, ready to `run()`: all tasks at once, or `workers` at a time.

    Raises UserError where datatrove is not installed or there is nothing to read. `options` are
    passed on: `time` and `partition` for Slurm, where `run()` submits the job and returns. On
    several machines all folders, and this Python's, must be visible from each of them.
    """
    if LocalPipelineExecutor is None:
        raise missing_extra("datatrove", "machines")
    block = document_steps(settings, language, output_dir)
    options |= {"tasks": len(block.files), "workers": workers}
    options |= {"pipeline": [block], "logging_dir": str(output_dir / "logs")}
    # Worker processes use one core each; numpy's threads would only compete.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if kind == "local":
        return LocalPipelineExecutor(**options)
    if kind == "ray":
        return RayPipelineExecutor(**options)
    # The job's shell finds this Python's commands, unless another environment is named.
    if not options.keys() & {"env_command", "condaenv", "venv_path"}:
        options["env_command"] = f'export PATH="{Path(sys.executable).parent}:$PATH"'
    return SlurmPipelineExecutor(**options)
