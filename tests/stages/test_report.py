"""The report: every number from a file of the run, what is missing is called missing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from support.report_run import COUNTS, EVIL, FIGURES, STAGE_NAMES, build_run, write_stage

from teenytinyllama.energy import EnergyMeter
from teenytinyllama.settings.base import EnergySettings
from teenytinyllama.settings.post_training import ReportSettings
from teenytinyllama.settings.recipe import load_recipe
from teenytinyllama.stages.interface import StageContext
from teenytinyllama.stages.report import stage as report


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return build_run(tmp_path / "run")


def make(run_dir: Path, **energy: Any) -> str:
    """The page of a run folder, as text."""
    out_dir = run_dir / "report"
    out_dir.mkdir(exist_ok=True)
    prices = EnergySettings(**energy)
    context = StageContext("quickstart", "pt", prices, EnergyMeter(prices))
    folders = {f"{name}_dir": run_dir / name for name in STAGE_NAMES}
    report.run(settings=ReportSettings(), context=context, out_dir=out_dir, **folders)
    return (out_dir / "index.html").read_text(encoding="utf-8")


def section(html: str, key: str) -> str:
    """The words of one section, tags taken out."""
    part = re.search(rf'<section id="{key}".*?</section>', html, re.DOTALL)
    assert part, f"no section {key}"
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", part[0]))


SHOWN = [
    ("corpus", "corpus", "documents_kept", 870, "870", "871"),
    ("corpus", "corpus", "documents_heldout", 20, "20", "31"),
    ("tokenizer", "tokenizer", "vocab_size", 2048, "2,048", "4,096"),
    ("tokens", "pack", "tokens_train", 1_100_000, "1,100,000", "1,234,567"),
    ("training", "pretrain", "parameters", 2_753_664, "2,753,664", "9,999,999"),
]


@pytest.mark.parametrize(("key", "stage", "name", "value", "before", "after"), SHOWN)
def test_a_changed_count_changes_the_page(
    run_dir: Path, key: str, stage: str, name: str, value: int, before: str, after: str
) -> None:
    assert before in section(make(run_dir), key).split()
    changed = {**COUNTS[stage], name: int(after.replace(",", ""))}
    write_stage(run_dir, stage, counts=changed)
    assert after in section(make(run_dir), key).split()


def test_a_changed_score_changes_the_page(run_dir: Path) -> None:
    assert "1.2345" in section(make(run_dir), "scores")
    write_stage(run_dir, "evaluate", metrics={**FIGURES["evaluate"], "heldout_bits_per_byte": 1.99})
    words = section(make(run_dir), "scores")
    assert "1.9900" in words
    assert "1.2345" not in words


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
def test_a_missing_manifest_is_not_run_and_leaves_no_number(
    run_dir: Path, stage: str, key: str
) -> None:
    make(run_dir)
    (run_dir / stage / "manifest.json").unlink()
    words = section(make(run_dir), key)
    assert f"Not run: {stage}/manifest.json" in words
    said = words.partition("Not run:")[2].partition("in this run.")[2]
    assert not re.search(r"\d", said)


def test_an_empty_run_has_a_page_without_numbers(tmp_path: Path) -> None:
    html = make(tmp_path)
    for key in ("corpus", "training", "scores", "chat", "quantized", "reproduce"):
        assert "Not run" in section(html, key)
    facts = re.search(r"<dl.*?</dl>", html, re.DOTALL)
    assert facts
    assert facts[0].count("not run") == 5


def test_at_chance_is_said(run_dir: Path) -> None:
    rows = re.findall(r"<tr>.*?</tr>", make(run_dir), re.DOTALL)
    arc = next(row for row in rows if ">arc<" in row)
    questions = next(row for row in rows if ">perguntas<" in row)
    assert "at chance" in arc
    assert "21.7 to 30.3" in arc  # 0.26 +- 1.96 x 0.0219
    assert "above chance" in questions


def test_items_too_short_to_check_are_no_clean_items(run_dir: Path) -> None:
    metrics = FIGURES["evaluate"]
    told = {"accuracy": 0.5, "num_items": 400, "chance": 0.25, "num_equal_choices": 3}
    tasks = {
        "arc": {**told, "contaminated_fraction": 0.02, "items_too_short_to_check": 120},
        "lambada": {**told, "contaminated_fraction": None, "items_too_short_to_check": 400},
    }
    write_stage(run_dir, "evaluate", metrics={**metrics, "tasks": tasks})
    words = section(make(run_dir), "scores")
    for part in ("3 with equal choices", "2.0 % 120 too short", "not checked 400 too short"):
        assert part in words


def test_measured_and_modelled_energy_stand_apart(run_dir: Path) -> None:
    write_stage(
        run_dir,
        "pretrain",
        energy_kwh={"gpu_measured": 12.66, "cpu_modelled": 1.65, "ram_modelled": 1.21},
        duration_s=3600.0,
    )
    words = section(make(run_dir, usd_per_gpu_hour=1.29), "energy")
    for part in ("12.66 kWh", "1.65 kWh", "1.21 kWh", "GPU, measured", "CPU, modelled", "$1.29"):
        assert part in words


def test_a_classifier_stands_beside_what_needs_no_language_model(run_dir: Path) -> None:
    words = section(make(run_dir), "classifiers")
    for part in ("95.3 %", "± 0.4 % over 2 seeds", "93.2 to 97.4", "bag of words", "91.0 %",
                 "bertimbau", "97.0 %", "51.2 %"):  # fmt: skip
        assert part in words


def test_other_models_and_checkpoints(run_dir: Path) -> None:
    metrics = FIGURES["evaluate"]
    line = {
        "heldout_bits_per_byte": 1.9,
        "heldout_perplexity": 6.69,
        "tasks": {"arc": {"accuracy": 0.31, "num_items": 100}},
    }
    more = {
        "models": {"outro": line},
        "checkpoints": [
            {"step": 100 * n, "tokens": 1000 * n, "energy": [0.0, 1.0, 0.5, 9.0], **line}
            for n in (1, 2)
        ],
    }
    write_stage(run_dir, "evaluate", metrics={**metrics, **more})
    words = section(make(run_dir), "scores")
    assert "outro 1.9000 – 22.8 to 40.6" in words  # Wilson's interval of 31 in 100
    assert "200 2 k 1.50 kWh 9.00 kg 6.69 1.9000 not recorded 31.0 %" in words
    assert "paper, 460m, ARC-Challenge" in words


class _Watcher(HTMLParser):
    """Collects what a browser would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.scripts = 0
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        for name, value in attrs:
            if name.startswith("on"):
                self.handlers.append(name)
            if name in ("src", "srcset", "data", "poster", "action") or (
                name == "href" and not (value or "").startswith("#")
            ):
                self.fetched.append(f"{tag} {name}={value}")


def test_nothing_is_fetched_and_no_foreign_word_is_run(run_dir: Path) -> None:
    html = make(run_dir)
    watcher = _Watcher()
    watcher.feed(html)
    assert watcher.fetched == []
    assert watcher.handlers == []
    assert watcher.scripts == 1
    assert "url(" not in html
    assert "@import" not in html
    assert EVIL not in html
    assert html.count("&lt;script&gt;alert(1)") >= 6  # source, samples, chat, dropped text


def test_texts_dropped_for_personal_data_are_not_shown(run_dir: Path) -> None:
    html = make(run_dir)
    assert "pii-heavy" in html
    assert "123.456.789-09" not in html


def test_the_recipe_beside_the_page_loads_and_is_complete(run_dir: Path) -> None:
    make(run_dir)
    recipe = load_recipe(run_dir / "report" / "recipe.toml")
    assert recipe.name == "quickstart"
    assert recipe.pretrain is not None
    assert recipe.pretrain.num_steps == 400
    assert recipe.align is not None
    assert recipe.report is not None


def test_equal_runs_give_equal_bytes(run_dir: Path) -> None:
    assert make(run_dir) == make(run_dir)


def test_a_long_run_makes_a_small_page_in_three_seconds(run_dir: Path) -> None:
    with (run_dir / "pretrain/metrics.jsonl").open("w") as file:
        for s in range(1, 45_801):
            line = {"step": s * 10, "tokens": 81920 * s, "loss": 3.0 + 3 / s, "lr": 6e-4,
                    "grad_norm": 0.4, "tokens_per_s": 26912.0, "energy_kwh": s / 3000}  # fmt: skip
            file.write(json.dumps(line) + "\n")
    started = time.process_time()  # of this process: the tests' machine is shared
    html = make(run_dir)
    assert time.process_time() - started < 3
    assert len(html.encode()) < 3_000_000


def test_the_stage_needs_no_torch() -> None:
    code = (
        "import sys, teenytinyllama.stages.report.stage as r; "
        "print(sorted({'torch', 'transformers', 'matplotlib', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
