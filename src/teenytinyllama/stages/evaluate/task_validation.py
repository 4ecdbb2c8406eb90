"""Checks a task: every prompt, choice and right answer is rendered before a model is loaded.

A wrong task file or item would otherwise show after hours of scoring, or never: the harness scores
an answer that is out of range with 0, and a template that names four choices drops the fifth.
"""

from __future__ import annotations

from typing import Any

from lm_eval.api.task import ConfigurableTask

from teenytinyllama.errors import UserError, did_you_mean
from teenytinyllama.stages.evaluate.benchmark import Benchmark, quiet_harness, reason_of
from teenytinyllama.stages.evaluate.dataset_loading import TaskItem

# Metrics that the harness computes for each output type; it would silently skip others.
METRICS = {
    "multiple_choice": (
        "acc",
        "acc_norm",
        "acc_bytes",
        "acc_mutual_info",
        "exact_match",
        "f1",
        "mcc",
        "brier_score",
        "likelihood",
    ),
    "loglikelihood": ("acc", "perplexity"),
}
# Those that give each item a number from 0 to 1, so that their mean is an accuracy.
ACCURACY_METRICS = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match")
DEFAULT_METRICS = {"multiple_choice": ("acc", "acc_norm"), "loglikelihood": ("acc", "perplexity")}
NUM_LEAK_CHECKS = 5  # one would do: all items have the same template


def check_definition(benchmark: Benchmark) -> None:
    """Raise UserError for a task file that cannot be scored, whatever its items are."""

    def problem(code: str, what: str, fix: str) -> UserError:
        return UserError(code, f"task {benchmark.name}", what, fix)

    config = benchmark.config
    kind = config.get("output_type")
    if kind not in METRICS:
        what = f"output_type is {kind or 'missing'}, expected {' or '.join(METRICS)}"
        raise problem("task-output-type", what, "other output types are not scored here")
    needed = ["doc_to_text", "doc_to_target"] + ["doc_to_choice"] * (kind == "multiple_choice")
    for key in needed:
        if config.get(key) is None:
            raise problem("task-key", f"{key} is missing", f"add {key} to the task file")
    shots = config.get("num_fewshot")
    if shots is not None and (not isinstance(shots, int) or shots < 0):
        raise problem("task-key", f"num_fewshot is {shots!r}", "give a number from 0")
    listed = config.get("metric_list")
    if listed is None:
        names: list[Any] = list(DEFAULT_METRICS[kind])
    elif isinstance(listed, list) and all(isinstance(m, dict) and "metric" in m for m in listed):
        names = [metric["metric"] for metric in listed]
    else:
        what = f"metric_list is {listed!r:.60}, expected entries like {{metric: acc}}"
        raise problem("task-metric", what, "correct the task file")
    known = names if config.get("process_results") else METRICS[kind]
    for name in names:
        if name not in known:
            what = f'{kind} tasks have no metric "{name}"'
            raise problem("task-metric", what, did_you_mean(str(name), known))
    fit = [name for name in names if name in ACCURACY_METRICS]
    if benchmark.headline not in fit:
        what = f'metadata.headline "{benchmark.headline}" is not in metric_list ({", ".join(fit)})'
        raise problem("task-headline", what, "name one of metric_list, or add it there")


def check_items(benchmark: Benchmark) -> None:
    """Render every item and few-shot example, and set the items' chances.

    Raises UserError with file and line for what cannot be rendered or scored.
    """
    task = benchmark.harness_task()
    examples = task.fewshot_cfg
    for split, rows in task.dataset.items():
        is_scored = split == benchmark.split
        how = {} if is_scored else {"text": examples.doc_to_text, "target": examples.doc_to_target}
        for item, place in zip(rows, benchmark.places[split], strict=True):
            try:
                num_choices = _render(benchmark, task, item, **how)
            except Exception as error:  # templates can raise anything
                is_ours = type(error) is ValueError
                what = (
                    str(error) if is_ours else f"its prompt cannot be rendered ({reason_of(error)})"
                )
                fix = "correct that line or the task file"
                raise UserError("task-prompt", place, what, fix) from error
            if is_scored:
                benchmark.chances.append(_chance(item, num_choices))
    _check_leak(benchmark, task)
    try:
        with quiet_harness():
            task.fewshot_context(task.eval_docs[0], benchmark.num_fewshot)
    except Exception as error:
        count = benchmark.num_fewshot
        what = f"a prompt with {count} examples cannot be rendered ({reason_of(error)})"
        where = f"task {benchmark.name}"
        raise UserError("task-prompt", where, what, "correct the task file") from error


def _render(
    benchmark: Benchmark,
    task: ConfigurableTask,
    item: TaskItem,
    *,
    text: Any = None,
    target: Any = None,
) -> int:
    """Number of choices of one item, 0 without choices. ValueError says what is wrong with it."""
    prompt = task.doc_to_text(item, text)
    if not isinstance(prompt, str):
        raise ValueError(f"doc_to_text gives {prompt!r:.60}, expected text")
    if not prompt.strip() and (prompt or benchmark.config["doc_to_text"] != ""):
        raise ValueError("doc_to_text gives an empty prompt")
    if task.OUTPUT_TYPE == "loglikelihood":
        word = task.doc_to_target(item, target)
        if not isinstance(word, str) or not word.strip():
            raise ValueError(f"doc_to_target gives {word!r:.60}, expected text")
        return 0
    choices = task.doc_to_choice(item)
    if not isinstance(choices, list) or not all(isinstance(c, str) for c in choices):
        raise ValueError(f"doc_to_choice gives {choices!r:.60}, expected a list of texts")
    if len(choices) < 2 or not all(choice.strip() for choice in choices):
        raise ValueError(f"doc_to_choice gives {choices!r:.60}, expected two or more, none empty")
    own = item.get("choices")
    if benchmark.reader != "raw" and own is not None and len(own) != len(choices):
        raise ValueError(f"doc_to_choice gives {len(choices)} choices, the item has {len(own)}")
    right_choice(task, item, target)
    return len(choices)


def right_choice(task: ConfigurableTask, item: TaskItem, target: Any = None) -> int:
    """Index of the right choice, which a task gives as a number or a text; 0 without choices.

    Raises ValueError for anything else.
    """
    if task.OUTPUT_TYPE == "loglikelihood":
        return 0
    found, choices = task.doc_to_target(item, target), task.doc_to_choice(item)
    if isinstance(found, str) and found in choices:
        return int(choices.index(found))
    if not isinstance(found, int) or isinstance(found, bool):
        raise ValueError(f"doc_to_target gives {found!r:.60}, neither a choice nor its number")
    if not 0 <= found < len(choices):
        raise ValueError(f"answer out of range: {found} with {len(choices)} choices")
    return found


def _chance(item: TaskItem, num_choices: int) -> float:
    if item.get("labels") and num_choices:
        return float(sum(item["labels"]) / len(item["labels"]))
    return 1 / num_choices if num_choices else 0.0


def _check_leak(benchmark: Benchmark, task: ConfigurableTask) -> None:
    """Raise UserError where the question depends on which choice is right."""
    for item in benchmark.scored_items[:NUM_LEAK_CHECKS]:
        if benchmark.reader == "raw" or "choices" not in item:
            continue
        other = {**item, "gold": (item["gold"] + 1) % len(item["choices"])}
        if task.doc_to_text(item) != task.doc_to_text(other):
            raise UserError(
                "task-leak",
                benchmark.name,
                "its doc_to_text changes with the right answer, which gives it away",
                "take the answer's field out of doc_to_text",
            )
