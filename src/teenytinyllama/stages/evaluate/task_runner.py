"""One model on tasks: through the harness, then what the score is worth."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from lm_eval import evaluator

from teenytinyllama.stages.evaluate import scores
from teenytinyllama.stages.evaluate.benchmark import Benchmark, quiet_harness
from teenytinyllama.stages.evaluate.packed_lm import PackedLM
from teenytinyllama.stages.evaluate.scored_models import LoadedModel
from teenytinyllama.stages.evaluate.task_validation import right_choice

MAX_NATS = 700.0  # e to a little more than this is too large for a float


def group(benchmarks: list[Benchmark]) -> list[list[Benchmark]]:
    """Benchmarks over the same files belong together: requests that they share are scored once."""
    groups: dict[str, list[Benchmark]] = {}
    for benchmark in benchmarks:
        reading = [benchmark.metadata.get(name) for name in ("add_bos", "encodes_apart")]
        groups.setdefault(f"{reading} {sorted(benchmark.files.items())}", []).append(benchmark)
    return list(groups.values())


def score_tasks(
    loaded: LoadedModel, benchmarks: list[Benchmark], *, batch_tokens: int, log_dir: Path | None
) -> list[dict[str, Any]]:
    """The scores of a `group` of tasks, each with error, chance, interval and one line per item.

    Accuracy is the task's headline metric; every metric of the harness stands beside it.
    """
    names = ", ".join(benchmark.name for benchmark in benchmarks)
    lm = PackedLM(
        loaded.model,
        loaded.tokenizer,
        batch_tokens=batch_tokens,
        max_length=loaded.context_length,
        add_bos=benchmarks[0].metadata.get("add_bos"),
        encodes_apart=bool(benchmarks[0].metadata.get("encodes_apart")),
        identity=loaded.identity,
        log_dir=log_dir,
        title=f"evaluate: {loaded.name}, {names}",
    )
    tasks = {benchmark.name: benchmark.harness_task() for benchmark in benchmarks}
    with quiet_harness():
        results = evaluator.evaluate(lm=lm, task_dict=tasks, bootstrap_iters=0, log_samples=True)
    return [
        _score(loaded, lm, benchmark, tasks[benchmark.name], results["samples"][benchmark.name])
        for benchmark in benchmarks
    ]


def _score(
    loaded: LoadedModel, lm: PackedLM, benchmark: Benchmark, task: Any, logged: list[dict[str, Any]]
) -> dict[str, Any]:
    samples = sorted(logged, key=lambda sample: sample["doc_id"])
    headline = benchmark.headline
    metrics = {
        name: [float(sample[name]) for sample in samples]
        for name in samples[0]["metrics"]
        if isinstance(samples[0][name], int | float)
    }
    values = metrics[headline]
    low, high = scores.interval95(values)
    return {
        "task": benchmark.name,
        "model": loaded.name,
        "metric": headline,
        "accuracy": sum(values) / len(values),
        "standard_error": scores.standard_error(values),
        "interval95": [low, high],
        "chance": benchmark.chance,
        "at_chance": scores.is_at_chance((low, high), benchmark.chance),
        "num_items": len(values),
        "num_left_out": benchmark.num_left_out,
        "num_equal_choices": benchmark.num_equal_choices,
        "num_fewshot": benchmark.num_fewshot,
        "num_truncated": _num_truncated(lm, samples),
        "metrics": {name: sum(found) / len(found) for name, found in metrics.items()},
        "metrics_standard_error": {n: scores.standard_error(v) for n, v in metrics.items()},
        **_right_answers(lm, task, samples),
        "packed": lm.is_packed,
        "identity": loaded.identity,
        "files": benchmark.files,
        "items": [_item(sample, headline) for sample in samples],
    }


def _num_truncated(lm: PackedLM, samples: list[dict[str, Any]]) -> int:
    """Items whose prompt was cut from the left to fit the model's context."""
    return sum(any(pair in lm.truncated for pair in _arguments(sample)) for sample in samples)


def _right_answers(
    lm: PackedLM, task: Any, samples: list[dict[str, Any]]
) -> dict[str, float | None]:
    """How surprising the right answers are: a finer scale than hits and misses.

    Perplexity is per token, and compares models with the same tokenizer only; bits per byte
    compare all. None where it is too large for a number.
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
    found = sample["arguments"]
    if isinstance(found, dict):  # the harness logs them as {"gen_args_0": {"arg_0": ...}}
        return [(row["arg_0"], row["arg_1"]) for row in found.values()]
    return [tuple(row) for row in found]


def _item(sample: dict[str, Any], headline: str) -> dict[str, Any]:
    logprobs = [response[0][0] for response in sample["resps"]]
    return {"item": sample["doc_id"], "score": sample[headline], "logprobs": logprobs}
