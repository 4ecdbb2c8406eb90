"""Where the conversations are that a chat model was trained on.

They are in the file that the align stage left, or in the files of `--data`. A run without a chat
model has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from teenytinyllama.artifacts.conversation_layouts import ConversationError, read_conversation
from teenytinyllama.artifacts.conversations import Conversation
from teenytinyllama.artifacts.manifest import fingerprint_files, fingerprint_of, read_run_json
from teenytinyllama.artifacts.records import read_records
from teenytinyllama.errors import UserError
from teenytinyllama.settings.datasets import Source

ALIGN_FILE = "align/train.jsonl.zst"  # as chat_dataset.py writes it


@dataclass(frozen=True)
class ChatSources:
    """The files of the conversations, and the folder of their index."""

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
            for record in (one for path in source.local_paths() for one in read_records(path)):
                if record.error:
                    continue
                try:
                    yield source.title, read_conversation(record.fields, source)
                except ConversationError:
                    continue  # the align stage counted it and skipped it, too


def find_chat_sources(models: Sequence[Path], data: Sequence[Path]) -> ChatSources | None:
    """The named files, else the training conversations of the first chat model; None without any.

    A run may come from a stranger: its file is read where it is no link to elsewhere. Raises
    UserError for a named file that does not exist.
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
        # of a run, its align stage, that stage's model, or a GGUF file: RUN/quantize/FILE
        for run_dir in (path, *path.resolve().parents[:2]):
            file = run_dir / ALIGN_FILE
            if file.is_file() and file.resolve().is_relative_to(run_dir.resolve()):
                source = Source(kind="files", path=str(file), name="align")
                return ChatSources((source,), run_dir / ".search", _language_of(run_dir))
    return None


def _language_of(run_dir: Path) -> str:
    """The language that a run's recipe names; Portuguese where it names none."""
    try:
        language = str(read_run_json(run_dir)["recipe"]["language"])
    except (UserError, KeyError, TypeError):
        return "pt"
    return language if language.replace("-", "").isalnum() else "pt"  # it becomes a folder's name
