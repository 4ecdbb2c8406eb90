"""Every shipped task from a file to a score, with a tiny model."""

from __future__ import annotations

import copy
import dataclasses
import json
import math

import pytest
from support.benchmark_items import ROWS, vary, write_split

from teenytinyllama.settings.datasets import Task
from teenytinyllama.stages.evaluate.benchmark import Benchmark
from teenytinyllama.stages.evaluate.intervals import wilson95
from teenytinyllama.stages.evaluate.scored_models import load_model
from teenytinyllama.stages.evaluate.task_loading import load_benchmark
from teenytinyllama.stages.evaluate.task_runner import score_tasks
from teenytinyllama.stages.evaluate.task_sandbox import TASKS_DIR


@pytest.fixture(scope="module")
def tiny_model(model_dir):
    return load_model("tiny", model_dir, precision="fp32")


def score(tiny_model, bench: Benchmark) -> dict:
    [result] = score_tasks(tiny_model, [bench], batch_tokens=512, cache_dir=None)
    return result


@pytest.mark.parametrize("name", sorted(path.stem for path in TASKS_DIR.glob("*.yaml")))
def test_shipped_task_is_scored(name, tiny_model, tmp_path):
    write_split(tmp_path, "test", vary(ROWS[name], 5))
    write_split(tmp_path, "train", vary(ROWS[name], 30, start=5))
    if name == "multiblimp_pt":  # the Hub has it as one split, called train
        (tmp_path / "train.jsonl").unlink()
    found = score(tiny_model, load_benchmark(Task(name=name, path=str(tmp_path))))
    assert found["num_items"] == 5
    assert 0 <= found["accuracy"] <= 1
    assert found["right_answer_perplexity"] > 1
    assert found["right_answer_bits_per_byte"] > 0
    assert "NaN" not in json.dumps(found)


def test_empty_context_counts_all_tokens_of_the_sentence(tiny_model, tmp_path):
    """Every token of the right sentence is predicted, the first one from BOS."""
    write_split(tmp_path, "test", [ROWS["multiblimp_pt"]])
    found = score(tiny_model, load_benchmark(Task(name="multiblimp_pt", path=str(tmp_path))))
    ids = tiny_model.tokenizer.encode(ROWS["multiblimp_pt"]["sen"], add_special_tokens=False)
    right = found["items"][0]["logprobs"][0]
    assert found["right_answer_perplexity"] == pytest.approx(math.exp(-right / len(ids)))


def test_single_item_has_no_standard_error_and_valid_json(tiny_model, tmp_path):
    write_split(tmp_path, "test", [ROWS["storybook"]])
    found = score(tiny_model, load_benchmark(Task(name="storybook", path=str(tmp_path))))
    assert found["standard_error"] is None
    assert found["metrics_standard_error"] == {"acc": None, "acc_norm": None}
    json.dumps(found, allow_nan=False)


def test_accuracy_of_0_is_at_chance_0(tiny_model, tmp_path):
    write_split(
        tmp_path, "test", [{"text": f"O gato {i} subiu no zzzzzqqq{i}"} for i in range(475)]
    )
    found = score(tiny_model, load_benchmark(Task(name="lambada_pt", path=str(tmp_path))))
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


def test_raw_reader_scores_rows_unchanged(tiny_model, tmp_path):
    (tmp_path / "own.yaml").write_text(RAW)
    rows = [{"enunciado": f"Quanto é {i}?", "certa": f"é {i}", "errada": "nada"} for i in range(6)]
    write_split(tmp_path, "test", rows)
    task = Task(name="own", path=str(tmp_path), definition=str(tmp_path / "own.yaml"))
    bench = load_benchmark(task)
    found = score(tiny_model, bench)
    assert (found["num_items"], found["chance"]) == (6, 0.5)
    right = [item["logprobs"][1] > item["logprobs"][0] for item in found["items"]]
    assert found["accuracy"] == sum(right) / 6


def test_model_that_tells_nothing_apart_scores_chance(tiny_model, tmp_path):
    """All tokens are as likely: pairs of one length are ties, where the harness sees 100 %."""
    model = copy.deepcopy(tiny_model.model)
    model.lm_head.weight.data.zero_()
    same = dataclasses.replace(tiny_model, model=model)
    pairs = [{"sen": f"{n} ab", "wrong_sen": f"{n} ba"} for n in range(8)]
    write_split(tmp_path, "test", pairs)
    found = score(same, load_benchmark(Task(name="multiblimp_pt", path=str(tmp_path))))
    lengths = [
        [len(tiny_model.tokenizer.encode(pair[name])) for name in ("sen", "wrong_sen")]
        for pair in pairs
    ]
    assert all(right == wrong for right, wrong in lengths)
    assert (found["accuracy"], found["num_ties"], found["at_chance"]) == (0.5, 8, True)
    assert found["interval95"] == list(wilson95(0.5, 8))
    assert found["normalized"] is None


def test_normalized_accuracy_is_given_where_lengths_differ(tiny_model, tmp_path):
    write_split(tmp_path, "test", vary(ROWS["storybook"], 30))
    found = score(tiny_model, load_benchmark(Task(name="storybook", path=str(tmp_path))))
    by_character = [
        item["logprobs"][1] / len("o cão") > item["logprobs"][0] / len("o gato")
        for item in found["items"]
    ]
    assert found["metric"] == "acc"
    assert found["normalized"]["metric"] == "acc_norm"
    assert found["normalized"]["log_probability_per"] == "character"
    assert found["normalized"]["accuracy"] == sum(by_character) / 30
    assert found["length_rule"]["choose"] == "shortest"
