"""The scan before an upload: secrets are named and never shown."""

from __future__ import annotations

from pathlib import Path

from support.finished_run import build
from support.publishing import prepare, rejection

SECRET = "hf_" + "S" * 34


def test_a_secret_in_a_document_is_named_but_not_shown(tmp_path: Path) -> None:
    run_dir = build(tmp_path / "run", texts=("Bom dia.", f"A chave é {SECRET} e pronto."))
    message = rejection(run_dir, "publish-unsafe")
    assert "heldout-00000.jsonl.zst:2: hugging-face-token" in message
    assert SECRET not in message
    fingerprint = message.rpartition("--accept ")[2]
    assert prepare(run_dir, accepted=(fingerprint,))
