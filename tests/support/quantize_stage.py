"""Runs the quantize stage on a small run."""

from __future__ import annotations

from pathlib import Path

from teenytinyllama.energy import EnergyMeter
from teenytinyllama.settings.base import EnergySettings
from teenytinyllama.settings.post_training import QuantizeSettings
from teenytinyllama.stages.interface import StageContext, StageResult
from teenytinyllama.stages.quantize import stage


def quantize_run(run_dir: Path, out_dir: Path, **settings: object) -> StageResult:
    energy = EnergySettings()
    out_dir.mkdir(exist_ok=True)
    return stage.run(
        settings=QuantizeSettings(**{"max_sample_tokens": 400, **settings}),
        context=StageContext("test", "pt", energy, EnergyMeter(energy)),
        out_dir=out_dir,
        corpus_dir=run_dir / "corpus",
        tokenizer_dir=run_dir / "tokenizer",
        pretrain_dir=run_dir / "pretrain",
        align_dir=run_dir / "pretrain",  # as if it were a chat model
    )
