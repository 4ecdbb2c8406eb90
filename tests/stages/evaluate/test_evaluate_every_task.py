"""Every shipped task from a file to a score, with a tiny model: what loads must also be scored."""

from __future__ import annotations

import json
import math

import pytest
from test_evaluate_definitions import ROWS, many, write

from teenytinyllama.settings.datasets import Task
from teenytinyllama.stages.evaluate.benchmark import Benchmark
from teenytinyllama.stages.evaluate.scored_models import load_model
from teenytinyllama.stages.evaluate.task_loading import load_benchmark
from teenytinyllama.stages.evaluate.task_runner import score_tasks
from teenytinyllama.stages.evaluate.task_sandbox import TASKS_DIR


@pytest.fixture(scope="module")
def loaded(model_dir):
    return load_model("tiny", model_dir, precision="fp32")


def score(loaded, bench: Benchmark) -> dict:
    [result] = score_tasks(loaded, [bench], batch_tokens=512, log_dir=None)
    return result


@pytest.mark.parametrize("name", sorted(path.stem for path in TASKS_DIR.glob("*.yaml")))
def test_every_shipped_task_is_scored(name, loaded, tmp_path):
    write(tmp_path, "test", many(ROWS[name], 5))
    write(tmp_path, "train", many(ROWS[name], 30, start=5))
    if name == "multiblimp_pt":  # the Hub has it as one split, called train
        (tmp_path / "train.jsonl").unlink()
    found = score(loaded, load_benchmark(Task(name=name, path=str(tmp_path))))
    assert found["num_items"] == 5
    assert 0 <= found["accuracy"] <= 1
    assert found["right_answer_perplexity"] > 1
    assert found["right_answer_bits_per_byte"] > 0
    assert "NaN" not in json.dumps(found)


def test_an_empty_context_counts_the_tokens_of_the_whole_sentence(loaded, tmp_path):
    """Worked out by hand: every token of the right sentence is predicted, the first from BOS."""
    write(tmp_path, "test", [ROWS["multiblimp_pt"]])
    found = score(loaded, load_benchmark(Task(name="multiblimp_pt", path=str(tmp_path))))
    ids = loaded.tokenizer.encode(ROWS["multiblimp_pt"]["sen"], add_special_tokens=False)
    right = found["items"][0]["logprobs"][0]
    assert found["right_answer_perplexity"] == pytest.approx(math.exp(-right / len(ids)))


def test_one_item_has_no_standard_error_and_valid_json(loaded, tmp_path):
    write(tmp_path, "test", [ROWS["storybook"]])
    found = score(loaded, load_benchmark(Task(name="storybook", path=str(tmp_path))))
    assert found["standard_error"] is None
    assert found["metrics_standard_error"] == {"acc": None}
    json.dumps(found, allow_nan=False)


def test_nothing_right_is_never_above_chance(loaded, tmp_path):
    write(tmp_path, "test", [{"text": f"O gato {i} subiu no zzzzzqqq{i}"} for i in range(475)])
    found = score(loaded, load_benchmark(Task(name="lambada_pt", path=str(tmp_path))))
    assert (found["accuracy"], found["chance"]) == (0, 0)
    assert found["interval95"][0] == 0
    assert found["at_chance"]


RAW = """
task: own
test_split: test
output_type: multiple_choice
doc_to_text: "{{enunciado}}\\nResposta:"
doc_to_choice: "{{[errada, certa]}}"
doc_to_target: "{{certa}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {reader: raw}
"""


def test_a_task_file_in_the_harness_own_form_takes_rows_as_they_are(loaded, tmp_path):
    (tmp_path / "own.yaml").write_text(RAW)
    rows = [{"enunciado": f"Quanto é {i}?", "certa": f"é {i}", "errada": "nada"} for i in range(6)]
    write(tmp_path, "test", rows)
    task = Task(name="own", path=str(tmp_path), definition=str(tmp_path / "own.yaml"))
    bench = load_benchmark(task)
    found = score(loaded, bench)
    assert (found["num_items"], found["chance"]) == (6, 0.5)
    right = [item["logprobs"][1] > item["logprobs"][0] for item in found["items"]]
    assert found["accuracy"] == sum(right) / 6
