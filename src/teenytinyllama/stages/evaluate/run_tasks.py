"""One model on one task: through the harness, then what the score is worth."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from lm_eval import evaluator

from teenytinyllama.stages.evaluate import scores
from teenytinyllama.stages.evaluate.definitions import Benchmark
from teenytinyllama.stages.evaluate.harness import PackedLM
from teenytinyllama.stages.evaluate.models import LoadedModel


def score_task(
    loaded: LoadedModel, benchmark: Benchmark, *, row_tokens: int, log_dir: Path | None
) -> dict[str, Any]:
    """The task's score with its error, chance and interval, and one line per item.

    Accuracy is the task's headline metric; every metric of the harness stands beside it.
    """
    lm = PackedLM(
        loaded.model,
        loaded.tokenizer,
        row_tokens=row_tokens,
        max_length=loaded.context_length,
        add_bos=benchmark.metadata.get("add_bos"),
        identity=loaded.identity,
        log_dir=log_dir,
        title=f"evaluate: {loaded.name}, {benchmark.name}",
    )
    task = benchmark.harness_task()
    quiet = logging.getLogger("lm_eval")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        results = evaluator.evaluate(
            lm=lm, task_dict={benchmark.name: task}, bootstrap_iters=0, log_samples=True
        )
    finally:
        quiet.setLevel(level)
    samples = sorted(results["samples"][benchmark.name], key=lambda sample: sample["doc_id"])
    headline = benchmark.metadata.get("headline", "acc")
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
        "num_fewshot": benchmark.config.get("num_fewshot") or 0,
        "num_truncated": lm.num_truncated,
        "metrics": {name: sum(found) / len(found) for name, found in metrics.items()},
        "metrics_standard_error": {n: scores.standard_error(v) for n, v in metrics.items()},
        **_right_answers(lm, samples),
        "packed": lm.is_packed,
        "identity": loaded.identity,
        "files": benchmark.files,
        "items": [_item(sample, headline) for sample in samples],
    }


def _right_answers(lm: PackedLM, samples: list[dict[str, Any]]) -> dict[str, float]:
    """How surprising the right answers are: a finer scale than hits and misses.

    Perplexity is per token, and compares models with the same tokenizer only; bits per byte
    compare all.
    """
    nats, num_tokens, num_bytes = 0.0, 0, 0
    for sample in samples:
        place = _gold(sample)
        context, continuation = _arguments(sample)[place]
        nats -= sample["resps"][place][0][0]
        num_tokens += lm.num_tokens[context, continuation]
        num_bytes += len(continuation.encode("utf-8"))
    return {
        "right_answer_perplexity": math.exp(nats / num_tokens),
        "right_answer_bits_per_byte": nats / math.log(2) / num_bytes,
    }


def _gold(sample: dict[str, Any]) -> int:
    target = sample["target"]
    return int(target) if len(sample["resps"]) > 1 else 0


def _arguments(sample: dict[str, Any]) -> list[tuple[str, str]]:
    found = sample["arguments"]
    if isinstance(found, dict):  # the harness logs them as {"gen_args_0": {"arg_0": ...}}
        return [(row["arg_0"], row["arg_1"]) for row in found.values()]
    return [tuple(row) for row in found]


def _item(sample: dict[str, Any], headline: str) -> dict[str, Any]:
    logprobs = [response[0][0] for response in sample["resps"]]
    return {"item": sample["doc_id"], "score": sample[headline], "logprobs": logprobs}
