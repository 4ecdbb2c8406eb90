"""Is a task sound? Every prompt, choice and right answer is rendered before a model is loaded.

A wrong task file or item otherwise shows after hours of scoring, or never: the harness gives an
answer that is out of range a score of 0, and a template that names four choices drops the fifth.
"""

from __future__ import annotations

from typing import Any

from lm_eval.api.task import ConfigurableTask

from teenytinyllama.errors import UserError, did_you_mean
from teenytinyllama.stages.evaluate.benchmark import Benchmark, quiet_harness, reason_of
from teenytinyllama.stages.evaluate.dataset_loading import Item

# What the harness computes for each kind of task; the rest of its metrics it would leave out.
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
# Those that are one number an item, 0 to 1, and so can be an accuracy.
HEADLINES = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match")
DEFAULT_METRICS = {"multiple_choice": ("acc", "acc_norm"), "loglikelihood": ("acc", "perplexity")}
NUM_LEAK_CHECKS = 5  # one would do: a template is the same for all


def check_definition(bench: Benchmark) -> None:
    """Raises UserError for a task file that cannot be scored, whatever its items are."""

    def fault(code: str, what: str, fix: str) -> UserError:
        return UserError(code, f"task {bench.name}", what, fix)

    config = bench.config
    kind = config.get("output_type")
    if kind not in METRICS:
        what = f"output_type is {kind or 'missing'}, expected {' or '.join(METRICS)}"
        raise fault("task-output-type", what, "free generation and rolling text are not scored")
    needed = ["doc_to_text", "doc_to_target"] + ["doc_to_choice"] * (kind == "multiple_choice")
    for key in needed:
        if config.get(key) is None:
            raise fault("task-key", f"{key} is missing", f"add {key} to the task file")
    shots = config.get("num_fewshot")
    if shots is not None and (not isinstance(shots, int) or shots < 0):
        raise fault("task-key", f"num_fewshot is {shots!r}", "give a number from 0")
    listed = config.get("metric_list")
    if listed is None:
        names: list[Any] = list(DEFAULT_METRICS[kind])
    elif isinstance(listed, list) and all(isinstance(m, dict) and "metric" in m for m in listed):
        names = [metric["metric"] for metric in listed]
    else:
        what = f"metric_list is {listed!r:.60}, expected entries like {{metric: acc}}"
        raise fault("task-metric", what, "correct the task file")
    known = names if config.get("process_results") else METRICS[kind]
    for name in names:
        if name not in known:
            what = f'metric "{name}" is none of {kind}'
            raise fault("task-metric", what, did_you_mean(str(name), known))
    fit = [name for name in names if name in HEADLINES]
    if bench.headline not in fit:
        what = f'metadata.headline "{bench.headline}" is none of its metrics ({", ".join(fit)})'
        raise fault("task-headline", what, "name one of metric_list, or add it there")


def check_items(bench: Benchmark) -> None:
    """Render every item, examples too. Raises UserError with file and line; sets the chances."""
    task = bench.harness_task()
    examples = task.fewshot_cfg
    for split, rows in task.dataset.items():
        is_scored = split == bench.split
        how = {} if is_scored else {"text": examples.doc_to_text, "target": examples.doc_to_target}
        for item, place in zip(rows, bench.places[split], strict=True):
            try:
                num_choices = _render(bench, task, item, **how)
            except Exception as error:  # templates can raise anything
                plain = type(error) is ValueError
                what = str(error) if plain else f"its prompt cannot be made ({reason_of(error)})"
                fix = "correct that line or the task file"
                raise UserError("task-prompt", place, what, fix) from error
            if is_scored:
                bench.chances.append(_chance(item, num_choices))
    _check_leak(bench, task)
    try:
        with quiet_harness():
            task.fewshot_context(task.eval_docs[0], bench.num_fewshot)
    except Exception as error:
        what = f"a prompt with {bench.num_fewshot} examples cannot be made ({reason_of(error)})"
        raise UserError("task-prompt", f"task {bench.name}", what, "correct the task file") from (
            error
        )


def _render(
    bench: Benchmark, task: ConfigurableTask, item: Item, *, text: Any = None, target: Any = None
) -> int:
    """Number of choices of one item, 0 for free words. ValueError says what is wrong with it."""
    prompt = task.doc_to_text(item, text)
    if not isinstance(prompt, str):
        raise ValueError(f"doc_to_text gives {prompt!r:.60}, expected text")
    if not prompt.strip() and (prompt or bench.config["doc_to_text"] != ""):
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
    if bench.reader != "raw" and own is not None and len(own) != len(choices):
        raise ValueError(f"doc_to_choice gives {len(choices)} choices, the item has {len(own)}")
    right_choice(task, item, target)
    return len(choices)


def right_choice(task: ConfigurableTask, item: Item, target: Any = None) -> int:
    """Place of the right choice: the harness takes its number or its text. 0 for free words.

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


def _chance(item: Item, num_choices: int) -> float:
    if item.get("labels") and num_choices:
        return float(sum(item["labels"]) / len(item["labels"]))
    return 1 / num_choices if num_choices else 0.0


def _check_leak(bench: Benchmark, task: ConfigurableTask) -> None:
    """The question must read the same whichever choice is right."""
    for item in bench.scored_items[:NUM_LEAK_CHECKS]:
        if bench.reader == "raw" or "choices" not in item:
            continue
        other = {**item, "gold": (item["gold"] + 1) % len(item["choices"])}
        if task.doc_to_text(item) != task.doc_to_text(other):
            raise UserError(
                "task-leak",
                bench.name,
                "its doc_to_text changes with the right answer: the question gives it away",
                "take the answer's field out of doc_to_text",
            )
