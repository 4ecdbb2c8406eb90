"""Task files and items that would spoil a score are refused before a model is loaded."""

from __future__ import annotations

import pytest
from support.benchmark_items import ARC, TRUTHFUL, vary, write_split
from support.own_task import PLAIN, load_own_task

from teenytinyllama.errors import UserError
from teenytinyllama.settings.datasets import Task
from teenytinyllama.stages.evaluate.task_loading import load_benchmark


def test_chance_counts_the_choices_of_each_item(tmp_path):
    two = {**ARC, "option_c": "", "option_d": None}
    write_split(tmp_path, "test", [ARC, two])
    benchmark = load_benchmark(Task(name="arc_pt", path=str(tmp_path)), {"num_fewshot": 0})
    assert benchmark.chance == (1 / 4 + 1 / 2) / 2
    write_split(tmp_path / "t", "test", [TRUTHFUL])
    assert load_benchmark(Task(name="truthfulqa_pt_mc2", path=str(tmp_path / "t"))).chance == 0.5


BAD_TASK_FILES = {
    "generates": ({"output_type": "generate_until"}, "task-output-type", "is generate_until"),
    "no kind": ({"output_type": None}, "task-output-type", "output_type is missing"),
    "no target": ({"doc_to_target": None}, "task-key", "doc_to_target is missing"),
    "no choices": ({"doc_to_choice": None}, "task-key", "doc_to_choice is missing"),
    "shots": ({"num_fewshot": "many"}, "task-key", "num_fewshot is 'many'"),
    "headline": (
        {"metadata": {"headline": "acc_norm"}},
        "task-headline",
        'headline "acc_norm" is not in metric_list (acc)',
    ),
    "metric": ({"metric_list": [{"metric": "accc"}]}, "task-metric", 'did you mean "acc"?'),
    "metrics": ({"metric_list": ["acc"]}, "task-metric", "expected entries like {metric: acc}"),
    "field": ({"doc_to_text": "{{pergunta}}"}, "task-prompt", "'pergunta' is undefined"),
    "template": ({"doc_to_text": "{{question"}, "task-prompt", "TemplateSyntaxError"),
    "target": ({"doc_to_target": "question"}, "task-prompt", "neither a choice nor its number"),
    "out of range": ({"doc_to_target": "7"}, "task-prompt", "list index out of range"),
    "four of two": ({"doc_to_choice": ["A", "B", "C", "D"]}, "task-prompt", "4 choices, the item"),
    "empty": ({"doc_to_text": "{{' '}}"}, "task-prompt", "gives an empty prompt"),
    "sampler": (
        {"num_fewshot": 1, "fewshot_config": {"sampler": "firstn"}},
        "task-prompt",
        "firstn",
    ),
    "missing reader": (
        {"metadata": None, "doc_to_text": "{{x}}"},
        "task-prompt",
        "'x' is undefined",
    ),
}


@pytest.mark.parametrize("case", BAD_TASK_FILES)
def test_bad_task_file_is_a_one_line_error(case, tmp_path):
    changes, code, expected = BAD_TASK_FILES[case]
    with pytest.raises(UserError) as caught:
        load_own_task(tmp_path, **changes)
    assert caught.value.code == code
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


BAD_ITEMS = [
    ({"doc_to_choice": ["A", "B"]}, {"choices": ["a", "b", "c"]}, "gives 2 choices, the item has"),
    ({"doc_to_text": "{{question}}"}, {"question": "42"}, "doc_to_text gives 42, expected text"),
    ({"doc_to_text": "{{choices[1][3]}}"}, {"choices": ["a", "b"]}, "UndefinedError"),
]


@pytest.mark.parametrize(("changes", "row", "expected"), BAD_ITEMS)
def test_item_that_does_not_fit_the_prompt_is_named(changes, row, expected, tmp_path):
    rows = [*vary(PLAIN, 3), {**PLAIN, **row}, PLAIN]
    with pytest.raises(UserError) as caught:
        load_own_task(tmp_path, rows, **changes)
    assert str(caught.value).startswith(f"error[task-prompt] {tmp_path / 'test.jsonl'}:4 - ")
    assert expected in str(caught.value)


def test_prompt_that_depends_on_the_answer_is_refused(tmp_path):
    write_split(tmp_path, "test", vary(ARC, 3))
    leaking = tmp_path / "leaking.yaml"
    leaking.write_text(
        "task: leaking\ntest_split: test\noutput_type: multiple_choice\n"
        'doc_to_text: "{{question}} ({{gold}})"\ndoc_to_choice: choices\ndoc_to_target: gold\n'
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
        "metadata: {reader: arc}\n"
    )
    task = Task(name="leaking", path=str(tmp_path), definition=str(leaking))
    with pytest.raises(UserError, match=r"task-leak.*changes with the right answer"):
        load_benchmark(task).harness_task()
    leaking.write_text(leaking.read_text().replace(" ({{gold}})", ""))
    assert load_benchmark(task).harness_task().config.num_fewshot == 0
