"""Suites expand to tasks, and every score has a file of its own."""

from __future__ import annotations

import pytest
from support.benchmark_items import ARC, ROWS, TRUTHFUL, vary, write_split

from teenytinyllama.errors import UserError
from teenytinyllama.settings.datasets import Task
from teenytinyllama.stages.evaluate.suites import SUITES_DIR, load_benchmarks


def test_suite_without_its_folders_is_an_error(tmp_path):
    for path in SUITES_DIR.glob("*.yaml"):
        with pytest.raises(UserError, match="suite-empty"):
            load_benchmarks((Task(name=path.stem, kind="suite", path=str(tmp_path)),))


def test_suite_leaves_out_tasks_without_a_folder(tmp_path, capsys):
    for split, start in (("train", 0), ("test", 30)):
        write_split(tmp_path / "arc_challenge_pt", split, vary(ARC, 30, start))
    write_split(tmp_path / "truthfulqa_pt", "validation", [TRUTHFUL])
    found = load_benchmarks((Task(name="paper-2023", kind="suite", path=str(tmp_path)),))
    assert [benchmark.name for benchmark in found] == [
        "paper-2023.arc_pt",
        "paper-2023.truthfulqa_pt_mc1",
        "paper-2023.truthfulqa_pt_mc2",
    ]
    assert [benchmark.config["num_fewshot"] for benchmark in found] == [25, 0, 0]
    assert all(benchmark.metadata["add_bos"] is False for benchmark in found)
    assert all(benchmark.metadata["encodes_apart"] is True for benchmark in found)
    assert "without hellaswag_pt, mmlu_pt_text" in capsys.readouterr().err


def test_two_tasks_of_one_name_are_refused(tmp_path):
    write_split(tmp_path, "test", [ROWS["storybook"]])
    task = Task(name="storybook", path=str(tmp_path))
    with pytest.raises(UserError, match="task-twice"):
        load_benchmarks((task, task))


@pytest.mark.parametrize("name", ["heldout", "Heldout"])
def test_task_named_like_the_heldout_score_is_refused(name):
    with pytest.raises(UserError, match="task-name"):
        load_benchmarks((Task(name=name, kind="storybook", num_items=4),))


def test_tasks_with_the_same_score_file_are_refused():
    tasks = [Task(name=name, kind="storybook", num_items=4) for name in ("a/b", "a--b")]
    with pytest.raises(UserError, match="task-twice"):
        load_benchmarks(tuple(tasks))
