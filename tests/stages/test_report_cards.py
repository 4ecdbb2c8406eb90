"""Cards and exports: numbers of the manifests, licences that cannot be loosened."""

from __future__ import annotations

import csv
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from support.report_run import COUNTS, EVIL, FIGURES, RECIPES, STAGE_NAMES, build_run, write_stage

from teenytinyllama.energy import EnergyMeter
from teenytinyllama.errors import UserError
from teenytinyllama.licenses import model_license, most_restrictive
from teenytinyllama.settings.base import EnergySettings
from teenytinyllama.settings.post_training import ReportSettings
from teenytinyllama.stages.interface import StageContext
from teenytinyllama.stages.report import stage as report


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return build_run(tmp_path / "run")


def make(run_dir: Path, license_name: str = "") -> Path:
    out_dir = run_dir / "report"
    out_dir.mkdir(exist_ok=True)
    prices = EnergySettings()
    context = StageContext("quickstart", "pt", prices, EnergyMeter(prices))
    folders = {f"{name}_dir": run_dir / name for name in STAGE_NAMES}
    settings = ReportSettings(license=license_name)
    report.run(settings=settings, context=context, out_dir=out_dir, **folders)
    return out_dir


def metadata(card: str) -> dict[str, Any]:
    """The block between the two lines of dashes: `key: JSON` per line."""
    block = card.split("---\n")[1]
    return {k: json.loads(v) for k, v in (row.split(": ", 1) for row in block.splitlines())}


def test_the_model_card_says_what_the_manifests_say(run_dir: Path) -> None:
    card = (make(run_dir) / "model_card.md").read_text()
    for words in ("2,753,664 parameters", "1,638,400 tokens", "1.2345", "61.0 %", "too-short"):
        assert words in card
    meta = metadata(card)
    assert meta["language"] == ["pt"]
    assert meta["library_name"] == "transformers"
    assert meta["co2_eq_emissions"]["emissions"] == pytest.approx(1.2)  # 8 stages of 0.15 g
    results = {
        r["dataset"]["name"]: r["metrics"][0]["value"] for r in meta["model-index"][0]["results"]
    }
    assert results == {"held-out text": 1.2345, "perguntas": 0.61, "arc": 0.26}
    assert "arc (26.0 %, chance 25.0 %)" in card  # among what it gives no evidence for


def test_a_changed_manifest_changes_the_card(run_dir: Path) -> None:
    make(run_dir)
    write_stage(run_dir, "pretrain", counts={**COUNTS["pretrain"], "parameters": 123_456_789})
    assert "123,456,789 parameters" in (make(run_dir) / "model_card.md").read_text()


def test_no_model_no_model_card_and_no_stale_one(run_dir: Path) -> None:
    assert (make(run_dir) / "model_card.md").is_file()
    (run_dir / "pretrain/manifest.json").unlink()
    assert not (make(run_dir) / "model_card.md").exists()
    assert (run_dir / "report/dataset_card.md").is_file()


def test_what_did_not_run_has_no_number_on_the_card(run_dir: Path) -> None:
    (run_dir / "evaluate/manifest.json").unlink()
    card = (make(run_dir) / "model_card.md").read_text()
    assert "model-index" not in metadata(card)
    assert re.search(r"## Scores\n\nNot run", card)
    assert "It has not been evaluated." in card


def test_words_from_outside_do_nothing_in_a_card(run_dir: Path) -> None:
    out_dir = make(run_dir)
    for name in ("model_card.md", "dataset_card.md"):
        card = (out_dir / name).read_text()
        assert EVIL not in card
        assert "<script" not in card
        assert "&lt;script&gt;" in card


def test_the_dataset_card_counts_documents(run_dir: Path) -> None:
    card = (make(run_dir) / "dataset_card.md").read_text()
    assert "870 documents" in card
    assert metadata(card)["size_categories"] == ["n<1K"]
    assert metadata(card)["license"] == "cc-by-4.0"  # of Apache-2.0 and CC-BY-4.0


@pytest.mark.parametrize(
    ("licenses", "hardest"),
    [
        (["MIT", "CC0-1.0"], "MIT"),
        (["Apache-2.0", "CC-BY-SA-4.0", "CC-BY-4.0"], "CC-BY-SA-4.0"),
        (["CC-BY-SA-4.0", "CC-BY-NC-4.0"], "CC-BY-NC-4.0"),
        (["CC-BY-NC-4.0", "CC-BY-NC-ND-4.0"], "CC-BY-NC-ND-4.0"),
        (["CC-BY-NC-4.0", ""], "unknown"),
        (["CC0-1.0", "research-only"], "research-only"),
        ([], "unknown"),
    ],
)
def test_the_most_restrictive_licence(licenses: list[str], hardest: str) -> None:
    assert most_restrictive(licenses).license == hardest


@pytest.mark.parametrize(
    ("wanted", "licenses", "given"),
    [
        ("", ["MIT", "CC-BY-4.0"], "CC-BY-4.0"),
        ("Apache-2.0", ["MIT", "CC-BY-4.0", "CC0-1.0"], "Apache-2.0"),
        ("CC-BY-SA-4.0", ["CC-BY-SA-3.0", "MIT"], "CC-BY-SA-4.0"),
        ("CC-BY-NC-4.0", ["CC-BY-NC-4.0"], "CC-BY-NC-4.0"),
        ("", ["CC-BY-SA-4.0", "GPL-3.0"], "other"),
        ("", ["CC-BY-SA-4.0", "CC-BY-NC-4.0"], "other"),
    ],
)
def test_licences_that_fit(wanted: str, licenses: list[str], given: str) -> None:
    assert model_license(wanted, licenses) == given


@pytest.mark.parametrize(
    ("wanted", "source"),
    [
        ("Apache-2.0", "CC-BY-SA-4.0"),
        ("Apache-2.0", "CC-BY-NC-4.0"),
        ("MIT", ""),
        ("CC-BY-NC-4.0", "CC-BY-SA-4.0"),  # share alike allows no further condition
        ("GPL-3.0", "CC-BY-SA-4.0"),
        ("CC-BY-4.0", "research-only"),
    ],
)
def test_licences_that_clash(wanted: str, source: str) -> None:
    with pytest.raises(UserError, match="license-clash"):
        model_license(wanted, ["MIT", source])


def test_the_stage_refuses_a_licence_that_a_source_forbids(run_dir: Path) -> None:
    counts = {**COUNTS["corpus"], "licenses": {"CC-BY-NC-4.0": 870}}
    write_stage(run_dir, "corpus", counts=counts)
    with pytest.raises(UserError, match="license-clash"):
        make(run_dir, "Apache-2.0")


def test_conversations_count_for_the_licence_of_the_model(run_dir: Path) -> None:
    sources = [{"kind": "files", "path": "c.jsonl", "license": "CC-BY-NC-4.0"}]
    write_stage(run_dir, "align", recipe={**RECIPES["align"], "sources": sources})
    out_dir = make(run_dir)
    assert metadata((out_dir / "model_card.md").read_text())["license"] == "cc-by-nc-4.0"
    assert metadata((out_dir / "dataset_card.md").read_text())["license"] == "cc-by-4.0"


def test_tables_and_plots_are_those_of_the_page(run_dir: Path) -> None:
    out_dir = make(run_dir)
    with (out_dir / "tables/corpus_funnel.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[-1]["source"] == "all"
    assert rows[-1]["kept"] == "870"
    for name in ("loss", "over_the_paper", "heldout_bpb"):
        root = ElementTree.parse(out_dir / "plots" / f"{name}.svg").getroot()
        assert root.tag.endswith("svg")
    assert FIGURES["evaluate"]["tasks"].keys() == {"perguntas", "arc"}


def test_a_spreadsheet_runs_nothing(run_dir: Path) -> None:
    sources = {"=cmd|' /C calc'!A0": COUNTS["corpus"]["sources"]["livros"]}
    write_stage(run_dir, "corpus", counts={**COUNTS["corpus"], "sources": sources})
    text = (make(run_dir) / "tables/corpus_funnel.csv").read_text()
    assert "'=cmd" in text


def test_the_chat_card_says_what_was_asked_and_goes_with_the_stage(run_dir: Path) -> None:
    card = (make(run_dir) / "chat_card.md").read_text()
    assert "fine-tuned on 2,850 conversations" in card
    assert "answers that end: 99.0 %" in card
    assert metadata(card)["co2_eq_emissions"]["training_type"] == "fine-tuning"
    (run_dir / "align/manifest.json").unlink()
    assert not (make(run_dir) / "chat_card.md").exists()


def test_the_hub_library_reads_the_cards(run_dir: Path) -> None:
    from huggingface_hub import DatasetCard, ModelCard

    out_dir = make(run_dir)
    model = ModelCard((out_dir / "model_card.md").read_text()).data
    # The conversations of this run name no licence, and the card says so.
    assert (model.license, model.license_name) == ("other", "unknown")
    found = {result.dataset_name: result.metric_value for result in model.eval_results or ()}
    assert found["arc"] == 0.26
    data = DatasetCard((out_dir / "dataset_card.md").read_text()).data
    assert data.size_categories == ["n<1K"]
