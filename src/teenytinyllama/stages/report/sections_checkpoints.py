"""Other models and checkpoints, scored on the same items in the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from teenytinyllama.stages.report.number_format import (
    count,
    decimal,
    energy,
    is_number,
    mass,
    percent,
    short,
)
from teenytinyllama.stages.report.page_blocks import Block, Cell, Column, Table, numbers
from teenytinyllama.stages.report.run_record import FinishedStage
from teenytinyllama.stages.report.sections_scores import interval_of, score_cells, tasks_of
from teenytinyllama.stages.report.sections_training import (
    PAPER_SOURCE,
    arc_accuracies,
    make_chart,
    perplexities_by_energy,
)
from teenytinyllama.stages.report.svg_chart import Axes, Series

MANIFEST = "evaluate/manifest.json"
# More lines make a chart unreadable; the table has all tasks.
MAX_TASKS_DRAWN = 3
TONES: Any = ("1", "2", "3")


def model_comparison(stage: FinishedStage) -> list[Block]:
    """Our model and others on the same held-out text and items (paper, Table 4)."""
    others = stage.metric("models")
    if not isinstance(others, Mapping) or not others:
        return []
    found: dict[str, Mapping[str, Any]] = {"this model": stage.manifest.metrics, **others}
    names = list(tasks_of(stage))
    rows = []
    for name, metrics in found.items():
        tasks = metrics.get("tasks")
        cells = []
        for task in names:
            scored = tasks.get(task) if isinstance(tasks, Mapping) else None
            cells.append(score_cells(scored)[1] if scored else Cell("–"))
        bits = Cell(decimal(metrics.get("heldout_bits_per_byte"), 4))
        rows.append((Cell(name, tone="good" if name == "this model" else ""), bits, *cells))
    return [
        Table(
            "models",
            "Compared with other models",
            (Column("model"), *numbers("bits per byte"), *(Column(name) for name in names)),
            tuple(rows),
            MANIFEST,
            note="All models: same items, prompts and protocol. Per task: the 95 % interval in per "
            "cent; tick: chance level.",
        )
    ]


def checkpoint_blocks(stage: FinishedStage) -> list[Block]:
    """Scores during training against tokens and energy (paper, Figure 2)."""
    found = stage.metric("checkpoints")
    if not isinstance(found, list) or not found:
        return []
    lines = [line for line in found if isinstance(line, Mapping)]
    names = list(tasks_of(stage))
    charts = [chart for chart in (_curve(lines, names), _by_energy(lines)) if chart is not None]
    return [*charts, _table(lines, names)]


def _accuracy(line: Mapping[str, Any], task: str) -> Any:
    return _scored(line, task).get("accuracy")


def _scored(line: Mapping[str, Any], task: str) -> Mapping[str, Any]:
    tasks = line.get("tasks")
    found = tasks.get(task) if isinstance(tasks, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _curve(lines: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Any:
    series = []
    for name, tone in zip(names, TONES[:MAX_TASKS_DRAWN], strict=False):
        points, band = [], []
        for line in lines:
            x, found = line.get("tokens"), _scored(line, name)
            interval = interval_of(found)
            if is_number(x) and is_number(found.get("accuracy")):
                points.append((x, 100 * found["accuracy"]))
                low, high = interval or (found["accuracy"],) * 2
                band.append(((x, 100 * low), (x, 100 * high)))
        series.append(Series(name, points, tone, dots=True, band=band))
    if any("arc" in name.lower() for name in names):
        theirs = [(tokens, 100 * accuracy) for tokens, accuracy in arc_accuracies()]
        series.append(Series("paper, 460m, ARC-Challenge", theirs, "quiet", dots=True))
    return make_chart(
        "checkpoint_scores",
        "Scores during training (paper, Figure 2)",
        series,
        Axes("tokens seen", "accuracy, per cent", log_x=True),
        source=f"{MANIFEST}; {PAPER_SOURCE}",
        note="Band: 95 % interval; a rise or fall inside it may be chance."
        + (f" All {len(names)} tasks are in the table." if len(names) > MAX_TASKS_DRAWN else ""),
    )


def _by_energy(lines: Sequence[Mapping[str, Any]]) -> Any:
    """Held-out perplexity against energy, with the paper's two models (its Table 6)."""
    ours = [
        (kwh, line["heldout_perplexity"])
        for line in lines
        if is_number(line.get("heldout_perplexity")) and is_number(kwh := _kwh(line)) and kwh > 0
    ]
    if not ours:
        return None
    return make_chart(
        "perplexity_by_energy",
        "Perplexity against energy (paper, Table 6)",
        [
            Series("this run", ours, dots=True),
            Series("paper, 160m", perplexities_by_energy("160m"), "2", dots=True),
            Series("paper, 460m", perplexities_by_energy("460m"), "3", dots=True),
        ],
        Axes("energy so far", "held-out perplexity", log_x=True, write_x=_round_energy),
        source=f"{MANIFEST}; {PAPER_SOURCE}",
        note="Logarithmic energy axis; energy of GPUs as measured, if any, plus CPU and memory "
        "as modelled. "
        "Perplexity depends on tokenizer and text: compare only the shapes.",
    )


def _round_energy(kwh: float) -> str:
    """Energy at a tick of an axis: `100 kWh`, not `100.00 kWh`."""
    return f"{kwh:,.4g} kWh" if kwh >= 1 else f"{1000 * kwh:.4g} Wh"


def _kwh(line: Mapping[str, Any]) -> float | None:
    used = line.get("energy")
    # A reading is three parts of energy in kWh, then kilograms of CO2 equivalent.
    return sum(used[:3]) if isinstance(used, list) and all(map(is_number, used)) else None


def _table(lines: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table:
    rows = []
    for line in lines:
        used = line.get("energy")
        carbon = used[3] if isinstance(used, list) and len(used) > 3 else None
        rows.append(
            (
                Cell(count(line.get("step"))),
                Cell(short(line.get("tokens"))),
                Cell(energy(_kwh(line))),
                Cell(mass(carbon)),
                Cell(decimal(line.get("heldout_perplexity"), 2)),
                Cell(decimal(line.get("heldout_bits_per_byte"), 4)),
                *(Cell(percent(_accuracy(line, name))) for name in names),
            )
        )
    columns = numbers(
        "step", "tokens", "energy so far", "CO₂eq so far", "perplexity", "bits per byte", *names
    )
    title = "Checkpoints (paper, Table 6 and Figure 2)"
    return Table("checkpoint_scores_table", title, columns, tuple(rows), MANIFEST)
