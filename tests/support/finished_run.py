"""A finished run small enough to publish in a test: made-up stages, real files and hashes."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from teenytinyllama.artifacts.documents import Document, DocumentWriter
from teenytinyllama.artifacts.manifest import (
    STAGE_NAMES,
    Input,
    Manifest,
    fingerprint_of,
    hash_outputs,
    read_manifest,
    write_json,
    write_manifest,
)
from teenytinyllama.energy import EnergyMeter
from teenytinyllama.settings.base import EnergySettings
from teenytinyllama.settings.post_training import ReportSettings
from teenytinyllama.stages.interface import StageContext
from teenytinyllama.stages.report import stage as report

NAME = "pequeno"


def safetensors(seed: int = 0, **metadata: str) -> bytes:
    """A file of one tensor of four numbers."""
    header = {"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}
    words = json.dumps({"__metadata__": {"format": "pt", **metadata}, **header}).encode()
    return struct.pack("<Q", len(words)) + words + struct.pack("<4f", seed, 1, 2, 3)


def gguf(name: str = "general.name", value: str = "x", *, keys: int = 1) -> bytes:
    """A GGUF file with one key and no tensor."""

    def text(words: str) -> bytes:
        return struct.pack("<Q", len(words.encode())) + words.encode()

    head = struct.pack("<4sIQQ", b"GGUF", 3, 0, keys)
    return head + text(name) + struct.pack("<I", 8) + text(value)


def model_files(folder: Path, seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "llama", "max_position_embeddings": 64}')
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "tokenizer.model").write_bytes(b"\x0a\x07pieces")
    (folder / "model.safetensors").write_bytes(safetensors(seed))


def finish(run_dir: Path, stage: str, **fields: Any) -> None:
    """Write the manifest of a stage for the files in its folder."""
    folder = run_dir / stage
    folder.mkdir(parents=True, exist_ok=True)
    values: dict[str, Any] = {
        "stage": stage, "version": "0.1.0", "fingerprint": "0123456789abcdef", "recipe": {},
        "inputs": {}, "outputs": hash_outputs(folder), "counts": {}, "metrics": {},
        "started_at": "2026-11-23T10:00:00+00:00", "duration_s": 1.0,
        "energy_kwh": {"gpu_measured": 0.0, "cpu_modelled": 0.001, "ram_modelled": 0.0},
        "emissions_kg": 0.0001, "versions": {"python": "3.11.9"},
    }  # fmt: skip
    write_manifest(folder, Manifest(**{**values, **fields}))


def write_report(run_dir: Path, **settings: Any) -> None:
    """Run the report stage, and write its manifest with its inputs."""
    chosen, prices = ReportSettings(**settings), EnergySettings()
    stages = {stage: read_manifest(run_dir / stage) for stage in STAGE_NAMES}
    found = {stage: manifest for stage, manifest in stages.items() if manifest is not None}
    (run_dir / "report").mkdir(exist_ok=True)
    report.run(
        settings=chosen,
        context=StageContext(NAME, "pt", prices, EnergyMeter(prices)),
        out_dir=run_dir / "report",
        **{f"{stage}_dir": run_dir / stage for stage in found},
    )
    inputs = {
        stage: Input(path=stage, fingerprint=fingerprint_of(manifest.model_dump(mode="json")))
        for stage, manifest in found.items()
    }
    finish(run_dir, "report", inputs=inputs, recipe=chosen.model_dump(mode="json"))


def build(
    run_dir: Path, *, texts: tuple[str, ...] = ("Era uma vez.",), license_name: str = "Apache-2.0"
) -> Path:
    """Corpus, base model with three checkpoints (two permanent), chat model, GGUF file, report."""
    _write_json(run_dir / "run.json", {"name": NAME, "recipe": {"language": "pt"}})
    for split in ("train", "heldout"):
        with DocumentWriter(run_dir / "corpus", split) as writer:
            for number, text in enumerate(texts):
                writer.write(Document(f"{split}-{number}", text, "livros", license_name))
    counts = {"documents_read": 2, "documents_kept": 2, "licenses": {license_name: 2}}
    finish(run_dir, "corpus", counts=counts, recipe={"sources": [{"license": license_name}]})
    for step in (100, 150, 200):
        folder = run_dir / f"pretrain/step-{step:07d}"
        model_files(folder, step)
        (folder / "optimizer.safetensors").write_bytes(safetensors(step + 1))
        state = {"progress": {"step": step, "tokens": step * 1000, "energy": [0, 0, 0, 0]}}
        _write_json(folder / "state.json", state)
        files = {name: output.model_dump() for name, output in hash_outputs(folder).items()}
        _write_json(folder / "manifest.json", {"files": files})
    model_files(run_dir / "pretrain/final", 200)
    recipe = {"checkpoints": {"permanent_every_steps": 100}}
    counts = {"steps": 200, "tokens": 200_000, "parameters": 4}
    finish(run_dir, "pretrain", recipe=recipe, counts=counts)
    metrics = {"checkpoints": [{"step": 100, "heldout_bits_per_byte": 1.5}]}
    finish(run_dir, "evaluate", metrics=metrics)
    model_files(run_dir / "align/final", 300)
    finish(run_dir, "align", counts={"conversations_train": 7})
    (run_dir / "quantize").mkdir()
    (run_dir / "quantize/model-q8_0.gguf").write_bytes(gguf())
    finish(run_dir, "quantize")
    write_report(run_dir)
    return run_dir


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, value)
