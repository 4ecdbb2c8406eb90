"""Task files and items that would spoil a score are refused before a model is loaded."""

from __future__ import annotations

import pytest
from support.benchmark_items import ARC, TRUTHFUL, vary, write_split
from support.own_task import PLAIN, load_own_task, prompts

from teenytinyllama.errors import UserError
from teenytinyllama.settings.datasets import Task
from teenytinyllama.stages.evaluate.task_loading import load_benchmark
from teenytinyllama.stages.evaluate.task_validation import right_choice


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
    "out of range": (
        {"doc_to_target": "7"},
        "task-prompt",
        "answer out of range: 7 with 2 choices",
    ),
    "four of two": ({"doc_to_choice": ["A", "B", "C", "D"]}, "task-prompt", "4 choices, the item"),
    "yes and no": ({"doc_to_choice": [True, False]}, "task-key", "put them in quotes"),
    "templates": ({"doc_to_choice": ["{{a}}", "{{b}}"]}, "task-key", "are not rendered in a list"),
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
    ({}, {"answer": "1", "choices": ["1", "0"]}, "is the text of choice 0 and the number of"),
    ({"doc_to_text": "{{choices[1][3]}}"}, {"choices": ["a", "b"]}, "UndefinedError"),
]


@pytest.mark.parametrize(("changes", "row", "expected"), BAD_ITEMS)
def test_item_that_does_not_fit_the_prompt_is_named(changes, row, expected, tmp_path):
    rows = [*vary(PLAIN, 3), {**PLAIN, **row}, PLAIN]
    with pytest.raises(UserError) as caught:
        load_own_task(tmp_path, rows, **changes)
    code = "task-prompt" if changes else "task-item"
    assert str(caught.value).startswith(f"error[{code}] {tmp_path / 'test.jsonl'}:4 - ")
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


def load_raw(folder, rows, **changes):
    """A task over rows as they are: `a` and `b` are the choices, `right` the right answer."""
    return load_own_task(
        folder,
        rows,
        **{
            "doc_to_choice": "{{[a, b]}}",
            "doc_to_target": "{{right}}",
            "metadata": {"reader": "raw"},
            **changes,
        },
    )


def right_choices(bench):
    task = bench.harness_task()
    return [right_choice(task, item) for item in task.eval_docs]


def pairs(*rows):
    """Items from (a, b, right)."""
    return [
        {"question": f"{n}?", "a": a, "b": b, "right": right}
        for n, (a, b, right) in enumerate(rows)
    ]


# Items, changes of the task file, and the index of each item's right choice.
RIGHT_ANSWERS = {
    "a digit is the text": (pairs(("1", "0", "1"), ("1", "0", "0")), {}, [0, 1]),
    "so is a year": (pairs(("1999", "2001", "2001"), ("1999", "2001", "1999")), {}, [1, 0]),
    "numbers in the rows": (pairs((1, 0, 1), (1, 0, 0)), {}, [0, 1]),
    "number column": (pairs((1, 0, 1), (1, 0, 0)), {"doc_to_target": "right"}, [0, 1]),
    "number beyond the places": (
        pairs(("7", "5", 5), ("4", "7", 4)),
        {"doc_to_target": "right"},
        [1, 0],
    ),
    "text column": (pairs(("1", "0", "1"), ("1", "0", "0")), {"doc_to_target": "right"}, [0, 1]),
    "places": (pairs(("sim", "não", 1), ("1", "0", 1)), {}, [1, 1]),
    "places as text": (pairs(("sim", "não", "1"), ("1", "0", "0")), {}, [1, 0]),
    "places of a table": (pairs(("sim", "não", 1.0), ("um", "dois", 0.0)), {}, [1, 0]),
    "place of all": (pairs(("1", "0", "x"), ("0", "1", "x")), {"doc_to_target": 0}, [0, 0]),
    "said to be places": (
        pairs(("1", "0", "1"), ("1", "0", "0")),
        {"metadata": {"reader": "raw", "target": "index"}},
        [1, 0],
    ),
    "said to be texts": (
        pairs(("1", "0", 1), ("1", "0", 0)),
        {"doc_to_target": "right", "metadata": {"reader": "raw", "target": "text"}},
        [0, 1],
    ),
    "texts in brackets": (pairs(("[1]", "[0]", "[0]")), {}, [1]),
}


@pytest.mark.parametrize("case", RIGHT_ANSWERS)
def test_right_answer_that_is_a_number(case, tmp_path):
    rows, changes, expected = RIGHT_ANSWERS[case]
    assert right_choices(load_raw(tmp_path, rows, **changes)) == expected


def test_number_that_could_be_either_is_refused(tmp_path):
    rows = pairs(("1", "0", 1), ("1", "0", 0))
    with pytest.raises(
        UserError, match=r"test.jsonl:1 - its right answer 1 is the text of choice 0"
    ):
        load_raw(tmp_path, rows, doc_to_target="right")
    with pytest.raises(UserError, match="task-target"):  # neither reading fits both items
        load_raw(tmp_path, pairs(("1", "0", "1"), ("sim", "não", "sim"), ("sim", "não", "1")))
    with pytest.raises(UserError, match=r"metadata.target is 'place', expected text or index"):
        load_raw(tmp_path, rows, metadata={"reader": "raw", "target": "place"})


def test_solved_examples_show_the_right_number(tmp_path):
    rows = pairs(("1", "0", "1"), ("1", "0", "0"), ("1", "0", "1"))
    bench = load_raw(tmp_path, rows, num_fewshot=2)
    for prompt in prompts(bench):
        solved = prompt.split("\n\n")[:2]
        assert solved == [f"{n}? {rows[int(n)]['right']}" for n in (one[0] for one in solved)]


def test_last_word_that_is_a_number_is_predicted_as_text(tmp_path):
    for target, right in (("right", 1999), ("{{right}}", 1999), ("right", "1999")):
        bench = load_own_task(
            tmp_path,
            [{"question": "12", "right": right}],
            output_type="loglikelihood",
            doc_to_choice=None,
            doc_to_target=target,
            metadata={"reader": "raw"},
        )
        task = bench.harness_task()
        assert task.doc_to_target(task.eval_docs[0]) == "1999"
        assert task.doc_to_text(task.eval_docs[0]) == "12"


BAD_CHOICES = {
    "equal": (pairs(("sim", "sim", "sim")), {}, "two choices are equal, as in 1 of 1 items"),
    "empty": (pairs(("sim", " ", "sim")), {}, "expected two or more, none empty"),
    "case": (pairs(("sim", "SIM ", "sim")), {}, "differ in case or spaces only, as in 1 of 1"),
}


@pytest.mark.parametrize("case", BAD_CHOICES)
def test_choices_that_cannot_be_told_apart_are_refused(case, tmp_path):
    rows, changes, expected = BAD_CHOICES[case]
    with pytest.raises(UserError) as caught:
        load_raw(tmp_path, rows, **changes)
    assert expected in str(caught.value)
    assert "test.jsonl:1" in str(caught.value)


def test_lengths_that_give_the_answer_away_are_named(tmp_path, caplog):
    rows = pairs(*(("sim", "de forma nenhuma", "de forma nenhuma") for _ in range(40)))
    caplog.set_level("INFO")
    assert load_raw(tmp_path, rows).length_rule["choose"] == "longest"
    assert "the longest choice is right in 100.0 % (chance 50.0)" in caplog.text
    rows = pairs(
        *(("sim", "de forma nenhuma", ("sim", "de forma nenhuma")[n % 2]) for n in range(40))
    )
    assert load_raw(tmp_path, rows).length_rule is None
