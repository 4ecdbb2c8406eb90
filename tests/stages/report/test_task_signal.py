"""Curves worked out by hand; the runs are folders with made-up scores."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from support.report_run import write_stage

from teenytinyllama.errors import UserError
from teenytinyllama.stages.report.renderers import render
from teenytinyllama.stages.report.task_signal import (
    measure,
    normalized_mean,
    signal_page,
    text_of,
)

RISING = ([0.30, 0.40, 0.52, 0.60], [0.31, 0.41, 0.50, 0.62], [0.30, 0.42, 0.51, 0.61])
NOISE = ([0.26, 0.24, 0.25, 0.27], [0.25, 0.27, 0.24, 0.25], [0.24, 0.25, 0.26, 0.24])


def scored(accuracy: float, **changes: Any) -> dict[str, Any]:
    task = {"accuracy": accuracy, "chance": 0.25, "at_chance": accuracy < 0.3}
    return {**task, "metric": "acc", "num_items": 400, **changes}


def make_run(folder: Path, seed: int, text: str = "t", **curves: list[float]) -> Path:
    """A run whose checkpoints at steps 100, 200, ... have these accuracies."""
    length = max((len(curve) for curve in curves.values()), default=0)
    checkpoints = [
        {
            "step": 100 * (number + 1),
            "tasks": {t: scored(c[number]) for t, c in curves.items() if number < len(c)},
        }
        for number in range(length)
    ]
    final = {task: scored(curve[-1]) for task, curve in curves.items()}
    metrics = {"tasks": final, "checkpoints": checkpoints, "heldout_text": text}
    write_stage(folder, "evaluate", metrics=metrics)
    recipe = {"language": "pt", "pretrain": {"seed": seed}}
    (folder / "run.json").write_text(json.dumps({"name": folder.name, "recipe": recipe}))
    return folder


def three(root: Path) -> list[Path]:
    return [
        make_run(root / f"s{seed}", seed, learnt=RISING[seed], noise=NOISE[seed])
        for seed in range(3)
    ]


def test_learnt_task_is_told_from_noise(tmp_path: Path) -> None:
    runs = three(tmp_path)
    learnt, noise = measure(runs)
    assert (learnt.carries, noise.carries) == (True, False)
    assert learnt.rise == learnt.order == pytest.approx(1.0)
    # Late checkpoints 0.52 0.50 0.51 and 0.60 0.62 0.61: both have a deviation of 0.01.
    assert learnt.signal_to_noise == pytest.approx((0.56 - 0.25) / 0.01)
    assert noise.failed[0] == "at chance"
    # The mean is over the learnt task alone: (0.61 - 0.25) / 0.75.
    assert normalized_mean([learnt, noise]) == pytest.approx(0.48)
    assert "48.0, over 1 of 2 tasks" in text_of([learnt, noise])
    page = render(signal_page([learnt, noise], runs))
    assert "leave out: at chance" in page
    assert page.count('<svg class="chart"') == 4  # two widths a task


def test_one_run_says_nothing_of_noise(tmp_path: Path) -> None:
    (only,) = measure([make_run(tmp_path / "a", 0, learnt=RISING[0])])
    assert (only.signal_to_noise, only.order, only.carries) == (None, None, None)
    assert "train two more seeds" in only.recommendation
    assert normalized_mean([only]) is None
    assert "unknown" in text_of([only])


def test_falling_task_and_reversed_order_fail(tmp_path: Path) -> None:
    curves = ([0.60, 0.55, 0.50, 0.45], [0.45, 0.50, 0.55, 0.60])
    runs = [make_run(tmp_path / str(n), n, mixed=curve) for n, curve in enumerate(curves)]
    (mixed,) = measure(runs)
    assert (mixed.rise, mixed.order) == (pytest.approx(0.0), pytest.approx(-1.0))
    assert mixed.failed[0] == "does not rise"
    assert mixed.failed[-1].startswith("order")


def test_same_scores_in_all_seeds_are_no_noise(tmp_path: Path) -> None:
    (task,) = measure([make_run(tmp_path / str(n), n, easy=RISING[0]) for n in range(2)])
    assert task.signal_to_noise == math.inf
    assert task.recommendation == "use"


def test_scores_during_training_stand_in_for_checkpoints(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", 0, learnt=[0.6])
    lines = [{"step": n, "loss": 1.0, "learnt_accuracy": 0.3 + n / 100} for n in range(5)]
    (run / "pretrain").mkdir()
    (run / "pretrain/metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    assert measure([run])[0].rise == pytest.approx(1.0)


def test_three_checkpoints_are_too_few(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / str(n), n, learnt=RISING[n][1:]) for n in range(2)]
    (task,) = measure(runs)
    assert (task.rise, task.signal_to_noise, task.carries) == (None, None, None)
    assert "fewer than 4 checkpoints" in task.recommendation


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        ({"learnt": RISING[0]}, {"noise": NOISE[0]}, "signal-tasks"),
        ({"learnt": RISING[0]}, {"learnt": RISING[0], "text": "u"}, "signal-texts"),
        ({"learnt": RISING[0]}, {"learnt": RISING[1], "seed": 0}, "signal-seed"),
        ({"learnt": [0.6]}, {"learnt": [0.6]}, "signal-checkpoints"),
        ({"learnt": RISING[0]}, {}, "signal-unscored"),
    ],
)
def test_unfit_runs_are_one_error(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], code: str
) -> None:
    runs = [make_run(tmp_path / "a", **{"seed": 0, **first})]
    runs.append(make_run(tmp_path / "b", **{"seed": 1, **second}))
    with pytest.raises(UserError, match=code):
        measure(runs)


def test_unfinished_or_too_many_runs_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", 0, learnt=RISING[0])
    (run / "evaluate/manifest.json").unlink()
    with pytest.raises(UserError, match="no finished evaluate stage"):
        measure([run])
    with pytest.raises(UserError, match="too-many-runs"):
        measure([run] * 7)
