"""The report stage: which files it writes, and that missing stages are shown as not run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.report_run import COUNTS, build_run, make_page, make_report, section_text, write_stage

from teenytinyllama.errors import UserError
from teenytinyllama.settings.recipe import load_recipe


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return build_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("stage", "key"),
    [
        ("corpus", "corpus"),
        ("tokenizer", "tokenizer"),
        ("pack", "tokens"),
        ("pretrain", "training"),
        ("pretrain", "samples"),
        ("evaluate", "scores"),
        ("finetune", "classifiers"),
        ("align", "chat"),
        ("quantize", "quantized"),
    ],
)
def test_section_without_manifest_shows_no_number(run_dir: Path, stage: str, key: str) -> None:
    make_report(run_dir)
    (run_dir / stage / "manifest.json").unlink()
    text = section_text(make_page(run_dir), key)
    note = f"Not run: no {stage}/manifest.json in this run."
    assert note in text
    assert not re.search(r"\d", text.partition(note)[2])


def test_empty_run_has_a_page_without_numbers(tmp_path: Path) -> None:
    html = make_page(tmp_path)
    for key in ("corpus", "training", "scores", "chat", "quantized", "reproduce"):
        assert "Not run" in section_text(html, key)
    headline = re.search(r"<dl.*?</dl>", html, re.DOTALL)
    assert headline
    assert headline[0].count("not run") == 5


def test_equal_runs_give_equal_pages(run_dir: Path) -> None:
    assert make_page(run_dir) == make_page(run_dir)


def test_recipe_beside_the_page_loads(run_dir: Path) -> None:
    recipe = load_recipe(make_report(run_dir) / "recipe.toml")
    assert recipe.name == "quickstart"
    assert recipe.pretrain is not None
    assert recipe.pretrain.num_steps == 400
    assert recipe.align is not None
    assert recipe.report is not None


def test_cards_of_missing_stages_are_removed(run_dir: Path) -> None:
    out_dir = make_report(run_dir)
    cards = {"align": "chat_card.md", "pretrain": "model_card.md", "corpus": "dataset_card.md"}
    for stage, card in cards.items():
        assert (out_dir / card).is_file()
        (run_dir / stage / "manifest.json").unlink()
        make_report(run_dir)
        assert not (out_dir / card).exists()


def test_license_that_a_source_forbids_is_an_error(run_dir: Path) -> None:
    write_stage(run_dir, "corpus", counts={**COUNTS["corpus"], "licenses": {"CC-BY-NC-4.0": 870}})
    with pytest.raises(UserError, match="license-clash"):
        make_report(run_dir, "Apache-2.0")


def test_long_run_gives_a_small_page_in_three_seconds(run_dir: Path) -> None:
    with (run_dir / "pretrain/metrics.jsonl").open("w") as file:
        for s in range(1, 45_801):
            line = {"step": s * 10, "tokens": 81920 * s, "loss": 3.0 + 3 / s, "lr": 6e-4,
                    "grad_norm": 0.4, "tokens_per_s": 26912.0, "energy_kwh": s / 3000}  # fmt: skip
            file.write(json.dumps(line) + "\n")
    started = time.process_time()  # CPU time of this process: the machine may be shared
    html = make_page(run_dir)
    assert time.process_time() - started < 3
    assert len(html.encode()) < 3_000_000


def test_stage_imports_no_heavy_library() -> None:
    code = (
        "import sys, teenytinyllama.stages.report.stage as r; "
        "print(sorted({'torch', 'transformers', 'matplotlib', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
