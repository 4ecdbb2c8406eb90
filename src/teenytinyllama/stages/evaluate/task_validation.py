"""Checks a task: every prompt, choice and right answer is rendered before a model is loaded.

A wrong task file or item would otherwise show after hours of scoring, or never: the harness scores
an answer that is out of range with 0, and a template that names four choices drops the fifth.
"""

from __future__ import annotations

import logging
import math
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.task import ConfigurableTask

from teenytinyllama.errors import UserError, did_you_mean
from teenytinyllama.stages.evaluate.benchmark import Benchmark, quiet_harness, reason_of
from teenytinyllama.stages.evaluate.choice_metrics import length_rule
from teenytinyllama.stages.evaluate.dataset_loading import TaskItem
from teenytinyllama.stages.evaluate.right_choice import (
    FROM_ZERO,
    TARGET_KINDS,
    choice_texts,
    kind_of_all,
    read_target,
    seems_from_one,
)

logger = logging.getLogger(__name__)

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
# Published sets have a few items with equal choices: those are scored and counted.
MAX_EQUAL_FRACTION = 0.02
NEVER_BY_LUCK = 0.001
MAX_ALIKE_FRACTION = 0.5  # more that differ in case only are a mistake in the task file


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
    _check_listed_choices(config.get("doc_to_choice"), problem)
    shots = config.get("num_fewshot")
    if shots is not None and (not isinstance(shots, int) or shots < 0):
        raise problem("task-key", f"num_fewshot is {shots!r}", "give a number from 0")
    target = benchmark.metadata.get("target")
    if target is not None and target not in TARGET_KINDS:
        what = f"metadata.target is {target!r:.60}, expected {' or '.join(TARGET_KINDS)}"
        raise problem("task-key", what, did_you_mean(str(target), TARGET_KINDS))
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


def _check_listed_choices(choices: Any, problem: Callable[[str, str, str], UserError]) -> None:
    """Raise UserError for choices listed in the task file that are not what they look like."""
    listed = list(choices.values()) if isinstance(choices, dict) else choices
    if not isinstance(listed, list):
        return
    if any(isinstance(choice, bool) for choice in listed):
        what = f"doc_to_choice is {listed}: YAML reads a bare yes or no as true or false"
        raise problem("task-key", what, 'put them in quotes: ["yes", "no"]')
    if any("{{" in str(choice) for choice in listed):
        what = "doc_to_choice lists templates, which are not rendered in a list"
        raise problem("task-key", what, 'write one template: "{{[first, second]}}"')


def check_items(benchmark: Benchmark) -> None:
    """Render every item and few-shot example, and set the items' chances.

    Raises UserError with file and line for what cannot be rendered or scored.
    """
    _set_target_kind(benchmark)
    task = benchmark.harness_task()
    examples = task.fewshot_cfg
    for split, rows in task.dataset.items():
        is_scored = split == benchmark.split
        how = {} if is_scored else {"text": examples.doc_to_text, "target": examples.doc_to_target}
        rendered = []
        for item, place in zip(rows, benchmark.places[split], strict=True):
            try:
                rendered.append(_render(benchmark, task, item, **how))
            except Exception as error:  # templates can raise anything
                is_ours = type(error) is ValueError
                what = (
                    str(error) if is_ours else f"its prompt cannot be rendered ({reason_of(error)})"
                )
                fix = "correct that line or the task file"
                if seems_from_one(what, [index for _, index in rendered]):
                    what, fix = f"{what}, and none is 0", FROM_ZERO
                raise UserError("task-prompt", place, what, fix) from error
        shown = [
            choices if benchmark.reader == "raw" else item.get("choices", choices)
            for item, (choices, _) in zip(rows, rendered, strict=True)
        ]
        equal = _check_choices_differ(shown, benchmark.places[split])
        if is_scored:
            benchmark.num_equal_choices = equal
            benchmark.chances = [
                _chance(item, len(choices))
                for item, (choices, _) in zip(rows, rendered, strict=True)
            ]
            _check_lengths(benchmark, rendered)
            _check_first_choice(benchmark, rendered)
    _check_leak(benchmark, task)
    try:
        with quiet_harness():
            task.fewshot_context(task.eval_docs[0], benchmark.num_fewshot)
    except Exception as error:
        count = benchmark.num_fewshot
        what = f"a prompt with {count} examples cannot be rendered ({reason_of(error)})"
        where = f"task {benchmark.name}"
        raise UserError("task-prompt", where, what, "correct the task file") from error


def _set_target_kind(benchmark: Benchmark) -> None:
    """Find out whether right answers that are numbers are texts or places among the choices.

    Raises UserError where that cannot be known.
    """
    said = benchmark.metadata.get("target")
    if said is not None or benchmark.config["output_type"] != "multiple_choice":
        benchmark.target_kind = said
        return
    if benchmark.reader != "raw":
        benchmark.target_kind = "index" if benchmark.config["doc_to_target"] == "gold" else None
        return
    task = benchmark.harness_task()
    if isinstance(task.config.doc_to_target, int):
        return
    readings, ambiguous = [], None
    for item, place in zip(task.eval_docs, benchmark.places[benchmark.split], strict=True):
        try:
            target, choices = task.raw_target(item), task.raw_choices(item)
            found = read_target(target, choice_texts(choices))
        except Exception:  # rendered again later, where the error is reported
            continue
        readings.append(found)
        # A column of numbers beside choices that are texts holds places by custom, not by rule.
        if found.differ and ambiguous is None:
            ambiguous = (
                place,
                target,
                found,
                not isinstance(target, str) and target not in choices,
            )
    benchmark.target_kind = kind_of_all(readings)
    if ambiguous is None or benchmark.target_kind == "index":
        return
    place, target, found, is_place_by_custom = ambiguous
    if benchmark.target_kind is None or is_place_by_custom:
        what = (
            f"its right answer {target!r} is the text of choice {found.as_text} and the number or "
            f"letter of choice {found.as_index}, counted from 0"
        )
        fix = "metadata: {target: text} or {target: index} in the task file"
        raise UserError("task-target", place, what, fix)
    logger.info(
        f"evaluate: {benchmark.name}: right answers that are numbers or letters are read as the "
        "text of a choice (metadata: {target: index} for its place)"
    )


def _check_choices_differ(choices: Sequence[Sequence[str]], places: Sequence[str]) -> int:
    """Number of items with two equal choices. UserError where they are more than a few."""
    equal = [n for n, item in enumerate(choices) if len(set(item)) < len(item)]
    if len(equal) > MAX_EQUAL_FRACTION * len(choices):
        what = f"two choices are equal, as in {len(equal)} of {len(choices)} items"
        raise UserError("task-equal-choices", places[equal[0]], what, "make the choices differ")
    alike = [n for n, item in enumerate(choices) if item and len(set(map(_folded, item))) == 1]
    if len(alike) > MAX_ALIKE_FRACTION * len(choices):
        what = f"its choices differ in case or spaces only, as in {len(alike)} of {len(choices)}"
        raise UserError("task-equal-choices", places[alike[0]], what, "make the choices differ")
    return len(equal)


def _folded(text: str) -> str:
    """A text without case, spaces around it, and differences of Unicode's forms."""
    return unicodedata.normalize("NFKC", text).casefold().strip()


def _check_lengths(benchmark: Benchmark, rendered: Sequence[tuple[list[str], int]]) -> None:
    """Name a task whose right choices can be told by their length."""
    if (
        benchmark.config["output_type"] != "multiple_choice"
        or "labels" in benchmark.scored_items[0]
    ):
        return
    choices, right = [c for c, _ in rendered], [index for _, index in rendered]
    benchmark.length_rule = rule = length_rule(choices, right, benchmark.chance)
    if rule is not None:
        logger.info(
            f"evaluate: {benchmark.name}: lengths give the answer away: the "
            f"{rule['choose']} choice is right in {100 * rule['accuracy']:.1f} % "
            f"(chance {100 * benchmark.chance:.1f})"
        )


def _check_first_choice(benchmark: Benchmark, rendered: Sequence[tuple[list[str], int]]) -> None:
    """Name a task whose first choice is never right: its answers may count from 1."""
    by_luck = math.prod(1 - chance for chance in benchmark.chances)
    if by_luck < NEVER_BY_LUCK and all(index for _, index in rendered):
        logger.warning(
            f"evaluate: {benchmark.name}: the first choice is right in none of "
            f"{len(rendered)} items: do its answers count from 1? {FROM_ZERO}"
        )


def _render(
    benchmark: Benchmark,
    task: ConfigurableTask,
    item: TaskItem,
    *,
    text: Any = None,
    target: Any = None,
) -> tuple[list[str], int]:
    """Choices of one item, none for a last word, and the index of the right one.

    ValueError says what is wrong with it.
    """
    prompt = task.doc_to_text(item, text)
    if not isinstance(prompt, str):
        raise ValueError(f"doc_to_text gives {prompt!r:.60}, expected text")
    if not prompt.strip() and (prompt or benchmark.config["doc_to_text"] != ""):
        raise ValueError("doc_to_text gives an empty prompt")
    if task.OUTPUT_TYPE == "loglikelihood":
        word = task.doc_to_target(item, target)
        if not isinstance(word, str) or not word.strip():
            raise ValueError(f"doc_to_target gives {word!r:.60}, expected text")
        return [], 0
    choices = task.doc_to_choice(item)
    if not isinstance(choices, list) or not all(isinstance(c, str) for c in choices):
        raise ValueError(f"doc_to_choice gives {choices!r:.60}, expected a list of texts")
    if len(choices) < 2 or not all(choice.strip() for choice in choices):
        raise ValueError(f"doc_to_choice gives {choices!r:.60}, expected two or more, none empty")
    own = item.get("choices")
    if benchmark.reader != "raw" and own is not None and len(own) != len(choices):
        raise ValueError(f"doc_to_choice gives {len(choices)} choices, the item has {len(own)}")
    return choices, right_choice(task, item, target)


def right_choice(task: ConfigurableTask, item: TaskItem, target: Any = None) -> int:
    """Index of the right choice; 0 without choices.

    Raises ValueError where the task gives neither a choice nor its number.
    """
    if task.OUTPUT_TYPE == "loglikelihood":
        return 0
    found, choices = task.doc_to_target(item, target), task.doc_to_choice(item)
    is_number = isinstance(found, int) and not isinstance(found, bool)
    if isinstance(found, str) and task.target_kind != "text" and found.strip().isdecimal():
        found, is_number = int(found), True
    if not is_number:
        expected = "neither a choice nor its number"
        if task.target_kind is not None:
            expected = "not a choice's " + ("text" if task.target_kind == "text" else "number")
        raise ValueError(f"doc_to_target gives {found!r:.60}, {expected}")
    if not 0 <= found < len(choices):
        raise ValueError(f"answer out of range: {found} with {len(choices)} choices")
    return int(found)


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
