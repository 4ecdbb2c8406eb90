"""One model on tasks: through the harness, then what each score is worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval import evaluator

from teenytinyllama.stages.evaluate.benchmark import Benchmark, quiet_harness
from teenytinyllama.stages.evaluate.packed_lm import PackedLM
from teenytinyllama.stages.evaluate.scored_models import ScoredModel
from teenytinyllama.stages.evaluate.task_validation import right_choice

MAX_NATS = 700.0  # exp of little more overflows a float
Z95 = 1.959963984540054
BOOTSTRAP_DRAWS = 2000


def group_tasks(benchmarks: list[Benchmark]) -> list[list[Benchmark]]:
    """Group benchmarks over the same files: requests that they share are then scored once."""
    groups: dict[str, list[Benchmark]] = {}
    for benchmark in benchmarks:
        encoding = [benchmark.metadata.get(name) for name in ("add_bos", "encodes_apart")]
        groups.setdefault(f"{encoding} {sorted(benchmark.files.items())}", []).append(benchmark)
    return list(groups.values())


def score_tasks(
    scored: ScoredModel, benchmarks: list[Benchmark], *, batch_tokens: int, cache_dir: Path | None
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
    values = metrics[headline]
    low, high = interval95(values)
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
        "num_left_out": benchmark.num_left_out,
        "num_equal_choices": benchmark.num_equal_choices,
        "num_fewshot": benchmark.num_fewshot,
        "num_truncated": _num_truncated(lm, samples),
        "metrics": {name: sum(found) / len(found) for name, found in metrics.items()},
        "metrics_standard_error": {n: standard_error(v) for n, v in metrics.items()},
        **_right_answers(lm, task, samples),
        "packed": lm.is_packed,
        "identity": scored.identity,
        "files": benchmark.files,
        "items": [
            {
                "item": sample["doc_id"],
                "score": sample[headline],
                "logprobs": [response[0][0] for response in sample["resps"]],
            }
            for sample in samples
        ],
    }


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


def standard_error(values: Sequence[float]) -> float | None:
    """Standard error of the mean with n - 1, as lm-evaluation-harness computes it.

    None for a single value, which has no spread (JSON has no NaN).

    >>> round(standard_error([1, 1, 0, 0]), 4)
    0.2887
    """
    if len(values) < 2:
        return None
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


def interval95(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean: Wilson's for 0s and 1s, a bootstrap for anything else.

    Wilson's does not shrink to a point when all values are equal:

    >>> low, high = interval95([1.0] * 10)
    >>> round(low, 3), round(high, 3)
    (0.722, 1.0)
    """
    if not values:
        return (math.nan, math.nan)
    array = np.asarray(values, dtype=np.float64)
    if np.isin(array, (0.0, 1.0)).all():
        return wilson95(float(array.mean()), len(array))
    draws = np.random.Generator(np.random.PCG64(0)).integers(
        0, len(array), (BOOTSTRAP_DRAWS, len(array))
    )
    low, high = np.quantile(array[draws].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def wilson95(share: float, num_items: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share (Wilson 1927).

    >>> wilson95(0.0, 475)[0], wilson95(1.0, 475)[1]
    (0.0, 1.0)
    """
    denominator = 1 + Z95**2 / num_items
    middle = (share + Z95**2 / (2 * num_items)) / denominator
    spread = share * (1 - share) / num_items + Z95**2 / (4 * num_items**2)
    half = Z95 * math.sqrt(spread) / denominator
    # For a share of 0 both terms are equal but for the last bit, which would lift the score
    # above a chance of 0.
    low = 0.0 if share == 0 else max(0.0, middle - half)
    high = 1.0 if share == 1 else min(1.0, middle + half)
    return low, high


def is_at_chance(interval: tuple[float, float], chance: float) -> bool:
    """True where the interval includes chance or is below it.

    >>> is_at_chance((0.24, 0.31), 0.25), is_at_chance((0.26, 0.33), 0.25)
    (True, False)
    """
    return interval[0] <= chance
