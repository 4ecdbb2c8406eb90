"""Task files and items: every fault is named by file and line; sound ones become harness tasks."""

from __future__ import annotations

import json

import datasets
import pytest

from teenytinyllama.errors import UserError
from teenytinyllama.settings.datasets import Task
from teenytinyllama.stages.evaluate import dataset_loading as rows
from teenytinyllama.stages.evaluate.suites import SUITES_DIR, load_benchmarks
from teenytinyllama.stages.evaluate.task_loading import load_benchmark
from teenytinyllama.stages.evaluate.task_sandbox import TASKS_DIR
from teenytinyllama.stages.evaluate.tasks import process_docs

ARC = {
    "id": "x",
    "instruction": "Quanto é dois mais dois?",
    "option_a": "três",
    "option_b": "quatro",
    "option_c": "cinco",
    "option_d": "seis",
    "answer": "B",
}
TRUTHFUL = {
    "question": "O céu é azul?",
    "mc1_targets_choices": ["Sim.", "Não.", "Talvez."],
    "mc1_targets_labels": [1, 0, 0],
    "mc2_targets_choices": ["Sim.", "De dia, sim.", "Não.", "Nunca."],
    "mc2_targets_labels": [1, 1, 0, 0],
}
ROWS = {
    "arc_pt": ARC,
    "mmlu_pt": ARC,
    "mmlu_pt_text": ARC,
    "hellaswag_pt": {
        "activity_label": "Cozinhar",
        "ctx_a": "Ela abre o forno.",
        "ctx_b": "a massa",
        "endings": ["cresce.", "canta.", "lê."],
        "label": "0",
    },
    "truthfulqa_pt_mc1": TRUTHFUL,
    "truthfulqa_pt_mc2": TRUTHFUL,
    "lambada_pt": {"text": "O gato subiu no telhado"},
    "calame_pt": {"sentence": "O gato subiu no", "last_word": "telhado"},
    "multiblimp_pt": {"sen": "Os gatos dormem.", "wrong_sen": "Os gatos dorme."},
    "enem": {
        "context": "Um texto.",
        "question": "O texto fala de",
        "options": ["nada", "tudo", "algo", "mim", "ti"],
        "label": "c",
        "has_associated_images": False,
    },
    "oab": {
        "question": "É permitido?",
        "choices": {"text": ["sim", "não"], "label": ["A", "B"]},
        "answerKey": "B",
        "nullified": False,
    },
    "bluex": {
        "question": "É permitido?",
        "choices": {"text": ["sim", "não"], "label": ["A", "B"]},
        "answerKey": "B",
    },
    "storybook": {"question": "Quem mora lá?", "choices": ["o gato", "o cão"], "answer": 1},
    "cloze": {"question": "Quem mora lá?", "choices": ["o gato", "o cão"], "answer": 1},
}


def write(folder, split, rows):
    folder.mkdir(exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def many(row, count, start=0):
    """`count` different rows: solved examples must differ from the question."""
    names = ("instruction", "question", "sentence", "text", "ctx_a", "sen")
    text = next(key for key in names if key in row)
    return [{**row, text: f"{i} {row[text]}"} for i in range(start, start + count)]


@pytest.mark.parametrize("name", sorted(path.stem for path in TASKS_DIR.glob("*.yaml")))
def test_every_shipped_task_reads_its_own_fields(name, tmp_path):
    rows = many(ROWS[name], 40)
    write(tmp_path, "test", rows)
    write(tmp_path, "train", many(ROWS[name], 40, start=40))
    benchmark = load_benchmark(Task(name=name, path=str(tmp_path)))
    task = benchmark.harness_task()
    prompt = task.fewshot_context(task.eval_docs[0], benchmark.config["num_fewshot"])
    made = task.construct_requests(task.eval_docs[0], prompt, metadata=(name, 0, 1))
    made = made if isinstance(made, list) else [made]
    assert all(instance.args[1].strip() for instance in made)
    assert len(benchmark.scored_items) == len(rows)


def test_every_suite_names_shipped_tasks(tmp_path):
    for path in SUITES_DIR.glob("*.yaml"):
        with pytest.raises(UserError, match="suite-empty"):
            load_benchmarks((Task(name=path.stem, kind="suite", path=str(tmp_path)),))


def test_a_suite_takes_the_folders_that_are_there(tmp_path, capsys):
    for split, start in (("train", 0), ("test", 30)):
        write(tmp_path / "arc_challenge_pt", split, many(ARC, 30, start))
    write(tmp_path / "truthfulqa_pt", "validation", [TRUTHFUL])
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


def test_prompts_by_hand(tmp_path):
    write(tmp_path, "test", [ARC])
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


def test_chance_counts_the_choices_of_each_item(tmp_path):
    two = {**ARC, "option_c": "", "option_d": None}
    write(tmp_path, "test", [ARC, two])
    benchmark = load_benchmark(Task(name="arc_pt", path=str(tmp_path)), {"num_fewshot": 0})
    assert benchmark.chance == (1 / 4 + 1 / 2) / 2
    write(tmp_path / "t", "test", [TRUTHFUL])
    assert load_benchmark(Task(name="truthfulqa_pt_mc2", path=str(tmp_path / "t"))).chance == 0.5


def test_probability_of_true_by_hand():
    doc = {"labels": [1, 0, 1]}
    found = process_docs.probability_of_true(doc, [(-1.0, False), (-1.0, False), (-1.0, True)])
    assert found["acc"] == pytest.approx(2 / 3)
    far = process_docs.probability_of_true(doc, [(-901.0, False), (-901.0, False), (-901.0, True)])
    assert far["acc"] == pytest.approx(2 / 3)


def test_left_out_items_are_counted(tmp_path):
    write(
        tmp_path,
        "test",
        [
            *many(ROWS["enem"], 5),
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
        "error[task-item] {file}:2 - answer out of range: '42', expected a letter",
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
def test_a_bad_row_is_named_by_file_and_line(case, tmp_path):
    row, expected = BAD_ROWS[case]
    write(tmp_path, "test", [ARC, row])
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
        ({"label": "²"}, "field \"label\": expected a number from 0, got '²'"),
        ({"label": True}, 'field "label": expected a number from 0, got True'),
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
        ({"answer": None}, 'field "answer": expected a number from 0, got None'),
        ({"choices": "ab"}, 'field "choices": expected a list of texts'),
    ],
    "calame_pt": [({"sentence": "  "}, 'field "sentence" is empty')],
}


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [(name, *case) for name, cases in WRONG_FIELDS.items() for case in cases],
)
def test_a_field_of_the_wrong_kind_is_one_line(name, change, expected, tmp_path):
    split = "validation" if "truthful" in name else "test"
    write(tmp_path, split, [ROWS[name], {**ROWS[name], **change}])
    with pytest.raises(UserError) as caught:
        load_benchmark(Task(name=name, path=str(tmp_path)), {"num_fewshot": 0})
    assert f"{split}.jsonl:2 - " in str(caught.value)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_question_may_stand_in_the_context():
    row = ROWS["enem"]
    assert process_docs.enem({**row, "question": ""})["question"].rstrip() == "Um texto."
    assert process_docs.enem(row)["question"] == "Um texto.\n\nO texto fala de"
    for name in ("enem", "oab"):  # lost in the published sets, and counted by others
        lost = {**ROWS[name], "question": "", "context": None}
        assert process_docs.READERS[name if name == "enem" else "exam"](lost)["question"] == ""


def test_a_word_for_true_in_a_table_leaves_no_item_out_by_mistake(tmp_path):
    """In a CSV every field is text, and the text "False" is not empty."""
    assert process_docs.enem({**ROWS["enem"], "has_associated_images": "False"}) is not None
    assert process_docs.enem({**ROWS["enem"], "has_associated_images": "true"}) is None


def test_a_few_equal_choices_are_counted_and_scored(tmp_path):
    write(tmp_path, "test", [*many(ARC, 99), {**ARC, "option_a": "quatro"}])
    benchmark = load_benchmark(Task(name="arc_pt", path=str(tmp_path)), {"num_fewshot": 0})
    assert (len(benchmark.scored_items), benchmark.num_equal_choices) == (100, 1)


def fails(code, task, overrides=None):
    with pytest.raises(UserError) as caught:
        load_benchmark(task, overrides)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_bad_files_and_definitions(tmp_path):
    arc = Task(name="arc_pt", path=str(tmp_path / "arc"))
    assert "no folder" in fails("task-missing", arc, {"num_fewshot": 0})
    write(tmp_path / "arc", "other", [ARC])
    assert "found: other.jsonl" in fails("task-missing", arc, {"num_fewshot": 0})
    write(tmp_path / "arc", "test", [])
    assert 'split "test" has no items' in fails("task-empty", arc, {"num_fewshot": 0})
    write(tmp_path / "arc", "test", [ARC])
    write(tmp_path / "arc", "train", many(ARC, 3))
    assert "25 solved examples are wanted" in fails("task-fewshot", arc)
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


def test_labels_of_truthfulqa_are_checked(tmp_path):
    write(tmp_path, "validation", [{**TRUTHFUL, "mc1_targets_labels": [1, 1, 0]}])
    task = Task(name="truthfulqa_pt_mc1", path=str(tmp_path))
    assert "2 right answers, expected 1" in fails("task-item", task)
    write(tmp_path, "validation", [{**TRUTHFUL, "mc2_targets_labels": [1, 0]}])
    task = Task(name="truthfulqa_pt_mc2", path=str(tmp_path))
    assert "expected 4 of 0 and 1" in fails("task-item", task)


def test_two_tasks_of_one_name(tmp_path):
    write(tmp_path, "test", [ROWS["storybook"]])
    task = Task(name="storybook", path=str(tmp_path))
    with pytest.raises(UserError, match="task-twice"):
        load_benchmarks((task, task))


def test_a_folder_in_hub_layout(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write(tmp_path / "set", "test", many(ROWS["oab"], 6))
    task = Task(name="oab", kind="hub", path=str(tmp_path / "set"))
    assert len(load_benchmark(task).scored_items) == 6
    missing = Task(name="oab", kind="hub", path=str(tmp_path / "absent"))
    fails("task-hub", missing)


def test_a_csv_file(tmp_path):
    keys = list(ARC)
    text = ",".join(keys) + "\n" + ",".join(str(ARC[key]) for key in keys) + "\n"
    (tmp_path / "test.csv").write_text(text, encoding="utf-8")
    benchmark = load_benchmark(Task(name="arc_pt", path=str(tmp_path)), {"num_fewshot": 0})
    assert benchmark.scored_items[0]["gold"] == 1


def test_a_prompt_that_gives_the_answer_away(tmp_path):
    write(tmp_path, "test", many(ARC, 3))
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


def test_no_network_is_one_line(monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("Couldn't reach the Hub\n(offline)")

    monkeypatch.setattr(rows.datasets, "get_dataset_split_names", offline)
    message = fails("task-hub", Task(name="calame_pt", kind="hub"))
    assert "NOVA-vision-language/calame-pt" in message
    assert "local copy" in message


@pytest.mark.parametrize("where", ["get_dataset_split_names", "load_dataset"])
@pytest.mark.parametrize("text", ["", "a row is broken\nTraceback ..."])
def test_whatever_a_hub_dataset_raises_is_one_line(monkeypatch, where, text):
    def fail(*_, **__):
        raise datasets.exceptions.DatasetGenerationError(text)

    monkeypatch.setattr(rows.datasets, "get_dataset_split_names", lambda *_: ["test", "train"])
    monkeypatch.setattr(rows.datasets, where, fail)
    message = fails("task-hub", Task(name="calame_pt", kind="hub"))
    assert (text.splitlines() or ["DatasetGenerationError"])[0] in message
    assert "Traceback" not in message


def test_the_hub_is_asked_for_the_published_configuration_and_split(monkeypatch):
    asked = []
    monkeypatch.setattr(
        rows.datasets,
        "get_dataset_split_names",
        lambda *args: asked.append(args) or ["train"],
    )
    monkeypatch.setattr(
        rows.datasets,
        "load_dataset",
        lambda *args, **options: asked.append((*args, options["split"])) or [ROWS["calame_pt"]],
    )
    benchmark = load_benchmark(Task(name="calame_pt", kind="hub"))
    assert asked == [
        ("NOVA-vision-language/calame-pt", "all"),
        ("NOVA-vision-language/calame-pt", "all", "train"),
    ]
    assert benchmark.scored_items == [{"context": "O gato subiu no", "target": " telhado"}]
