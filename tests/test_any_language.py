"""From files to chat in any language by the same commands: what `ttl new` writes is finished.

Bengali has a folder and another script; Wolof has no folder, and no identifier knows it.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from teenytinyllama.synthetic import dataset as synthetic

pytestmark = pytest.mark.slow

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
# The recipe runs as it is; a test has less time.
SHORTER = (
    "pretrain.num_steps=40",
    "pretrain.tokens_per_step=1024",
    "pretrain.sequence_length=256",
    "pretrain.evaluate_every_steps=20",
    "pretrain.sample_every_steps=20",
    "pretrain.schedule.warmup_steps=2",
    "align.num_epochs=1",
    "align.num_questions=4",
    "quantize.max_bits_per_byte_increase=1.0",
)


def ttl(folder: Path, *words: str, piped: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-m", "teenytinyllama.cli", *words],
        input=piped, capture_output=True, text=True, env=ENVIRONMENT, cwd=folder, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def run_all(folder: Path, told_in: str, *new: str) -> dict[str, dict]:
    ttl(
        folder, "storybook", "--language", told_in, "--out", ".", "--documents", "4000",
        "--conversations", "200",
    )  # fmt: skip
    asked = ["--gpu", "cpu", "--hours", "1", "--text", "text", "--chat", "chat"]
    ttl(folder, "new", *asked, "--name", "mine", *new)
    changes = [part for change in SHORTER for part in ("--set", change)]
    ttl(folder, "run", "mine.toml", *changes)
    stages = ("corpus", "tokenizer", "pretrain", "evaluate", "align", "report")
    return {
        stage: json.loads((folder / "runs" / "mine" / stage / "manifest.json").read_text())
        for stage in stages
    }


def test_bengali_from_files_to_chat(tmp_path: Path) -> None:
    stages = run_all(tmp_path, "bn", "--language", "bn")
    assert stages["corpus"]["counts"]["documents_kept"] >= 0.93 * 4000
    counts = stages["tokenizer"]["counts"]
    assert counts["letters_with_token"] == counts["letters_required"] > 60
    assert stages["tokenizer"]["metrics"]["all"]["byte_fallback_fraction"] == 0
    scores = stages["evaluate"]["metrics"]
    # Guessing evenly among 1,024 tokens costs 10 bits a token, of some 10.7 bytes.
    assert scores["heldout_bits_per_byte"] < 0.7
    assert scores["tasks"]["cloze"]["num_items"] >= 100  # few words end a sentence of the storybook
    assert scores["tasks"]["cloze"]["chance"] == 0.25
    said = ttl(tmp_path, "chat", "runs/mine", piped="রিনা কোথায় থাকে?\n")
    assert re.search("[\u0980-\u09ff]", said)
    assert not re.search("[\u00c0-\u024f]", said)


def test_an_unknown_language_from_files_to_chat(tmp_path: Path) -> None:
    """Galician text called Wolof: a language that ttl has no data of."""
    made = synthetic.documents(num_documents=200, language="gl", seed=1)
    (tmp_path / "sample.txt").write_text("\n\n".join(one.text for one in made), encoding="utf-8")
    stages = run_all(tmp_path, "gl", "--language", "wo", "--clean-sample", "sample.txt")
    assert stages["corpus"]["counts"]["documents_kept"] >= 0.93 * 4000
    counts = stages["tokenizer"]["counts"]
    assert counts["letters_with_token"] == counts["letters_required"] > 40
    assert stages["evaluate"]["metrics"]["tasks"]["cloze"]["num_items"] >= 100
