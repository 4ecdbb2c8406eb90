"""Task files and items that would spoil a score are refused before a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_evaluate_definitions import ARC, ROWS, many, write

from teenytinyllama.errors import UserError
from teenytinyllama.settings.datasets import Task
from teenytinyllama.stages.evaluate.benchmark import Benchmark
from teenytinyllama.stages.evaluate.suites import load_benchmarks
from teenytinyllama.stages.evaluate.task_loading import load_benchmark

OWN = {
    "task": "own",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "choices",
    "doc_to_target": "gold",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    "metadata": {"reader": "plain"},
}
PLAIN = ROWS["storybook"]


def own(folder: Path, rows=None, **changes) -> Benchmark:
    """A benchmark by a task file of one's own, JSON being YAML; None takes a key out."""
    config = {k: v for k, v in {**OWN, **changes}.items() if v is not None}
    (folder / "own.yaml").write_text(json.dumps(config))
    write(folder, "test", many(PLAIN, 6) if rows is None else rows)
    return load_benchmark(
        Task(name="own", path=str(folder), definition=str(folder / "own.yaml")),
    )


def prompts(bench: Benchmark) -> list[str]:
    task = bench.harness_task()
    return [task.fewshot_context(item, bench.num_fewshot) for item in task.eval_docs]


def holds_its_own_answer(bench: Benchmark) -> bool:
    """Each question is asked once, so it may stand in its prompt once."""
    pairs = zip(prompts(bench), bench.scored_items, strict=True)
    return any(prompt.count(item["question"]) > 1 for prompt, item in pairs)


def test_examples_without_a_split_of_their_own_never_hold_the_question(tmp_path):
    assert not holds_its_own_answer(own(tmp_path, num_fewshot=5))
    first = {"fewshot_config": {"sampler": "first_n"}}
    assert not holds_its_own_answer(own(tmp_path, num_fewshot=5, **first))


def test_one_file_for_both_splits_never_holds_the_question(tmp_path):
    write(tmp_path, "all", many(ARC, 8))
    for name in ("arc_pt", "mmlu_pt"):
        task = Task(name=name, path=str(tmp_path / "all.jsonl"), num_fewshot=7)
        [bench] = load_benchmarks((task,))
        assert bench.config["fewshot_split"] == bench.config["test_split"]
        assert not holds_its_own_answer(bench)
    with pytest.raises(UserError, match=r"8 solved examples are wanted.*has 7"):
        load_benchmarks((task.model_copy(update={"num_fewshot": 8}),))


def test_a_single_dev_file_serves_as_both_and_never_holds_the_question(tmp_path):
    write(tmp_path, "dev", many(ARC, 8))
    bench = load_benchmark(Task(name="mmlu_pt", path=str(tmp_path), num_fewshot=5))
    assert not holds_its_own_answer(bench)


def test_examples_that_are_asked_too_are_left_out(tmp_path, capfd):
    write(tmp_path, "test", many(ARC, 4))
    write(tmp_path, "train", many(ARC, 9))
    [bench] = load_benchmarks((Task(name="arc_pt", path=str(tmp_path), num_fewshot=5),))
    assert not holds_its_own_answer(bench)
    assert "4 solved examples are asked too, and left out" in capfd.readouterr().err
    with pytest.raises(UserError, match=r"task-fewshot.*has 5 beside what is asked"):
        load_benchmarks((Task(name="arc_pt", path=str(tmp_path), num_fewshot=6),))


def test_a_storybook_task_with_examples_never_holds_the_question():
    task = Task(name="s", kind="storybook", num_items=12, num_fewshot=3)
    [bench] = load_benchmarks((task,))
    assert bench.config["fewshot_split"] == bench.split


FILE_FAULTS = {
    "generates": ({"output_type": "generate_until"}, "task-output-type", "is generate_until"),
    "no kind": ({"output_type": None}, "task-output-type", "output_type is missing"),
    "no target": ({"doc_to_target": None}, "task-key", "doc_to_target is missing"),
    "no choices": ({"doc_to_choice": None}, "task-key", "doc_to_choice is missing"),
    "shots": ({"num_fewshot": "many"}, "task-key", "num_fewshot is 'many'"),
    "headline": (
        {"metadata": {"headline": "acc_norm"}},
        "task-headline",
        'headline "acc_norm" is none of its metrics (acc)',
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


@pytest.mark.parametrize("case", FILE_FAULTS)
def test_a_task_file_that_cannot_be_scored_is_one_line(case, tmp_path):
    changes, code, expected = FILE_FAULTS[case]
    with pytest.raises(UserError) as caught:
        own(tmp_path, **changes)
    assert caught.value.code == code
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


ITEM_FAULTS = [
    ({"doc_to_choice": ["A", "B"]}, {"choices": ["a", "b", "c"]}, "gives 2 choices, the item has"),
    ({"doc_to_text": "{{question}}"}, {"question": "42"}, "doc_to_text gives 42, expected text"),
    ({"doc_to_text": "{{choices[1][3]}}"}, {"choices": ["a", "b"]}, "UndefinedError"),
]


@pytest.mark.parametrize(("changes", "row", "expected"), ITEM_FAULTS)
def test_an_item_that_does_not_fit_the_prompt_is_named_by_line(changes, row, expected, tmp_path):
    rows = [*many(PLAIN, 3), {**PLAIN, **row}, PLAIN]
    with pytest.raises(UserError) as caught:
        own(tmp_path, rows, **changes)
    assert str(caught.value).startswith(f"error[task-prompt] {tmp_path / 'test.jsonl'}:4 - ")
    assert expected in str(caught.value)


def test_rows_as_they_are_and_the_field_that_the_plain_reader_wants(tmp_path):
    rows = [{"pergunta": "Quem?", "a": "eu", "b": "tu", "certa": i % 2} for i in range(4)]
    with pytest.raises(UserError) as caught:
        own(tmp_path, rows, metadata=None)
    assert 'test.jsonl:1 - field "question" is missing (found: pergunta,' in str(caught.value)
    assert "metadata.reader in the task file (raw" in str(caught.value)
    raw = {"metadata": {"reader": "raw"}, "doc_to_text": "pergunta", "doc_to_choice": "{{[a, b]}}"}
    bench = own(tmp_path, rows, **raw, doc_to_target="certa")
    assert (bench.chance, len(bench.scored_items)) == (0.5, 4)
    with pytest.raises(UserError, match=r"test.jsonl:5.*answer out of range: 2 with 2 choices"):
        own(tmp_path, [*rows, {**rows[0], "certa": 2}], **raw, doc_to_target="certa")


def test_a_blank_to_be_filled_is_no_code(tmp_path):
    blank = own(tmp_path, doc_to_text="{{question}} ____ é a resposta de __Maria__.")
    assert prompts(blank)[0].endswith(" ____ é a resposta de __Maria__.")


CODE = {
    "function": "doc_to_text: !function evil.run\n",
    "quoted include": '"include": more.yaml\n',
    "list of includes": "include: [plain.yaml, more.yaml]\n",
    "merged include": "x: &x {include: more.yaml}\n<<: *x\n",
    "python tag": "doc_to_text: !!python/name:os.system ''\n",
    "insides": 'doc_to_text: "{{ cycler.__init__.__globals__ }}"\n',
    "escaped insides": 'doc_to_text: "{{ cycler.\\x5f\\x5finit\\x5f\\x5f }}"\n',
    "attr": "doc_to_text: \"{{ cycler | attr('x') }}\"\n",
    "metric from the Hub": "metric_list: [{metric: x, hf_evaluate: true}]\n",
}


@pytest.mark.parametrize("case", CODE)
def test_a_task_file_with_code_is_refused(case, tmp_path):
    (tmp_path / "evil.py").write_text("raise SystemExit('this was run')\n")
    (tmp_path / "more.yaml").write_text("doc_to_text: !function evil.run\n")
    (tmp_path / "plain.yaml").write_text("task: x\n")
    (tmp_path / "own.yaml").write_text(CODE[case])
    write(tmp_path, "test", [PLAIN])
    task = Task(name="own", path=str(tmp_path), definition=str(tmp_path / "own.yaml"))
    with pytest.raises(UserError) as caught:
        load_benchmark(task)
    assert caught.value.code == "task-code"


@pytest.mark.parametrize(
    "template",
    [
        "{{ cycler['_' ~ '_init_' ~ '_'] }}",
        "{{ cycler['\\x5f\\x5finit\\x5f\\x5f'] }}",
    ],
)
def test_a_template_that_spells_its_way_out_meets_the_sandbox(template, tmp_path):
    with pytest.raises(UserError, match=r"task-prompt.*(SecurityError|unsafe|undefined)"):
        own(tmp_path, doc_to_text=template)


def test_a_filter_that_spells_its_way_out_finds_nothing(tmp_path):
    template = "{{ [cycler] | map(attribute='_' ~ '_class_' ~ '_') | list }}"
    assert "class" not in prompts(own(tmp_path, doc_to_text=template))[0]


def test_a_table_with_odd_signs_and_a_long_field(tmp_path):
    """A line separator inside a text ends no row, and a text longer than 128 kB is read."""
    keys = list(ARC)
    rows = [{**ARC, "instruction": "Quanto é\u2028dois?"}, {**ARC, "instruction": "x" * 200_000}]
    lines = [",".join(keys), *(",".join(str(row[key]) for key in keys) for row in rows)]
    (tmp_path / "test.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    bench = load_benchmark(Task(name="arc_pt", path=str(tmp_path)), {"num_fewshot": 0})
    assert [len(item["question"]) for item in bench.scored_items] == [14, 200_000]
    assert bench.places["test"][1].endswith("test.csv:3")


def test_a_table_between_semicolons_is_read_or_refused_in_one_line(tmp_path):
    keys = list(ARC)
    (tmp_path / "test.csv").write_text(
        ";".join(keys) + "\n" + ";".join(str(ARC[key]) for key in keys) + "\n", encoding="utf-8"
    )
    task = Task(name="arc_pt", path=str(tmp_path))
    assert load_benchmark(task, {"num_fewshot": 0}).scored_items[0]["gold"] == 1


def test_a_quote_that_is_never_closed_is_one_line(tmp_path):
    keys = list(ARC)
    row = ",".join(str(ARC[key]) for key in keys)
    text = ",".join(keys) + "\n" + f'"{row}\n' + f"{row}\n" * 3
    (tmp_path / "test.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_benchmark(Task(name="arc_pt", path=str(tmp_path)), {"num_fewshot": 0})
    assert "test.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_solved_examples_may_be_written_into_the_task_file(tmp_path):
    samples = [{"question": f"Exemplo {i}?", "choices": ["a", "b"], "gold": 1} for i in range(3)]
    bench = own(tmp_path, num_fewshot=2, fewshot_config={"samples": samples, "sampler": "first_n"})
    assert prompts(bench)[0].startswith("Exemplo 0? b\n\nExemplo 1? b\n\n")


@pytest.mark.parametrize("name", ["heldout", "Heldout"])
def test_a_task_cannot_take_the_name_of_another_score(name):
    with pytest.raises(UserError, match="task-name"):
        load_benchmarks((Task(name=name, kind="storybook", num_items=4),))


def test_two_tasks_that_share_a_score_file():
    tasks = [Task(name=name, kind="storybook", num_items=4) for name in ("a/b", "a--b")]
    with pytest.raises(UserError, match="task-twice"):
        load_benchmarks(tuple(tasks))
