"""A corpus stage to throw files at, and what it left."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zstandard

from teenytinyllama.energy import EnergyMeter
from teenytinyllama.settings.base import EnergySettings
from teenytinyllama.settings.data_preparation import CorpusSettings
from teenytinyllama.stages.corpus import stage as corpus
from teenytinyllama.stages.interface import StageContext


@dataclass
class Left:
    """What the stage left: its counts, its documents by split and reason, its quarantine."""

    folder: Path
    counts: dict[str, Any]
    metrics: dict[str, Any]

    def texts(self, split: str = "*") -> list[str]:
        return [row["text"] for row in self.rows(f"{split}-*.jsonl.zst")]

    def rows(self, pattern: str) -> list[dict[str, Any]]:
        rows = []
        for path in sorted(self.folder.glob(pattern)):
            with path.open("rb") as raw:
                stream = zstandard.ZstdDecompressor().stream_reader(raw)
                rows += [json.loads(line) for line in io.TextIOWrapper(stream, "utf-8")]
        return rows

    def dropped(self) -> dict[str, list[str]]:
        folders = sorted(p for p in (self.folder / "dropped").glob("*"))
        return {
            f.name: [r["text"] for r in self.rows(f"dropped/{f.name}/*.jsonl.zst")] for f in folders
        }

    def quarantine(self) -> list[dict[str, Any]]:
        lines = (self.folder / "quarantine.jsonl").read_text("ascii").splitlines()
        return [json.loads(line) for line in lines]


Stage = Callable[..., Left]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """`stage(path, license="...", **settings)`: run the corpus stage on files, plainly set."""

    def run(
        *sources: Any,
        license: str = "CC0-1.0",
        out: str = "out",
        source: Any = None,
        **settings: Any,
    ) -> Left:
        entries = [
            s if isinstance(s, dict) else {"kind": "files", "path": str(s), "license": license}
            for s in sources
        ]
        for entry in entries:
            entry.update(source or {})
        plain = {"filters": {"families": []}, "min_document_bytes": 0, **settings}
        made = CorpusSettings.model_validate_json(json.dumps({"sources": entries, **plain}))
        out_dir = tmp_path / out
        out_dir.mkdir(exist_ok=True)
        energy = EnergySettings()
        context = StageContext("test", "pt", energy, EnergyMeter(energy))
        outcome = corpus.run(settings=made, context=context, out_dir=out_dir)
        return Left(out_dir, outcome.counts, outcome.metrics)

    return run


def json_lines(*texts: str, **fields: Any) -> bytes:
    """One JSON object a line."""
    rows = [json.dumps({"text": t, **fields}, ensure_ascii=False) for t in texts]
    return ("\n".join(rows) + "\n").encode("utf-8")


GOOD = (
    "A raposa mora na floresta e gosta de contar histórias.",
    "O pão de açúcar é um morro que fica no Rio de Janeiro.",
    "Amanhã não haverá aula, porque a chuva alagou a estrada.",
    "O coração da cidade bate mais forte durante o carnaval.",
)
