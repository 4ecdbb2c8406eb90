from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.report_run import COUNTS, EVIL, RECIPES, build_run, make_report, write_stage


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return build_run(tmp_path / "run")


def card_of(run_dir: Path, kind: str) -> str:
    return (make_report(run_dir) / f"{kind}_card.md").read_text()


def metadata(card: str) -> dict[str, Any]:
    """The block between the two lines of dashes: `key: JSON` per line."""
    block = card.split("---\n")[1]
    return {k: json.loads(v) for k, v in (row.split(": ", 1) for row in block.splitlines())}


def test_model_card_shows_the_manifests(run_dir: Path) -> None:
    card = card_of(run_dir, "model")
    for text in ("2,753,664 parameters", "1,638,400 tokens", "1.2345", "61.0 %", "too-short"):
        assert text in card
    assert "no evidence of skill: arc (26.0 %, chance 25.0 %)" in card
    meta = metadata(card)
    assert meta["language"] == ["pt"]
    assert meta["library_name"] == "transformers"
    assert meta["co2_eq_emissions"]["emissions"] == pytest.approx(1.2)  # 8 stages of 0.15 g
    results = {
        r["dataset"]["name"]: r["metrics"][0]["value"] for r in meta["model-index"][0]["results"]
    }
    assert results == {"held-out text": 1.2345, "perguntas": 0.61, "arc": 0.26}


def test_changed_manifest_changes_the_card(run_dir: Path) -> None:
    make_report(run_dir)
    write_stage(run_dir, "pretrain", counts={**COUNTS["pretrain"], "parameters": 123_456_789})
    assert "123,456,789 parameters" in card_of(run_dir, "model")


def test_unevaluated_model_has_no_scores_on_its_card(run_dir: Path) -> None:
    (run_dir / "evaluate/manifest.json").unlink()
    card = card_of(run_dir, "model")
    assert "model-index" not in metadata(card)
    assert re.search(r"## Scores\n\nNot run", card)
    assert "It has not been evaluated." in card


def test_external_text_is_escaped(run_dir: Path) -> None:
    for kind in ("model", "dataset"):
        card = card_of(run_dir, kind)
        assert EVIL not in card
        assert "<script" not in card
        assert "&lt;script&gt;" in card


def test_dataset_card_counts_documents(run_dir: Path) -> None:
    card = card_of(run_dir, "dataset")
    assert "870 documents" in card
    assert metadata(card)["size_categories"] == ["n<1K"]
    assert metadata(card)["license"] == "cc-by-4.0"  # of Apache-2.0 and CC-BY-4.0


def test_conversation_license_limits_only_the_model(run_dir: Path) -> None:
    sources = [{"kind": "files", "path": "c.jsonl", "license": "CC-BY-NC-4.0"}]
    write_stage(run_dir, "align", recipe={**RECIPES["align"], "sources": sources})
    assert metadata(card_of(run_dir, "model"))["license"] == "cc-by-nc-4.0"
    assert metadata(card_of(run_dir, "dataset"))["license"] == "cc-by-4.0"


def test_chat_card_shows_the_heldout_questions(run_dir: Path) -> None:
    card = card_of(run_dir, "chat")
    assert "fine-tuned on 2,850 conversations" in card
    assert "finished answers: 99.0 %" in card
    assert metadata(card)["co2_eq_emissions"]["training_type"] == "fine-tuning"


def test_hub_library_reads_the_cards(run_dir: Path) -> None:
    from huggingface_hub import DatasetCard, ModelCard

    model = ModelCard(card_of(run_dir, "model")).data
    # The conversations of this run have no licence, and the card says so.
    assert (model.license, model.license_name) == ("other", "unknown")
    found = {result.dataset_name: result.metric_value for result in model.eval_results or ()}
    assert found["arc"] == 0.26
    assert DatasetCard(card_of(run_dir, "dataset")).data.size_categories == ["n<1K"]
