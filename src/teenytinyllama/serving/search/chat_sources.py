"""Where the conversations are that a chat model was trained on.

They are in the file that the align stage left, else in the sources of its manifest, or in the files
of `--data`. A run without a chat model has none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from teenytinyllama.artifacts.conversations import (
    Conversation,
    ConversationError,
    parse_conversation,
    read_conversation,
)
from teenytinyllama.artifacts.manifest import fingerprint_files, fingerprint_of, read_manifest
from teenytinyllama.artifacts.records import hub_records, read_records
from teenytinyllama.errors import UserError
from teenytinyllama.settings.datasets import Source, with_presets
from teenytinyllama.synthetic import dataset as synthetic

# Training conversations in the align stage's folder, best first.
ALIGN_FILES = ("conversations.jsonl.zst", "conversations.jsonl", "train.jsonl.zst", "train.jsonl")


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

    Raises UserError for a named file that does not exist.
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
                kept = [folder / name for name in ALIGN_FILES if (folder / name).is_file()]
                rows = manifest.recipe.get("sources", ())
                if kept:
                    rows = [{"kind": "files", "path": str(kept[0]), "name": manifest.stage}]
                sources = tuple(Source.model_validate(row) for row in rows)
                language = _language_of(folder.parent)
                sources = with_presets(sources, language, "align.sources")
                return ChatSources(sources, folder.parent / ".search", language)
    return None


def _language_of(run_dir: Path) -> str:
    """The language that a run's recipe names."""
    path = run_dir / "run.json"
    if not path.is_file():
        return "pt"
    recipe = json.loads(path.read_text(encoding="utf-8"))["recipe"]
    return str(recipe.get("language", "pt"))


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
    if source.kind == "hub":
        records = hub_records(
            source.path,
            config=source.config,
            split=source.split,
            revision=source.revision,
            where=source.title,
        )
    else:
        records = (record for path in source.local_paths() for record in read_records(path))
    for record in records:
        if not record.error and source.selects(record.fields):
            try:
                yield read_conversation(record.fields, source)
            except ConversationError:
                continue  # the align stage counted it and skipped it, too
