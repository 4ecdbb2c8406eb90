"""`ttl evaluate --signal`: which tasks tell models of this size apart, from runs of several seeds.

The criteria are those of FineTasks (Kydlíček et al. 2024): above chance, rising while the model
trains, little noise between seeds, a stable order. Read from what the runs hold; nothing is scored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean, variance
from typing import Any, cast

from teenytinyllama.artifacts.json_lines import read_last_lines
from teenytinyllama.console import aligned
from teenytinyllama.errors import UserError
from teenytinyllama.stages.report.number_format import is_number, percent
from teenytinyllama.stages.report.page_blocks import (
    Block,
    Cell,
    Column,
    Note,
    Page,
    Section,
    Stat,
    StatRow,
    Table,
    numbers,
)
from teenytinyllama.stages.report.run_comparison import STYLES, different_settings
from teenytinyllama.stages.report.run_record import RunRecord, read_run
from teenytinyllama.stages.report.sections_scores import tasks_of
from teenytinyllama.stages.report.sections_training import make_chart
from teenytinyllama.stages.report.svg_chart import Axes, Series

MIN_RISE = 0.5  # Spearman; FineTasks' threshold
MIN_SIGNAL_TO_NOISE = 3.0  # standard deviations between seeds above chance
MIN_ORDER = 1 / 3  # Kendall: two of three pairs of checkpoints in the same order
MIN_CHECKPOINTS = 4  # three are in order by chance in one case of six
UNKNOWN = "unknown"
Curve = dict[int, float]  # accuracy by step


@dataclass(frozen=True)
class TaskSignal:
    """The four criteria for one task. None: these runs cannot say."""

    task: str
    chance: float
    accuracy: float  # of the final models, their mean
    above_chance: bool  # in every run, by the score's 95 % interval
    rise: float | None  # Spearman of step and accuracy, mean over runs
    signal_to_noise: float | None  # (accuracy - chance) / standard deviation between seeds
    order: float | None  # Kendall of two seeds' checkpoints, mean over pairs
    curves: Sequence[Curve]

    @property
    def normalized(self) -> float:
        """0 at chance, 1 where everything is right."""
        return (self.accuracy - self.chance) / (1 - self.chance)

    @property
    def failed(self) -> list[str]:
        """What speaks against the task, in words."""
        values = (
            ("at chance", 1.0 if self.above_chance else 0.0, 1.0),
            ("does not rise", self.rise, MIN_RISE),
            ("noise between seeds", self.signal_to_noise, MIN_SIGNAL_TO_NOISE),
            ("order of checkpoints differs between seeds", self.order, MIN_ORDER),
        )
        return [words for words, value, least in values if value is not None and value < least]

    @property
    def carries(self) -> bool | None:
        """Whether the task carries signal; None where a criterion is unknown and none failed."""
        if self.failed:
            return False
        return None if None in (self.rise, self.signal_to_noise, self.order) else True

    @property
    def recommendation(self) -> str:
        """What to do with the task, in words."""
        if self.failed:
            return f"leave out: {', '.join(self.failed)}"
        if self.rise is None:
            return f"undecided: fewer than {MIN_CHECKPOINTS} checkpoints have scores"
        if self.carries is None and len(self.curves) == 1:
            return "undecided: one run has no noise between seeds; train two more seeds"
        return "use" if self.carries else "undecided: the seeds share too few checkpoints"


def measure(run_dirs: Sequence[Path]) -> list[TaskSignal]:
    """The signal of every task of runs that differ in their seed.

    Raises UserError for runs without scored tasks or checkpoints, with other tasks or texts, or
    of one seed.
    """
    if len(run_dirs) > len(STYLES):
        what = f"{len(run_dirs)} runs given, at most {len(STYLES)} are drawn"
        raise UserError("too-many-runs", "ttl evaluate --signal", what, "name fewer runs")
    runs = [read_run(folder) for folder in run_dirs]
    found = [_tasks(run, folder) for run, folder in zip(runs, run_dirs, strict=True)]
    for run, tasks, folder in zip(runs[1:], found[1:], run_dirs[1:], strict=True):
        _check_alike(runs[0], run, f"{folder} and {run_dirs[0]}")
        _check_tasks(found[0], tasks, f"{folder} and {run_dirs[0]}")
    _check_seeds(runs, run_dirs)
    curves = {task: [_curve(run, task) for run in runs] for task in found[0]}
    if not any(len(curve) > 1 for of_task in curves.values() for curve in of_task):
        raise UserError(
            "signal-checkpoints",
            str(run_dirs[0]),
            "none of its checkpoints has scores, so no task can be seen to rise",
            "train in a new folder with --set evaluate.items_during_training=100, or set "
            "evaluate.checkpoints = true where checkpoints were kept",
        )
    return [
        _measure(task, [tasks[task] for tasks in found], of_task)
        for task, of_task in curves.items()
    ]


def _measure(task: str, finals: Sequence[Mapping[str, Any]], curves: Sequence[Curve]) -> TaskSignal:
    chance, accuracy = finals[0]["chance"], fmean(final["accuracy"] for final in finals)
    is_long = all(len(curve) >= MIN_CHECKPOINTS for curve in curves)
    shared = sorted(set.intersection(*(set(curve) for curve in curves)))
    noise = order = None
    if len(curves) > 1 and len(shared) >= MIN_CHECKPOINTS:
        late = shared[len(shared) // 2 :]
        scores = [[curve[step] for curve in curves] for step in late]
        spread = fmean(map(variance, scores)) ** 0.5
        above = fmean(map(fmean, scores)) - chance
        # No spread: equal in all seeds.
        noise = above / spread if spread else math.inf if above > 0 else 0.0
        same = [[curve[step] for step in shared] for curve in curves]
        order = fmean(_correlation("kendalltau", a, b) for a, b in combinations(same, 2))
    return TaskSignal(
        task=task,
        chance=chance,
        accuracy=accuracy,
        above_chance=not any(final["at_chance"] for final in finals),
        rise=fmean(_correlation("spearmanr", list(c), list(c.values())) for c in curves)
        if is_long
        else None,
        signal_to_noise=noise,
        order=order,
        curves=curves,
    )


def _correlation(name: str, one: Sequence[float], other: Sequence[float]) -> float:
    """A rank correlation; 0 where a side never changes, which follows nothing."""
    from scipy import stats

    if len(set(one)) < 2 or len(set(other)) < 2:
        return 0.0
    return float(getattr(stats, name)(one, other).statistic)


def _tasks(run: RunRecord, folder: Path) -> Mapping[str, Mapping[str, Any]]:
    stage = run.stage("evaluate")
    tasks = tasks_of(stage) if stage else {}
    if not tasks:
        what = "has no scores of tasks" if stage else "has no finished evaluate stage"
        fix = "name tasks in [evaluate] and run ttl evaluate on its recipe"
        raise UserError("signal-unscored", str(folder), what, fix)
    return tasks


def _curve(run: RunRecord, task: str) -> Curve:
    """Accuracy by step: of all items where checkpoints were scored, else of those in training."""
    evaluate, pretrain = run.stage("evaluate"), run.folder("pretrain")
    kept = (evaluate.metric("checkpoints") if evaluate else None) or []
    curve = {one["step"]: one["tasks"][task]["accuracy"] for one in kept if task in one["tasks"]}
    if len(curve) >= MIN_CHECKPOINTS or pretrain is None:
        return curve
    key = f"{task}_accuracy"
    logged = read_last_lines(pretrain / "metrics.jsonl")
    return {line["step"]: line[key] for line in logged if is_number(line.get(key))} or curve


def _check_alike(first: RunRecord, other: RunRecord, where: str) -> None:
    stages = [stage for run in (first, other) if (stage := run.stage("evaluate"))]
    texts = [stage.metric("heldout_text") for stage in stages]
    if texts[0] != texts[1]:
        what = "have other held-out texts, so other training texts"
        fix = "train the seeds with --set pretrain.seed=N on one recipe"
        raise UserError("signal-texts", where, what, fix)


def _check_tasks(
    first: Mapping[str, Mapping[str, Any]], other: Mapping[str, Mapping[str, Any]], where: str
) -> None:
    def identity(task: Mapping[str, Any] | None) -> Any:
        return task and tuple(task.get(key) for key in ("metric", "num_items", "chance"))

    differ = [
        name
        for name in sorted({*first, *other})
        if identity(first.get(name)) != identity(other.get(name))
    ]
    if differ:
        what = f"were not scored on the same tasks: {', '.join(differ)}"
        raise UserError("signal-tasks", where, what, "score them with one [evaluate] section")


def _check_seeds(runs: Sequence[RunRecord], run_dirs: Sequence[Path]) -> None:
    seeds: dict[Any, Path] = {}
    for run, folder in zip(runs, run_dirs, strict=True):
        seed = run.recipe.get("pretrain", {}).get("seed", 0)
        if seed in seeds:
            what = f"both have pretrain.seed = {seed}: there is no noise between them"
            fix = "train another with --set pretrain.seed=N --run-dir DIR"
            raise UserError("signal-seed", f"{folder} and {seeds[seed]}", what, fix)
        seeds[seed] = folder


def text_of(signals: Sequence[TaskSignal]) -> str:
    """The table and what it comes to, for a terminal."""
    rows = [[column.title for column in COLUMNS]]
    rows += [[cell.text for cell in row] for row in _rows(signals)]
    return "\n".join((*aligned(rows, right=False), "", _summary(signals)))


COLUMNS = (
    Column("task"),
    *numbers("accuracy", "chance", "rise", "signal/noise", "order"),
    Column("recommendation"),
)


def _rows(signals: Sequence[TaskSignal]) -> Iterator[tuple[Cell, ...]]:
    for one in signals:
        tone = {True: "good", False: "warn", None: "quiet"}[one.carries]
        yield (
            Cell(one.task),
            Cell(percent(one.accuracy)),
            Cell(percent(one.chance)),
            *(
                Cell(UNKNOWN if value is None else f"{value:.2f}")
                for value in (one.rise, one.signal_to_noise, one.order)
            ),
            Cell(one.recommendation, tone=cast(Any, tone)),
        )


def normalized_mean(signals: Sequence[TaskSignal]) -> float | None:
    """Mean of (accuracy - chance) / (1 - chance) over the tasks that carry signal, else None.

    PoETa v2 calls it NPM, Normalized Preferred Metric, and gives it in per cent.
    """
    used = [one.normalized for one in signals if one.carries]
    return fmean(used) if used else None


def _summary(signals: Sequence[TaskSignal]) -> str:
    mean, used = normalized_mean(signals), sum(one.carries is True for one in signals)
    if mean is None:
        return "No normalised mean: no task is known to carry signal."
    words = f"{100 * mean:.1f}, over {used} of {len(signals)} tasks"
    return f"Normalised mean (0: chance, 100: all right): {words}"


def signal_page(signals: Sequence[TaskSignal], run_dirs: Sequence[Path]) -> Page:
    """The table and a curve a task as a page of the report."""
    runs = [read_run(folder) for folder in run_dirs]
    table = Table(
        "signal",
        "Signal by task",
        COLUMNS,
        tuple(_rows(signals)),
        "evaluate/manifest.json, pretrain/metrics.jsonl",
        note=f"Asked for: above chance in every run, rise (Spearman) {MIN_RISE}, signal to noise "
        f"{MIN_SIGNAL_TO_NOISE:.0f}, order (Kendall) {MIN_ORDER:.2f}.",
    )
    blocks: list[Block] = [table, Note(_summary(signals))]
    differ = [
        name
        for name, _ in different_settings(runs)
        if name != "pretrain.seed" and not name.startswith(("evaluate.", "report."))
    ]
    if differ:
        words = f"The runs differ in more than their seed: {', '.join(differ)}."
        blocks.append(Note(words, tone="warn"))
    for number, one in enumerate(signals):
        lines = [
            Series(str(folder), [(s, 100 * y) for s, y in curve.items()], tone, dashed, dots=True)
            for folder, curve, (tone, dashed) in zip(run_dirs, one.curves, STYLES, strict=False)
        ]
        steps = [step for curve in one.curves for step in curve]
        if steps:
            ends = [(float(step), 100 * one.chance) for step in (min(steps), max(steps))]
            lines.append(Series("chance", ends, "quiet", dashed=True))
        chart = make_chart(f"signal-{number}", one.task, lines, Axes("step", "accuracy, per cent"))
        if chart is not None:
            blocks.append(chart)
    mean = normalized_mean(signals)
    headline = StatRow(
        (
            Stat("tasks that carry signal", f"{sum(s.carries is True for s in signals)}"),
            Stat("normalised mean", UNKNOWN if mean is None else percent(mean)),
        )
    )
    section = Section("signal", "Signal", blocks)
    return Page("Signal of tasks", "", runs[0].language, headline, (section,))
