"""One model on tasks: through the harness, then what each score is worth."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from lm_eval import evaluator

from teenytinyllama.process_group import ALONE, ProcessGroup
from teenytinyllama.stages.evaluate.benchmark import Benchmark, quiet_harness
from teenytinyllama.stages.evaluate.choice_metrics import (
    TopChoice,
    lengths_differ,
    preferences,
)
from teenytinyllama.stages.evaluate.intervals import interval95, is_at_chance, standard_error
from teenytinyllama.stages.evaluate.packed_lm import PackedLM
from teenytinyllama.stages.evaluate.scored_models import ScoredModel
from teenytinyllama.stages.evaluate.task_validation import right_choice

MAX_NATS = 700.0  # exp of little more overflows a float


def group_tasks(benchmarks: list[Benchmark]) -> list[list[Benchmark]]:
    """Group benchmarks over the same files: requests that they share are then scored once."""
    groups: dict[str, list[Benchmark]] = {}
    for benchmark in benchmarks:
        encoding = [benchmark.metadata.get(name) for name in ("add_bos", "encodes_apart")]
        groups.setdefault(f"{encoding} {sorted(benchmark.files.items())}", []).append(benchmark)
    return list(groups.values())


def score_tasks(
    scored: ScoredModel,
    benchmarks: list[Benchmark],
    *,
    batch_tokens: int,
    cache_dir: Path | None,
    processes: ProcessGroup = ALONE,
) -> list[dict[str, Any]]:
    """The scores of one group of tasks, each with error, interval, chance and its items.

    `accuracy` is the task's headline metric; all of the harness's metrics are in `metrics`.
    """
    names = ", ".join(benchmark.name for benchmark in benchmarks)
    lm = PackedLM(
        scored.model,
        scored.tokenizer,
        batch_tokens=batch_tokens,
        max_length=scored.context_length,
        add_bos=benchmarks[0].metadata.get("add_bos"),
        encodes_apart=bool(benchmarks[0].metadata.get("encodes_apart")),
        identity=scored.identity,
        cache_dir=cache_dir,
        processes=processes,
        title=f"evaluate: {scored.name}, {names}",
    )
    tasks = {benchmark.name: benchmark.harness_task() for benchmark in benchmarks}
    with quiet_harness():
        results = evaluator.evaluate(lm=lm, task_dict=tasks, bootstrap_iters=0, log_samples=True)
    return [
        _score(scored, lm, benchmark, tasks[benchmark.name], results["samples"][benchmark.name])
        for benchmark in benchmarks
    ]


def _score(
    scored: ScoredModel, lm: PackedLM, benchmark: Benchmark, task: Any, logged: list[dict[str, Any]]
) -> dict[str, Any]:
    samples = sorted(logged, key=lambda sample: sample["doc_id"])
    headline = benchmark.headline
    metrics = {
        name: [float(sample[name]) for sample in samples]
        for name in samples[0]["metrics"]
        if isinstance(samples[0][name], int | float)
    }
    preferred, differ = _preferences(benchmark, task, samples)
    metrics |= {name: [one.score for one in found] for name, found in preferred.items()}
    ties = {name: sum(one.is_tie for one in found) for name, found in preferred.items()}
    values = metrics[headline]
    low, high = interval95(values, with_ties=headline in preferred)
    return {
        "task": benchmark.name,
        "model": scored.name,
        "metric": headline,
        "accuracy": sum(values) / len(values),
        "standard_error": standard_error(values),
        "interval95": [low, high],
        "chance": benchmark.chance,
        "at_chance": is_at_chance((low, high), benchmark.chance),
        "num_items": len(values),
        "num_ties": ties.get(headline),
        "num_left_out": benchmark.num_left_out,
        "num_equal_choices": benchmark.num_equal_choices,
        "num_fewshot": benchmark.num_fewshot,
        "num_truncated": _num_truncated(lm, samples),
        "normalized": {
            "metric": "acc_norm",
            "log_probability_per": "character",
            "accuracy": sum(metrics["acc_norm"]) / len(values),
            "interval95": list(interval95(metrics["acc_norm"], with_ties=True)),
            "num_ties": ties["acc_norm"],
        }
        if differ
        else None,
        "length_rule": benchmark.length_rule,
        "metrics": {name: sum(found) / len(found) for name, found in metrics.items()},
        "metrics_standard_error": {n: standard_error(v) for n, v in metrics.items()},
        "metrics_num_ties": ties,
        **_right_answers(lm, task, samples),
        "packed": lm.is_packed,
        "identity": scored.identity,
        "files": benchmark.files,
        "items": [
            {
                "item": sample["doc_id"],
                "score": score,
                "logprobs": [response[0][0] for response in sample["resps"]],
            }
            for sample, score in zip(samples, values, strict=True)
        ],
    }


def _preferences(
    benchmark: Benchmark, task: Any, samples: list[dict[str, Any]]
) -> tuple[dict[str, list[TopChoice]], bool]:
    """The task's metrics that choose, item by item, ties counted as a part.

    Where choices differ in length, which is told too, `acc_norm` is among them, asked for or not:
    log-probabilities divided by the number of characters. Nothing for a task that computes its
    own metric.
    """
    if task.OUTPUT_TYPE != "multiple_choice" or task.config.process_results is not None:
        return {}, False
    choices = [task.doc_to_choice(sample["doc"]) for sample in samples]
    found = [
        preferences(
            [response[0][0] for response in sample["resps"]],
            item,
            right_choice(task, sample["doc"]),
        )
        for sample, item in zip(samples, choices, strict=True)
    ]
    differ = lengths_differ(choices)
    names = {*samples[0]["metrics"]} | ({"acc_norm"} if differ else set())
    by_metric = {name: [item[name] for item in found] for name in sorted(names) if name in found[0]}
    return by_metric, differ


def _num_truncated(lm: PackedLM, samples: list[dict[str, Any]]) -> int:
    """Items whose prompt was cut from the left to fit the model's context."""
    return sum(any(pair in lm.truncated for pair in _arguments(sample)) for sample in samples)


def _right_answers(
    lm: PackedLM, task: Any, samples: list[dict[str, Any]]
) -> dict[str, float | None]:
    """Perplexity (per token) and bits per byte of the right answers: finer than accuracy.

    Only bits per byte compare models with different tokenizers. A perplexity that overflows a
    float is None.
    """
    nats, num_tokens, num_bytes = 0.0, 0, 0
    for sample in samples:
        place = right_choice(task, sample["doc"])
        context, continuation = _arguments(sample)[place]
        nats -= sample["resps"][place][0][0]
        num_tokens += lm.num_tokens[context, continuation]
        num_bytes += len(continuation.encode("utf-8"))
    per_token = nats / num_tokens
    return {
        "right_answer_perplexity": math.exp(per_token) if per_token < MAX_NATS else None,
        "right_answer_bits_per_byte": nats / math.log(2) / num_bytes,
    }


def _arguments(sample: dict[str, Any]) -> list[tuple[str, str]]:
    """(context, continuation) of each request of one logged sample."""
    found = sample["arguments"]
    if isinstance(found, dict):  # the harness logs them as {"gen_args_0": {"arg_0": ...}}
        return [(row["arg_0"], row["arg_1"]) for row in found.values()]
    return [tuple(row) for row in found]
