"""The parts of the page on other models and on checkpoints: the same items, scored the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from teenytinyllama.stages.report import paper
from teenytinyllama.stages.report.blocks import Block, Cell, Column, Table
from teenytinyllama.stages.report.chart import Axes, Series
from teenytinyllama.stages.report.gather import Receipt
from teenytinyllama.stages.report.sections_scores import score_cells, tasks_of
from teenytinyllama.stages.report.sections_training import make_chart
from teenytinyllama.stages.report.wording import count, decimal, energy, is_number, percent, short

MANIFEST = "scores/manifest.json"
# A chart of more lines is not read; the table has them all.
MAX_TASKS_DRAWN = 3
TONES: Any = ("1", "2", "3")


def other_models(room: Receipt) -> list[Block]:
    """Our model and others on the same held-out text and items (paper, Table 4)."""
    others = room.figure("models")
    if not isinstance(others, Mapping) or not others:
        return []
    found: dict[str, Mapping[str, Any]] = {"this model": room.manifest.figures, **others}
    names = list(tasks_of(room))
    rows = []
    for name, figures in found.items():
        tasks = figures.get("tasks")
        cells = []
        for task in names:
            scored = tasks.get(task) if isinstance(tasks, Mapping) else None
            cells.append(score_cells(scored)[1] if scored else Cell("–"))
        bits = Cell(decimal(figures.get("heldout_bits_per_byte"), 4))
        rows.append((Cell(name, tone="good" if name == "this model" else ""), bits, *cells))
    return [
        Table(
            "models",
            "Beside other models",
            (Column("model"), Column("bits per byte", True), *(Column(name) for name in names)),
            tuple(rows),
            MANIFEST,
            note="The same items, prompts and protocol for all. Per task: the 95 % interval, per "
            "cent; the tick is chance.",
        )
    ]


def checkpoints(room: Receipt) -> list[Block]:
    """Scores along the training (paper, Figure 2), against tokens and energy."""
    found = room.figure("checkpoints")
    if not isinstance(found, list) or not found:
        return []
    lines = [line for line in found if isinstance(line, Mapping)]
    names = [name for name in tasks_of(room)]
    chart = _curve(lines, names)
    return [*([chart] if chart is not None else []), _table(lines, names)]


def _accuracy(line: Mapping[str, Any], task: str) -> Any:
    tasks = line.get("tasks")
    scored = tasks.get(task) if isinstance(tasks, Mapping) else None
    return scored.get("accuracy") if isinstance(scored, Mapping) else None


def _curve(lines: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Any:
    series = []
    for name, tone in zip(names, TONES[:MAX_TASKS_DRAWN], strict=False):
        points = [
            (line["tokens"], 100 * _accuracy(line, name))
            for line in lines
            if is_number(line.get("tokens")) and is_number(_accuracy(line, name))
        ]
        series.append(Series(name, points, tone, dots=True))
    if any("arc" in name.lower() for name in names):
        theirs = [(tokens, 100 * accuracy) for tokens, accuracy in paper.arc_accuracies()]
        series.append(Series("paper, 460m, ARC-Challenge", theirs, "quiet", dots=True))
    return make_chart(
        "checkpoint_scores",
        "Scores along the training (paper, Figure 2)",
        series,
        Axes("tokens seen", "accuracy, per cent", log_x=True),
        source=f"{MANIFEST}; {paper.SOURCE}",
    )


def _table(lines: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table:
    rows = []
    for line in lines:
        used = line.get("energy")
        # A reading holds the three parts of the energy, then kilograms of carbon.
        kwh = sum(used[:3]) if isinstance(used, list) and all(map(is_number, used)) else None
        rows.append(
            (
                Cell(count(line.get("step"))),
                Cell(short(line.get("tokens"))),
                Cell(energy(kwh)),
                Cell(decimal(line.get("heldout_bits_per_byte"), 4)),
                *(Cell(percent(_accuracy(line, name))) for name in names),
            )
        )
    columns = (
        Column("step", True),
        Column("tokens", True),
        Column("energy so far", True),
        Column("bits per byte", True),
        *(Column(name, True) for name in names),
    )
    return Table("checkpoint_scores_table", "Checkpoints", columns, tuple(rows), MANIFEST)
