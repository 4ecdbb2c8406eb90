"""Items are read and checked; an error names file and line in one line."""

from __future__ import annotations

import pytest
from support.benchmark_items import ARC, ROWS, TRUTHFUL, vary, write_split
from support.own_task import PLAIN, load_own_task, prompts

from teenytinyllama.errors import UserError
from teenytinyllama.settings.datasets import Task
from teenytinyllama.stages.evaluate.benchmark import Benchmark
from teenytinyllama.stages.evaluate.suites import load_benchmarks
from teenytinyllama.stages.evaluate.task_loading import load_benchmark
from teenytinyllama.stages.evaluate.task_sandbox import TASKS_DIR


@pytest.mark.parametrize("name", sorted(path.stem for path in TASKS_DIR.glob("*.yaml")))
def test_shipped_task_reads_its_published_fields(name, tmp_path):
    rows = vary(ROWS[name], 40)
    write_split(tmp_path, "test", rows)
    write_split(tmp_path, "train", vary(ROWS[name], 40, start=40))
    benchmark = load_benchmark(Task(name=name, path=str(tmp_path)))
    task = benchmark.harness_task()
    prompt = task.fewshot_context(task.eval_docs[0], benchmark.config["num_fewshot"])
    made = task.construct_requests(task.eval_docs[0], prompt, metadata=(name, 0, 1))
    made = made if isinstance(made, list) else [made]
    assert all(instance.args[1].strip() for instance in made)
    assert len(benchmark.scored_items) == len(rows)


@pytest.mark.parametrize(
    ("name", "field", "values"),
    [
        ("belebele", "correct_answer_num", {"2": 1, 4: 3}),  # text on the Hub, numbers in a table
        ("sib200", "category", {"science/technology": 0, "geography": 6}),
        ("global_piqa", "label", {0: 0, "1": 1}),
        ("assin_entailment", "entailment_judgment", {0: 0, 2: 1, "None": 0, "Entailment": 1}),
    ],
)
def test_right_choice_of_a_published_row(name, field, values, tmp_path):
    for value, expected in values.items():
        write_split(tmp_path, "test", vary({**ROWS[name], field: value}, 3))
        write_split(tmp_path, "train", vary(ROWS[name], 3, start=5))
        task = load_benchmark(Task(name=name, path=str(tmp_path))).harness_task()
        choices = task.doc_to_choice(task.eval_docs[0])
        target = task.doc_to_target(task.eval_docs[0])
        assert (choices.index(target) if isinstance(target, str) else target) == expected


def test_prompt_text(tmp_path):
    write_split(tmp_path, "test", [ARC])
    for name, number, expected in (
        ("arc_pt", 0, "Question: Quanto é dois mais dois?\nAnswer:"),
        (
            "mmlu_pt",
            0,
            "Quanto é dois mais dois?\nA. três\nB. quatro\nC. cinco\nD. seis\nAnswer:",
        ),
    ):
        benchmark = load_benchmark(Task(name=name, path=str(tmp_path)), {"num_fewshot": number})
        task = benchmark.harness_task()
        assert task.fewshot_context(task.eval_docs[0], 0) == expected


def test_left_out_items_are_counted(tmp_path):
    write_split(
        tmp_path,
        "test",
        [
            *vary(ROWS["enem"], 5),
            {**ROWS["enem"], "has_associated_images": True},
            {**ROWS["enem"], "options": []},
        ],
    )
    benchmark = load_benchmark(Task(name="enem", path=str(tmp_path)))
    assert (len(benchmark.scored_items), benchmark.num_left_out) == (5, 2)


BAD_ROWS = {
    "missing column": (
        {k: v for k, v in ARC.items() if k != "instruction"},
        'error[task-item] {file}:2 - field "instruction" is missing',
    ),
    "answer out of range": (
        {**ARC, "answer": "F"},
        "error[task-item] {file}:2 - answer out of range: 'F' with 4 choices",
    ),
    "answer no letter": (
        {**ARC, "answer": "42"},
        "error[task-item] {file}:2 - answer out of range: '42' with 4 choices",
    ),
    "wrong type": (
        {**ARC, "instruction": 5},
        'error[task-item] {file}:2 - field "instruction": expected text, got 5',
    ),
    "one choice": (
        {"instruction": "?", "option_a": "a", "option_b": "", "option_c": "", "answer": "A"},
        "error[task-item] {file}:2 - 1 choices, expected at least 2",
    ),
    "empty choice": (
        {**ARC, "option_d": " [figura]"},
        "error[task-item] {file}:2 - one of the choices is empty",
    ),
    "gap between choices": (
        {**ARC, "option_b": "", "answer": "C"},
        'error[task-item] {file}:2 - field "option_b" is empty, and option_d is not',
    ),
    "null between choices": (
        {**ARC, "option_a": None},
        'error[task-item] {file}:2 - field "option_a" is empty, and option_d is not',
    ),
    "number for a choice": (
        {**ARC, "option_b": 0},
        'error[task-item] {file}:2 - field "option_b": expected text, got 0',
    ),
    "choice without a field": (
        {k: v for k, v in ARC.items() if k != "option_c"},
        'error[task-item] {file}:2 - field "option_c" is missing',
    ),
    "empty question": (
        {**ARC, "instruction": " "},
        'error[task-item] {file}:2 - field "instruction" is empty',
    ),
    "equal choices": (
        {**ARC, "option_a": "quatro"},
        "error[task-equal-choices] {file}:2 - two choices are equal, as in 1 of 2 items",
    ),
    "not JSON": ('{"instruction": ', "error[task-row] {file}:2 - not JSON"),
    "not an object": ("[1]", "error[task-row] {file}:2 - not an object but list"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_row_error_names_file_and_line(case, tmp_path):
    row, expected = BAD_ROWS[case]
    write_split(tmp_path, "test", [ARC, row])
    with pytest.raises(UserError) as caught:
        load_benchmark(Task(name="arc_pt", path=str(tmp_path)), {"num_fewshot": 0})
    message = str(caught.value)
    assert message.startswith(expected.format(file=tmp_path / "test.jsonl"))
    assert "\n" not in message
    assert " - fix: " in message


WRONG_FIELDS = {
    "hellaswag_pt": [
        ({"ctx_b": 3}, 'field "ctx_b": expected text, got 3'),
        ({"activity_label": ["a"]}, 'field "activity_label": expected text'),
        ({"label": "²"}, "field \"label\": expected a number from 0 or a letter, got '²'"),
        ({"label": True}, 'field "label": expected a number from 0 or a letter, got True'),
        ({"endings": ["a", 1]}, 'field "endings": expected a list of texts'),
        ({"ctx_a": "", "ctx_b": None}, 'fields "ctx_a" and "ctx_b" are empty'),
    ],
    "truthfulqa_pt_mc1": [({"mc1_targets_labels": "100"}, 'field "mc1_targets_labels"')],
    "truthfulqa_pt_mc2": [
        ({"mc2_targets_labels": [1, None, 0, 0]}, 'field "mc2_targets_labels": expected 4 of 0'),
        ({"mc2_targets_labels": [2, 1, 0, 0]}, 'field "mc2_targets_labels": expected 4 of 0 and 1'),
        ({"mc2_targets_choices": ["a", "b", "", "d"]}, "one of the choices is empty"),
    ],
    "enem": [
        ({"context": 3}, 'field "context": expected text, got 3'),
        ({"options": ["a", "b", "c", "d", "e", "f"]}, "6 choices, expected at most 5"),
        ({"has_associated_images": "talvez"}, 'field "has_associated_images": expected true or'),
    ],
    "oab": [
        ({"choices": {"text": ["sim", "não"], "label": None}}, 'field "choices.label": expected a'),
        ({"choices": {"text": ["a", "b"], "label": ["A"]}}, "2 texts and 1 labels"),
        ({"choices": None}, 'field "choices": expected {text, label}, got None'),
        ({"answerKey": 2}, 'field "answerKey": expected text, got 2'),
    ],
    "mmlu_pt": [
        ({"option_d": ""}, "3 options, expected 4"),
        ({"option_e": "cem"}, "5 options, expected 4"),
    ],
    "storybook": [
        ({"answer": None}, 'field "answer": expected a number from 0 or a letter, got None'),
        ({"choices": "ab"}, 'field "choices": expected a list of texts'),
    ],
    "calame_pt": [({"sentence": "  "}, 'field "sentence" is empty')],
}


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [(name, *case) for name, cases in WRONG_FIELDS.items() for case in cases],
)
def test_field_of_wrong_type_is_a_one_line_error(name, change, expected, tmp_path):
    split = "validation" if "truthful" in name else "test"
    write_split(tmp_path, split, [ROWS[name], {**ROWS[name], **change}])
    with pytest.raises(UserError) as caught:
        load_benchmark(Task(name=name, path=str(tmp_path)), {"num_fewshot": 0})
    assert f"{split}.jsonl:2 - " in str(caught.value)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_few_items_with_equal_choices_are_counted_and_scored(tmp_path):
    write_split(tmp_path, "test", [*vary(ARC, 99), {**ARC, "option_a": "quatro"}])
    benchmark = load_benchmark(Task(name="arc_pt", path=str(tmp_path)), {"num_fewshot": 0})
    assert (len(benchmark.scored_items), benchmark.num_equal_choices) == (100, 1)


def fails(code, task, overrides=None):
    with pytest.raises(UserError) as caught:
        load_benchmark(task, overrides)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_bad_files_and_task_files(tmp_path):
    arc = Task(name="arc_pt", path=str(tmp_path / "arc"))
    assert "no folder" in fails("task-missing", arc, {"num_fewshot": 0})
    write_split(tmp_path / "arc", "other", [ARC])
    assert "found: other.jsonl" in fails("task-missing", arc, {"num_fewshot": 0})
    write_split(tmp_path / "arc", "test", [])
    assert 'split "test" has no items' in fails("task-empty", arc, {"num_fewshot": 0})
    write_split(tmp_path / "arc", "test", [ARC])
    write_split(tmp_path / "arc", "train", vary(ARC, 3))
    assert "num_fewshot is 25" in fails("task-fewshot", arc)
    (tmp_path / "arc" / "test.jsonl").write_bytes(b'{"a": "\xff"}\n')
    assert "test.jsonl:1 - not UTF-8" in fails("task-row", arc, {"num_fewshot": 0})
    assert 'did you mean "arc_pt"?' in fails("task-unknown", Task(name="arc_bt", path="x"))
    broken = tmp_path / "own.yaml"
    broken.write_text("task: [")
    fails("task-syntax", Task(name="own", path="x", definition=str(broken)))
    broken.write_text("task: own\nmetadata: {reader: arcc}\ntest_split: test\n")
    assert 'did you mean "arc"?' in fails(
        "task-reader", Task(name="own", path="x", definition=str(broken))
    )


def test_truthfulqa_labels_are_checked(tmp_path):
    write_split(tmp_path, "validation", [{**TRUTHFUL, "mc1_targets_labels": [1, 1, 0]}])
    task = Task(name="truthfulqa_pt_mc1", path=str(tmp_path))
    assert "2 right answers, expected 1" in fails("task-item", task)
    write_split(tmp_path, "validation", [{**TRUTHFUL, "mc2_targets_labels": [1, 0]}])
    task = Task(name="truthfulqa_pt_mc2", path=str(tmp_path))
    assert "expected 4 of 0 and 1" in fails("task-item", task)


def test_raw_reader_and_missing_field_of_plain_reader(tmp_path):
    rows = [{"pergunta": "Quem?", "a": "eu", "b": "tu", "certa": i % 2} for i in range(4)]
    with pytest.raises(UserError) as caught:
        load_own_task(tmp_path, rows, metadata=None)
    assert 'test.jsonl:1 - field "question" is missing (found: pergunta,' in str(caught.value)
    assert "metadata.reader in the task file (raw" in str(caught.value)
    raw = {"metadata": {"reader": "raw"}, "doc_to_text": "pergunta", "doc_to_choice": "{{[a, b]}}"}
    bench = load_own_task(tmp_path, rows, **raw, doc_to_target="certa")
    assert (bench.chance, len(bench.scored_items)) == (0.5, 4)
    with pytest.raises(UserError, match=r"test.jsonl:5.*answer out of range: 2 with 2 choices"):
        load_own_task(tmp_path, [*rows, {**rows[0], "certa": 2}], **raw, doc_to_target="certa")


def prompt_holds_question_twice(bench: Benchmark) -> bool:
    """Each question is scored once, so its prompt may contain it once."""
    pairs = zip(prompts(bench), bench.scored_items, strict=True)
    return any(prompt.count(item["question"]) > 1 for prompt, item in pairs)


def test_examples_from_scored_split_exclude_the_question(tmp_path):
    assert not prompt_holds_question_twice(load_own_task(tmp_path, num_fewshot=5))
    first = {"fewshot_config": {"sampler": "first_n"}}
    assert not prompt_holds_question_twice(load_own_task(tmp_path, num_fewshot=5, **first))


def test_one_file_for_both_splits_excludes_the_question(tmp_path):
    write_split(tmp_path, "all", vary(ARC, 8))
    for name in ("arc_pt", "mmlu_pt"):
        task = Task(name=name, path=str(tmp_path / "all.jsonl"), num_fewshot=7)
        [bench] = load_benchmarks((task,))
        assert bench.config["fewshot_split"] == bench.config["test_split"]
        assert not prompt_holds_question_twice(bench)
    with pytest.raises(UserError, match=r"num_fewshot is 8.*has 7 examples"):
        load_benchmarks((task.model_copy(update={"num_fewshot": 8}),))


def test_single_dev_file_excludes_the_question(tmp_path):
    write_split(tmp_path, "dev", vary(ARC, 8))
    bench = load_benchmark(Task(name="mmlu_pt", path=str(tmp_path), num_fewshot=5))
    assert not prompt_holds_question_twice(bench)


def test_examples_that_are_scored_are_left_out(tmp_path, capfd):
    write_split(tmp_path, "test", vary(ARC, 4))
    write_split(tmp_path, "train", vary(ARC, 9))
    [bench] = load_benchmarks((Task(name="arc_pt", path=str(tmp_path), num_fewshot=5),))
    assert not prompt_holds_question_twice(bench)
    assert "4 few-shot examples are also scored, left out" in capfd.readouterr().err
    with pytest.raises(UserError, match=r"task-fewshot.*has 5 examples that are not scored"):
        load_benchmarks((Task(name="arc_pt", path=str(tmp_path), num_fewshot=6),))


def test_storybook_with_examples_excludes_the_question():
    task = Task(name="s", kind="storybook", num_items=12, num_fewshot=3)
    [bench] = load_benchmarks((task,))
    assert bench.config["fewshot_split"] == bench.split


def test_examples_written_in_the_task_file_are_used(tmp_path):
    samples = [{"question": f"Exemplo {i}?", "choices": ["a", "b"], "gold": 1} for i in range(3)]
    bench = load_own_task(
        tmp_path, num_fewshot=2, fewshot_config={"samples": samples, "sampler": "first_n"}
    )
    assert prompts(bench)[0].startswith("Exemplo 0? b\n\nExemplo 1? b\n\n")


ANSWERS = {
    "number": (1, 1),
    "number of a table": (1.0, 1),
    "digits": ("1", 1),
    "letter": ("B", 1),
    "small letter": (" b ", 1),
    "text": ("quatro", 1),
    "text that is another's letter": (
        "B",
        "answer 'B' is the text of choice 0 and the letter of choice 1",
    ),
    "letter beyond the choices": ("D", "answer out of range: 'D' with 3 choices"),
    "unknown text": ("sete", "expected a number from 0 or a letter, got 'sete'"),
    "true": (True, "expected a number from 0 or a letter, got True"),
    "5,000 digits": ("9" * 5000, "expected a number from 0 or a letter, got '999"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_right_answer_as_number_letter_or_text(case, tmp_path):
    answer, expected = ANSWERS[case]
    choices = ["B" if case == "text that is another's letter" else "três", "quatro", "cinco"]
    row = {"question": "Quanto é dois mais dois?", "choices": choices, "answer": answer}
    if isinstance(expected, int):
        bench = load_own_task(tmp_path, [row], metadata=None)
        assert bench.scored_items[0]["gold"] == expected
        return
    with pytest.raises(UserError) as caught:
        load_own_task(tmp_path, [row], metadata=None)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"metadata": "plain"}, "metadata is 'plain', expected keys and values"),
        ({"metadata": {"reader": ["plain"]}}, "metadata.reader \"['plain']\" is unknown"),
        ({"test_split": ["test"]}, "test_split is ['test'], expected text"),
        ({"fewshot_config": "first"}, "fewshot_config is 'first', expected keys and values"),
        ({"fewshot_config": {"split": 3}}, "fewshot_config.split is 3, expected text"),
    ],
)
def test_a_key_of_another_type_is_named(changes, expected, tmp_path):
    with pytest.raises(UserError) as caught:
        load_own_task(tmp_path, **changes)
    assert expected in str(caught.value)


LETTERS = {
    "arc_pt": ("answer", 2),
    "mmlu_pt": ("answer", "2"),
    "hellaswag_pt": ("label", "C"),
    "enem": ("label", 2),
}


@pytest.mark.parametrize("name", LETTERS)
def test_every_reader_takes_letters_and_numbers(name, tmp_path):
    field, answer = LETTERS[name]
    write_split(tmp_path, "test", [ROWS[name], {**ROWS[name], field: answer}])
    bench = load_benchmark(Task(name=name, path=str(tmp_path)), {"num_fewshot": 0})
    assert bench.scored_items[1]["gold"] == 2


THREE = {**PLAIN, "choices": ["a raposa", "o gato", "o sapo"]}
RAW = {"reader": "raw", "headline": "acc"}
RAW_TASK = {"metadata": RAW, "doc_to_target": "answer"}


def test_letters_are_places_where_a_task_file_names_the_field(tmp_path):
    rows = [{**THREE, "question": f"{n}?", "answer": letter} for n, letter in enumerate("BAC")]
    bench = load_own_task(tmp_path, rows, **RAW_TASK)
    task = bench.harness_task()
    assert [task.doc_to_target(item) for item in task.eval_docs] == [1, 0, 2]


@pytest.mark.parametrize("changes", [{"metadata": None}, RAW_TASK], ids=["plain", "raw"])
def test_answers_that_count_from_1_are_named(changes, tmp_path, capfd):
    rows = [{**THREE, "question": f"{n}?", "answer": n % 3 + 1} for n in range(1, 30)]
    with pytest.raises(UserError, match=r"3 with 3 choices, and none is 0 - fix: .*answer - 1"):
        load_own_task(tmp_path, rows, **changes)
    mixed = [{**row, "answer": row["answer"] - 1} for row in rows]
    with pytest.raises(UserError, match="3 with 3 choices - fix: correct that line"):
        load_own_task(tmp_path, [*mixed, {**rows[0], "answer": 3}], **changes)
    load_own_task(tmp_path, [{**row, "answer": 1 + n % 2} for n, row in enumerate(rows)], **changes)
    assert "right in none of 29 items: do its answers count from 1?" in capfd.readouterr().err
