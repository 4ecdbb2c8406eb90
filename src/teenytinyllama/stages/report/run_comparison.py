"""The page that compares runs: metrics, settings that differ, curves, scores."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from teenytinyllama.artifacts.json_lines import read_last_lines
from teenytinyllama.errors import UserError
from teenytinyllama.stages.report.number_format import (
    NOT_RUN,
    count,
    decimal,
    duration,
    energy,
    is_number,
    money,
    percent,
    short,
)
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
from teenytinyllama.stages.report.run_record import RunRecord, read_run
from teenytinyllama.stages.report.sections_run import stage_kwh, total_cost_usd
from teenytinyllama.stages.report.sections_scores import (
    bits_per_english_byte,
    score_cells,
    tasks_of,
)
from teenytinyllama.stages.report.sections_training import make_chart, points
from teenytinyllama.stages.report.svg_chart import Axes, Series

OTHER_TEXTS = (
    "These runs have different held-out texts, or do not say which: their bits per byte and "
    "perplexities are of different texts and do not rank them."
)
# Colour and dash of each line; more than six lines make a chart unreadable.
STYLES: Any = (("1", False), ("2", False), ("3", False), ("1", True), ("2", True), ("3", True))


def compare_page(run_dirs: Sequence[Path]) -> Page:
    """The page that compares several runs. Raises UserError for more than six."""
    if len(run_dirs) > len(STYLES):
        what = f"{len(run_dirs)} runs given, at most {len(STYLES)} can be compared"
        raise UserError("too-many-runs", "ttl report", what, "name fewer runs")
    runs = [read_run(folder) for folder in run_dirs]
    names = _names(runs, run_dirs)
    sections = [make(runs, names) for make in (_metrics, _settings, _curves, _scores)]
    best = Stat("lowest held-out bits per byte", *_best(runs, names), tone=_tone(runs))
    headline = StatRow((Stat("runs", count(len(runs))), best))
    return Page(" · ".join(names), "Comparison of runs.", runs[0].language, headline, sections)


def _names(runs: Sequence[RunRecord], run_dirs: Sequence[Path]) -> list[str]:
    """Names of the runs, or their folders if two runs have the same name."""
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [str(folder) for folder in run_dirs]


def _bits_per_byte(run: RunRecord) -> Any:
    stage = run.stage("evaluate")
    return stage.metric("heldout_bits_per_byte") if stage else None


def _heldout_text(run: RunRecord) -> Any:
    """What tells a run's held-out text from another's; None where it has none or does not say."""
    stage = run.stage("evaluate")
    return stage.metric("heldout_text") if stage else None


def _share_text(runs: Sequence[RunRecord]) -> bool:
    """Whether all scored runs were scored on the same held-out text."""
    texts = [_heldout_text(run) for run in runs if is_number(_bits_per_byte(run))]
    return len(texts) < 2 or (None not in texts and len(set(texts)) == 1)


def _tone(runs: Sequence[RunRecord]) -> Any:
    return "" if _share_text(runs) else "warn"


def _best(runs: Sequence[RunRecord], names: Sequence[str]) -> tuple[str, str]:
    if not _share_text(runs):
        return "not ranked", "each run was scored on another held-out text"
    found = [(_bits_per_byte(run), name) for run, name in zip(runs, names, strict=True)]
    known = [(value, name) for value, name in found if is_number(value)]
    return (decimal(min(known)[0], 4), min(known)[1]) if known else (NOT_RUN, "")


def _metrics(runs: Sequence[RunRecord], names: Sequence[str]) -> Section:
    def of(stage: str, kind: str, *path: str) -> Callable[[RunRecord], Any]:
        return lambda run: getattr(run.stage(stage), kind)(*path) if run.stage(stage) else None

    rows: tuple[tuple[str, Callable[[RunRecord], Any], Callable[[Any], str]], ...] = (
        ("parameters", of("pretrain", "count", "parameters"), count),
        ("vocabulary", of("tokenizer", "count", "vocab_size"), count),
        ("tokens per word", of("tokenizer", "metric", "all", "tokens_per_word"), decimal),
        ("training tokens", of("pack", "count", "tokens_train"), short),
        ("tokens seen", of("pretrain", "count", "tokens"), short),
        ("steps", of("pretrain", "count", "steps"), count),
        ("training time", of("pretrain", "metric", "training_seconds"), duration),
        ("tokens per second", of("pretrain", "metric", "mean_tokens_per_s"), short),
        ("MFU, of the data sheet's peak", of("pretrain", "metric", "mfu"), percent),
        ("share of the measured peak", of("pretrain", "metric", "share_of_measured_peak"), percent),
        ("held-out bits per byte", _bits_per_byte, lambda value: decimal(value, 4)),
        (
            "bits per English byte",
            lambda run: bits_per_english_byte(_bits_per_byte(run), run.language),
            lambda value: decimal(value, 4),
        ),
        ("held-out perplexity", of("evaluate", "metric", "heldout_perplexity"), decimal),
        ("total energy", lambda run: sum(map(stage_kwh, run.stages.values())), energy),
        ("total cost", total_cost_usd, money),
    )
    note = "" if _share_text(runs) else OTHER_TEXTS
    table = Table(
        "metrics",
        "Metrics",
        (Column("metric"), *numbers(*names)),
        tuple(
            (Cell(title), *(_cell(value(run), write) for run in runs))
            for title, value, write in rows
        ),
        "*/manifest.json of each run",
        note=note,
    )
    return Section("metrics", "Metrics", (table,))


def _cell(value: Any, write: Callable[[Any], str]) -> Cell:
    missing = "no price given" if write is money else NOT_RUN
    return Cell(write(value)) if is_number(value) else Cell(missing, tone="quiet")


def _settings(runs: Sequence[RunRecord], names: Sequence[str]) -> Section:
    rows = tuple(
        (Cell(name), *(Cell(value[:80]) for value in values))
        for name, values in different_settings(runs)
    )
    columns = (Column("setting"), *numbers(*names))
    blocks: list[Block] = [Note("All settings are the same.", tone="quiet")]
    if rows:
        blocks = [Table("settings", "Settings that differ", columns, rows, "run.json of each run")]
    return Section("settings", "Settings", blocks)


def different_settings(runs: Sequence[RunRecord]) -> Iterator[tuple[str, list[str]]]:
    """Settings that differ between runs: full name, and the value in each run."""
    flat = [dict(_flat(run.recipe)) for run in runs]
    for name in sorted(set().union(*flat)):
        values = [json.dumps(one[name], ensure_ascii=False) if name in one else "–" for one in flat]
        if len(set(values)) > 1 and name != "name":
            yield name, values


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner


def _curves(runs: Sequence[RunRecord], names: Sequence[str]) -> Section:
    metrics = []
    for run in runs:
        folder = run.folder("pretrain")
        metrics.append(read_last_lines(folder / "metrics.jsonl") if folder else [])
    blocks: list[Block] = []
    for key, title, words in (
        ("loss", "Training loss", "loss, nats per token"),
        ("heldout_bpb", "Held-out bits per byte", "bits per byte"),
    ):
        series = [
            Series(name, points(lines, key, "tokens"), tone, dashed, key == "heldout_bpb")
            for name, lines, (tone, dashed) in zip(names, metrics, STYLES, strict=False)
        ]
        chart = make_chart(
            key, title, series, Axes("tokens seen", words), source="pretrain/metrics.jsonl"
        )
        if chart is not None:
            blocks.append(chart)
    if not blocks:
        blocks.append(Note("Not run: no pretrain/metrics.jsonl in these runs.", tone="quiet"))
    lead = (
        "Loss per token is comparable only between runs with the same tokenizer, "
        "bits per byte only between runs with the same held-out text."
    )
    if not _share_text(runs):
        blocks.insert(0, Note(OTHER_TEXTS, tone="warn"))
    return Section("curves", "Curves", blocks, lead)


def _scores(runs: Sequence[RunRecord], names: Sequence[str]) -> Section:
    found = [tasks_of(stage) if (stage := run.stage("evaluate")) else {} for run in runs]
    rows = []
    for task in sorted(set().union(*found)):
        for name, tasks in zip(names, found, strict=True):
            rows.append((Cell(task), Cell(name), *_score(tasks.get(task))))
    columns = (
        Column("task"),
        Column("run"),
        *numbers("accuracy"),
        Column("95 % interval, 0 to 100"),
        Column("verdict"),
    )
    blocks: list[Block] = [Note("Not run: no scores in these runs.", tone="quiet")]
    if rows:
        blocks = [Table("scores", "Scores", columns, tuple(rows), "evaluate/manifest.json")]
    lead = "If two intervals overlap, the difference may be chance."
    return Section("scores", "Scores", blocks, lead)


def _score(found: Mapping[str, Any] | None) -> tuple[Cell, Cell, Cell]:
    if not found:
        return Cell(NOT_RUN, tone="quiet"), Cell("–"), Cell("")
    accuracy, interval, _, words = score_cells(found)
    return accuracy, interval, words
