from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.report_run import METRICS, build_run, make_page, section_text, write_stage

from teenytinyllama.stages.report.sections_scores import bits_per_english_byte


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return build_run(tmp_path)


def test_verdict_compares_the_interval_with_chance(run_dir: Path) -> None:
    rows = re.findall(r"<tr>.*?</tr>", make_page(run_dir), re.DOTALL)
    arc = next(row for row in rows if ">arc<" in row)
    questions = next(row for row in rows if ">perguntas<" in row)
    assert "at chance" in arc
    assert "21.7 to 30.3" in arc  # 0.26 +- 1.96 x 0.0219
    assert "above chance" in questions


def test_items_too_short_to_check_are_not_clean(run_dir: Path) -> None:
    score = {"accuracy": 0.5, "num_items": 400, "chance": 0.25, "num_equal_choices": 3}
    tasks = {
        "arc": {**score, "contaminated_fraction": 0.02, "items_too_short_to_check": 120},
        "lambada": {**score, "contaminated_fraction": None, "items_too_short_to_check": 400},
    }
    write_stage(run_dir, "evaluate", metrics={**METRICS["evaluate"], "tasks": tasks})
    text = section_text(make_page(run_dir), "scores")
    for part in ("3 with identical choices", "2.0 % 120 too short", "not checked 400 too short"):
        assert part in text


def test_bits_per_byte_are_also_in_bytes_of_english(run_dir: Path) -> None:
    write_stage(run_dir, "evaluate", metrics={**METRICS["evaluate"], "heldout_bits_per_byte": 2.0})
    text = section_text(make_page(run_dir), "scores")
    assert "bits per English byte 2.1960 times the byte premium, 1.098" in text  # Portuguese
    assert bits_per_english_byte(0.7, "th") == pytest.approx(1.9194)
    assert bits_per_english_byte(0.7, "mwl") is None


def test_heldout_overlap_is_shown(run_dir: Path) -> None:
    overlap = {"heldout_leaks_exact": 1, "heldout_leaks_near": 2}
    write_stage(run_dir, "evaluate", metrics={**METRICS["evaluate"], **overlap})
    assert "held-out overlap 3 1 exact, 2 near copies" in section_text(make_page(run_dir), "scores")


def test_classifier_is_shown_with_its_baselines(run_dir: Path) -> None:
    text = section_text(make_page(run_dir), "classifiers")
    for part in ("95.3 %", "± 0.4 % over 2 seeds", "93.2 to 97.4", "bag of words", "91.0 %",
                 "bertimbau", "97.0 %", "51.2 %"):  # fmt: skip
        assert part in text


def test_score_says_what_it_is_of(run_dir: Path) -> None:
    """Its interval, its kind, its ties, and what lengths alone would score."""
    score = {
        "accuracy": 0.5,
        "metric": "acc",
        "num_items": 400,
        "chance": 0.25,
        "num_ties": 7,
        "normalized": {"metric": "acc_norm", "accuracy": 0.625},
        "length_rule": {"choose": "shortest", "accuracy": 0.75},
    }
    metrics = {**METRICS["evaluate"], "heldout_bits_per_byte_interval95": [1.2, 1.3]}
    tasks = {"pairs": score, "norm": {**score, "metric": "acc_norm", "num_ties": 0}}
    write_stage(run_dir, "evaluate", metrics={**metrics, "tasks": tasks})
    text = section_text(make_page(run_dir), "scores")
    for part in (
        "1.2000 to 1.3000 (95 %)",
        "50.0 % 62.5 % by likelihood per character",
        "50.0 % by likelihood per character",
        "400 7 ties",
        "the shortest choice alone: 75.0 %",
    ):
        assert part in text


def test_quantized_bits_per_byte_are_of_their_sample(run_dir: Path) -> None:
    text = section_text(make_page(run_dir), "quantized")
    assert "bits per byte of the sample" in text
    assert "only their increase compares with other figures" in text
