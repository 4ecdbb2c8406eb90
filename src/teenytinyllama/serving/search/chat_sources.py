"""Where the conversations are that a chat model was trained on.

They are in the file that the align stage left, else in the sources of its manifest that are inside
the run, or in the files of `--data`. A run without a chat model has none.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from teenytinyllama.artifacts.conversation_layouts import (
    ConversationError,
    parse_conversation,
    read_conversation,
)
from teenytinyllama.artifacts.conversations import Conversation
from teenytinyllama.artifacts.manifest import (
    MANIFEST_NAME,
    Manifest,
    fingerprint_files,
    fingerprint_of,
    read_manifest,
)
from teenytinyllama.artifacts.records import read_records
from teenytinyllama.errors import UserError
from teenytinyllama.regular_files import user_path
from teenytinyllama.settings.datasets import Source
from teenytinyllama.synthetic import dataset as synthetic

logger = logging.getLogger(__name__)

# Training conversations in the align stage's folder, best first.
ALIGN_FILES = ("conversations.jsonl.zst", "conversations.jsonl", "train.jsonl.zst", "train.jsonl")
MAX_STORYBOOK = 1_000_000  # what is invented is indexed in memory


@dataclass(frozen=True)
class ChatSources:
    """The sources of the conversations, and the folder of their index."""

    sources: tuple[Source, ...]
    index_dir: Path
    language: str = "pt"

    def fingerprint(self) -> str:
        """Different where the conversations may have changed."""
        rows = [
            (source.model_dump(mode="json"), fingerprint_files(source.local_paths()))
            for source in self.sources
        ]
        return fingerprint_of([self.language, rows])

    def conversations(self) -> Iterator[tuple[str, Conversation]]:
        """Every usable conversation with its source's title, in order."""
        for source in self.sources:
            yield from ((source.title, one) for one in _read(source, self.language))


def find_chat_sources(models: Sequence[Path], data: Sequence[Path]) -> ChatSources | None:
    """The named files, else the training conversations of the first chat model; None without any.

    A run may come from a stranger: what its manifest names is read only inside its folder, and
    nothing is fetched. Raises UserError for a named file that does not exist.
    """
    if data:
        for path in data:
            if not path.exists():
                fix = "name a .jsonl, .json, .csv or .parquet file"
                raise UserError("chat-data", str(path), "there is no such file", fix)
        named = tuple(Source(kind="files", path=str(path)) for path in data)
        beside = models[0] if models[0].is_dir() else models[0].parent
        return ChatSources(named, beside / ".search")
    for path in models:
        parent = path.resolve().parent  # of a GGUF file: RUN/quantize
        for folder in (path / "align", path, parent, parent.parent / "align"):
            manifest = read_manifest(folder) if folder.is_dir() else None
            if manifest is not None and manifest.stage == "align":
                return _sources_of(folder, folder if folder != path / "align" else path, manifest)
    return None


def _sources_of(folder: Path, root: Path, manifest: Manifest) -> ChatSources | None:
    """The chat data of the align stage in `folder`, all of it inside `root`; else None."""
    language = _language_of(folder.parent)
    kept = [folder / name for name in ALIGN_FILES if (folder / name).is_file()]
    try:
        rows = manifest.recipe.get("sources", ())
        if kept:
            rows = [{"kind": "files", "path": str(kept[0]), "name": manifest.stage}]
        sources = tuple(Source.model_validate(row) for row in rows)
    except (ValueError, TypeError) as error:
        _refuse(folder, f"is damaged ({str(error).splitlines()[0]})")
        return None
    for source in sources:
        if source.kind == "hub":
            _refuse(folder, f'names the data set "{source.title}", which is not in the run')
            return None
        if source.kind == "storybook" and source.num_documents > MAX_STORYBOOK:
            _refuse(folder, f"names a storybook of {source.num_documents:,} conversations")
            return None
        if not _is_inside(source, root):
            _refuse(folder, f"names {source.path}, which is not in {root}")
            return None
    return ChatSources(sources, folder.parent / ".search", language) if sources else None


def _refuse(folder: Path, what: str) -> None:
    manifest = folder / MANIFEST_NAME
    logger.warning(f"serve: no chat data: {manifest} {what}; name the data with --data FILE")


def _is_inside(source: Source, root: Path) -> bool:
    """Whether all files of a source are inside a folder, links followed; `storybook` has none."""
    if source.kind == "storybook":
        return True
    inside = root.resolve()
    try:
        fixed = user_path(source.path.partition("*")[0])  # before a wildcard is searched
        return fixed.resolve().is_relative_to(inside) and all(
            path.resolve().is_relative_to(inside) for path in source.local_paths()
        )
    except (OSError, ValueError, RuntimeError):  # no path at all
        return False


def _language_of(run_dir: Path) -> str:
    """The language that a run's recipe names; Portuguese where it names none."""
    try:
        language = str(json.loads((run_dir / "run.json").read_bytes())["recipe"]["language"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "pt"
    return language if language.replace("-", "").isalnum() else "pt"  # it becomes a folder's name


def _read(source: Source, language: str) -> Iterator[Conversation]:
    if source.kind == "storybook":
        rows = synthetic.conversations(
            seed=source.seed,
            num_conversations=source.num_documents,
            split="train",
            language=language,
        )
        for row in rows:
            yield parse_conversation({"messages": row["messages"]})
        return
    for record in (record for path in source.local_paths() for record in read_records(path)):
        if not record.error and source.selects(record.fields):
            try:
                yield read_conversation(record.fields, source)
            except ConversationError:
                continue  # the align stage counted it and skipped it, too
