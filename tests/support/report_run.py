"""A run folder with made-up results of every stage, and its report; needs no model and no torch."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from teenytinyllama.artifacts.documents import Document, DocumentWriter
from teenytinyllama.artifacts.manifest import STAGE_NAMES, Manifest, write_manifest
from teenytinyllama.energy import EnergyMeter
from teenytinyllama.settings.base import EnergySettings
from teenytinyllama.settings.post_training import ReportSettings
from teenytinyllama.stages.interface import StageContext
from teenytinyllama.stages.report import stage as report

EVIL = '<script>alert(1)</script><img src="http://evil.example/x">'


def _row(read: int, kept: int, filtered: int) -> dict[str, int]:
    return {
        "documents_read": read,
        "documents_kept": kept,
        "documents_filtered": filtered,
        "documents_duplicate": 0,
        "documents_quarantined": read - kept - filtered,
        "bytes_read": 1000 * read,
        "bytes_kept": 1000 * kept,
        "bytes_filtered": 1000 * filtered,
        "bytes_duplicate": 0,
        "bytes_quarantined": 1000 * (read - kept - filtered),
    }


METRICS: dict[str, dict[str, Any]] = {
    "corpus": {},
    "tokenizer": {
        "all": {
            "num_words": 7400,
            "num_tokens": 9937,
            "tokens_per_word": 1.3428,
            "bytes_per_token": 4.634,
            "byte_fallback_fraction": 0.0012,
        },
        "sources": {"livros": {"num_words": 7400, "num_tokens": 9937, "tokens_per_word": 1.3428}},
    },
    "pack": {},
    "pretrain": {
        "mfu": 0.453,
        "share_of_measured_peak": 0.57,
        "mean_tokens_per_s": 26912.0,
        "training_seconds": 139415.0,
        "uniform_loss": 7.6246,
        "epochs": 1.5,
        "num_skipped_steps": 0,
        "joules_per_token": 0.0149,
        "device": "CPU",
        "tokens": 1_638_400,
    },
    "evaluate": {
        "heldout_bits_per_byte": 1.2345,
        "heldout_perplexity": 11.77,
        "bigram_bits_per_byte": 2.1,
        "xz_bits_per_byte": 2.4,
        "below_bigram_fraction": 0.412,
        "tasks": {
            "perguntas": {
                "accuracy": 0.61,
                "standard_error": 0.0244,
                "chance": 0.25,
                "num_items": 400,
                "interval95": [0.561, 0.657],
            },
            "arc": {"accuracy": 0.26, "standard_error": 0.0219, "chance": 0.25, "num_items": 400},
        },
    },
    "finetune": {
        "tasks": {
            "sentimento": {
                "accuracy": 0.953,
                "accuracy_spread": 0.004,
                "standard_error": 0.0106,
                "macro_f1": 0.951,
                "majority_accuracy": 0.512,
                "bag_of_words_accuracy": 0.91,
                "bertimbau_accuracy": 0.97,
                "num_items": 400,
                "seeds": [{"seed": 0}, {"seed": 1}],
            }
        }
    },
    "align": {"ends_answer_fraction": 0.99},
    "quantize": {
        "original": {"size_bytes": 12_000_000, "sample_bits_per_byte": 1.2345},
        "q8_0": {
            "size_bytes": 3_400_000,
            "sample_bits_per_byte": 1.2351,
            "sample_bits_per_byte_increase": 0.0005,
            "same_best_token": 0.9987,
        },
    },
}
COUNTS: dict[str, dict[str, Any]] = {
    "corpus": {
        **_row(1000, 870, 120),
        "sources": {"livros": _row(600, 560, 35), f"leis {EVIL}": _row(400, 310, 85)},
        "filtered_by_reason": {"too-short": 100, "repeated-lines": 20},
        "duplicate_by_reason": {},
        "quarantined_by_reason": {"not-utf8": 10},
        "licenses": {"Apache-2.0": 560, "CC-BY-4.0": 310},
        "documents_heldout": 20,
    },
    "tokenizer": {"vocab_size": 2048, "bytes_trained_on": 1_000_000},
    "pack": {
        "tokens_train": 1_100_000,
        "tokens_heldout": 22_000,
        "documents_train": 850,
        "documents_heldout": 20,
    },
    "pretrain": {"steps": 400, "tokens": 1_638_400, "parameters": 2_753_664},
    "evaluate": {"bytes_scored": 90_000},
    "finetune": {},
    "align": {"conversations_train": 2850},
    "quantize": {},
}
RECIPES: dict[str, dict[str, Any]] = {
    "corpus": {"sources": [{"kind": "storybook", "license": "Apache-2.0"}]},
    "tokenizer": {"vocab_size": 2048},
    "pretrain": {"num_steps": 400, "model": {"hidden_size": 192, "num_attention_heads": 4}},
    "finetune": {"tasks": [{"name": "sentimento", "kind": "storybook"}]},
    "align": {"sources": [{"kind": "storybook"}]},
}  # fmt: skip


def write_stage(run_dir: Path, name: str, **changes: Any) -> None:
    """A finished stage with made-up results."""
    folder = run_dir / name
    folder.mkdir(parents=True, exist_ok=True)
    fields: dict[str, Any] = {
        "stage": name, "version": "0.1.0", "fingerprint": "0123456789abcdef",
        "recipe": RECIPES.get(name, {}), "inputs": {}, "outputs": {},
        "counts": COUNTS[name], "metrics": METRICS[name],
        "started_at": "2026-11-23T10:00:00+00:00", "duration_s": 61.5,
        "energy_kwh": {"gpu_measured": 0.0, "cpu_modelled": 0.0011, "ram_modelled": 0.0004},
        "emissions_kg": 0.00015, "versions": {"python": "3.11.9", "torch": "2.13.0"},
    }  # fmt: skip
    write_manifest(folder, Manifest(**{**fields, **changes}))


def build_run(folder: Path, run_name: str = "", rate: float = 1e-3) -> Path:
    """A run with every stage finished; `run_name` gives it a `run.json` with that name."""
    for name in STAGE_NAMES:
        write_stage(folder, name)
    if run_name:
        recipe = {"language": "pt", "pretrain": {"num_steps": 400, "rate": rate}}
        (folder / "run.json").write_text(json.dumps({"name": run_name, "recipe": recipe}))
    lines = [
        {"step": s, "tokens": 4096 * s, "loss": 7.6 * 0.99**s + 2, "lr": 1e-3, "grad_norm": 0.5,
         "tokens_per_s": 9000.0, "mfu": 0.4, "energy_kwh": 1e-6 * s,
         **({"heldout_bpb": 3.0 - s / 400} if s % 100 == 0 else {})}
        for s in range(1, 401)
    ]  # fmt: skip
    (folder / "pretrain/metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    samples = [
        {"step": s, "prompt": "Era uma vez", "text": f"Era uma vez no passo {s} {EVIL}"}
        for s in (100, 200, 300, 400)
    ]
    (folder / "pretrain/samples.jsonl").write_text("".join(json.dumps(x) + "\n" for x in samples))
    chat = {
        "prompt": f"Quem é Ana? {EVIL}",
        "answer": "É médica.",
        "expected": "x",
        "correct": True,
    }
    (folder / "align/examples.jsonl").write_text(json.dumps(chat) + "\n")
    with DocumentWriter(folder / "corpus/dropped/too-short", "part") as writer:
        writer.write(Document("1", f"Curto demais {EVIL}", "livros", "MIT"))
    with DocumentWriter(folder / "corpus/dropped/pii-heavy", "part") as writer:
        writer.write(Document("2", "CPF 123.456.789-09", "livros", "MIT"))
    return folder


def make_report(run_dir: Path, license_name: str = "", **prices: Any) -> Path:
    """Run the report stage on a run folder; returns the folder of the report."""
    out_dir = run_dir / "report"
    out_dir.mkdir(exist_ok=True)
    energy = EnergySettings(**prices)
    report.run(
        settings=ReportSettings(license=license_name),
        context=StageContext("quickstart", "pt", energy, EnergyMeter(energy)),
        out_dir=out_dir,
        **{f"{name}_dir": run_dir / name for name in STAGE_NAMES},
    )
    return out_dir


def make_page(run_dir: Path, **prices: Any) -> str:
    """The HTML of a run's report."""
    return (make_report(run_dir, **prices) / "index.html").read_text(encoding="utf-8")


def section_text(html: str, key: str) -> str:
    """The text of one section, without tags."""
    part = re.search(rf'<section id="{key}".*?</section>', html, re.DOTALL)
    assert part, f"no section {key}"
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", part[0]))
