"""The same filters as datatrove blocks, for corpora that need many machines.

    executor_for("local", settings, "pt", input_dir, output_dir, workers=8).run()

One task per shard of `input_dir` (our `.jsonl.zst`, or any `.jsonl`, `.jsonl.gz`), so that what is
written does not depend on how many workers or machines did it: `kept/` and `dropped/<reason>/` hold
`part-NNNNN-*.jsonl.zst` for shard N, in the stage's own format. A line that cannot be read goes to
`quarantine/` with the reason; datatrove's own readers would lose the rest of its file. A task that
was interrupted is done again from its start; finished tasks are skipped (datatrove's marks in
`logs/`). Near duplicates need the whole corpus: run the stage, or datatrove's MinHash, on `kept/`.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import zstandard

from teenytinyllama.artifacts.documents import Document, DocumentWriter
from teenytinyllama.errors import UserError, missing_extra
from teenytinyllama.settings.data_preparation import FilterSettings
from teenytinyllama.stages.corpus.filters import Chain

try:
    from datatrove.data import Document as Item
    from datatrove.executor import (
        LocalPipelineExecutor,
        RayPipelineExecutor,
        SlurmPipelineExecutor,
    )
    from datatrove.pipeline.base import PipelineStep
    from datatrove.pipeline.filters.base_filter import BaseFilter
except ImportError:
    # The module can be read without the extra; `executor_for` says what to install.
    Item = PipelineStep = BaseFilter = object
    LocalPipelineExecutor = RayPipelineExecutor = SlurmPipelineExecutor = None

Kind = Literal["local", "ray", "slurm"]
DOCUMENTS_PER_BATCH = 200
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
_FIELDS = tuple(field.name for field in fields(Document))


class ShardReader(PipelineStep):  # type: ignore[misc]
    """Task N reads shard N, line by line. What is no document is quarantined, not fatal."""

    name = "TeenyTinyLlama shards"
    type = "READER"

    def __init__(self, input_dir: Path, output_dir: Path) -> None:
        super().__init__()
        self.input_dir, self.output_dir = input_dir, output_dir

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Item]:
        """The documents of one shard, in order."""
        path = shards_of(self.input_dir)[rank]
        quarantine = self.output_dir / "quarantine" / f"part-{rank:05d}.jsonl"
        quarantine.parent.mkdir(parents=True, exist_ok=True)
        with quarantine.open("w", encoding="ascii") as faults:
            for number, line in enumerate(_lines(path), start=1):
                try:
                    item = _item(line, f"{path.name}:{number}")
                except (ValueError, KeyError, TypeError) as error:
                    self.stat_update("quarantined")
                    fault = {"file": path.name, "line": number, "reason": str(error)[:200]}
                    faults.write(json.dumps(fault) + "\n")
                    continue
                self.stat_update("documents")
                yield item


def _lines(path: Path) -> Iterator[bytes]:
    with ExitStack() as stack:
        stream: Iterable[bytes]
        if path.suffix == ".zst":
            raw = stack.enter_context(path.open("rb"))
            reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
            stream = io.BufferedReader(stack.enter_context(reader))
        elif path.suffix == ".gz":
            stream = stack.enter_context(gzip.open(path, "rb"))
        else:
            stream = stack.enter_context(path.open("rb"))
        for line in stream:
            if line.strip():
                yield line


def _item(line: bytes, place: str) -> Item:
    """One line as datatrove's document: what is not text or id stands in its metadata."""
    row = json.loads(line)
    text = row["text"]
    if not isinstance(text, str):
        raise TypeError(f"text is {type(text).__name__}")
    text.encode("utf-8")  # a lone surrogate cannot be written: ValueError
    metadata = {name: row[name] for name in ("source", "license", "url", "scores") if name in row}
    return Item(text=text, id=str(row.get("id", place)), metadata=metadata)


class FilterBlock(BaseFilter):  # type: ignore[misc]
    """The filters of a recipe on batches; reasons and scores as in the corpus stage."""

    name = "TeenyTinyLlama filters"

    def __init__(
        self, settings: FilterSettings, language: str, exclusion_writer: Dropped | None = None
    ) -> None:
        super().__init__(exclusion_writer, batch_size=DOCUMENTS_PER_BATCH)
        self.chain = Chain(settings, language)

    def filter(self, doc: Item) -> bool | tuple[bool, str]:
        """One document."""
        return self.filter_batch([doc])[0]

    def filter_batch(self, batch: list[Item]) -> list[bool | tuple[bool, str]]:
        """Keep, or drop with the reason; scores and rewritten text go into the document."""
        urls = [str(doc.metadata.get("url") or "") for doc in batch]
        found: list[bool | tuple[bool, str]] = []
        verdicts = self.chain.judge([doc.text for doc in batch], urls=urls)
        for doc, verdict in zip(batch, verdicts, strict=True):
            doc.metadata["scores"] = verdict.scores
            if verdict.text is not None:
                doc.text = verdict.text
            found.append(True if verdict.reason is None else (False, verdict.reason))
        return found


class Dropped:
    """Keeps the text of dropped documents in `dropped/<reason>/`: datatrove's exclusion writer."""

    def __init__(self, output_dir: Path) -> None:
        self.folder = output_dir / "dropped"
        self._stack: ExitStack | None = None
        self._writers: dict[str, DocumentWriter] = {}

    def __enter__(self) -> Dropped:
        self._stack, self._writers = ExitStack(), {}
        return self

    def write(self, item: Item, rank: int) -> None:
        """Append one document under its reason."""
        assert self._stack is not None
        reason = str(item.metadata["filter_reason"])
        if reason not in self._writers:
            writer = DocumentWriter(self.folder / reason, f"part-{rank:05d}")
            self._writers[reason] = self._stack.enter_context(writer)
        self._writers[reason].write(_document(item))

    def __exit__(self, *exception: Any) -> None:
        if self._stack is not None:
            self._stack.__exit__(*exception)
        self._stack, self._writers = None, {}


class ShardWriter(PipelineStep):  # type: ignore[misc]
    """Task N writes shard N of `kept/`."""

    name = "TeenyTinyLlama shards"
    type = "WRITER"

    def __init__(self, output_dir: Path) -> None:
        super().__init__()
        self.folder = output_dir / "kept"

    def run(self, data: Iterable[Item], rank: int = 0, world_size: int = 1) -> Iterator[Item]:
        """Write every document, and hand it on."""
        with DocumentWriter(self.folder, f"part-{rank:05d}") as writer:
            for item in data:
                writer.write(_document(item))
                self.stat_update("documents")
                yield item


def _document(item: Item) -> Document:
    known = {name: item.metadata[name] for name in _FIELDS if name in item.metadata}
    return Document(id=item.id, text=item.text, **({"source": "", "license": ""} | known))


def shards_of(input_dir: Path) -> list[Path]:
    """The shards of a folder in the order of their tasks. Raises UserError where it has none."""
    found = sorted(path for path in input_dir.iterdir() if path.name.endswith(SUFFIXES))
    if not found:
        raise UserError(
            "shards-missing",
            str(input_dir),
            f"no file here ends in {', '.join(SUFFIXES)}",
            "name a folder of documents",
        )
    return found


def pipeline(
    settings: FilterSettings, language: str, input_dir: Path, output_dir: Path
) -> list[Any]:
    """Blocks that read shards, filter them and write what stays and what goes."""
    return [
        ShardReader(input_dir, output_dir),
        FilterBlock(settings, language, Dropped(output_dir)),
        ShardWriter(output_dir),
    ]


def executor_for(
    kind: Kind,
    settings: FilterSettings,
    language: str,
    input_dir: Path,
    output_dir: Path,
    *,
    workers: int = -1,
    **options: Any,
) -> Any:
    """A datatrove executor, ready to `run()`: all tasks at once, or `workers` at a time.

    Raises UserError where datatrove is not installed or there is nothing to read. `options` go to
    it as they are: `time` and `partition` for Slurm, where `run()` hands the job over and returns.
    On several machines both folders, and this Python's, must be seen from each of them.
    """
    if LocalPipelineExecutor is None:
        raise missing_extra("datatrove", "machines")
    blocks = pipeline(settings, language, input_dir, output_dir)
    tasks, logs = len(shards_of(input_dir)), str(output_dir / "logs")
    # Worker processes carry one core each; numpy's threads would only compete.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if kind == "local":
        return LocalPipelineExecutor(
            blocks, tasks=tasks, workers=workers, logging_dir=logs, **options
        )
    if kind == "ray":
        return RayPipelineExecutor(
            blocks, tasks=tasks, workers=workers, logging_dir=logs, **options
        )
    # The job's shell finds this Python's commands, unless another environment is named.
    if not options.keys() & {"env_command", "condaenv", "venv_path"}:
        options["env_command"] = f'export PATH="{Path(sys.executable).parent}:$PATH"'
    return SlurmPipelineExecutor(blocks, tasks=tasks, workers=workers, logging_dir=logs, **options)
