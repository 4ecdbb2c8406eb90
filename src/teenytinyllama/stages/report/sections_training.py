"""Sections about training: curves, the paper's curves, checkpoints with their energy, samples."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from teenytinyllama.artifacts.json_lines import read_last_lines, read_lines
from teenytinyllama.stages.report.number_format import (
    count,
    decimal,
    duration,
    energy,
    is_number,
    mass,
    percent,
    plain,
    short,
)
from teenytinyllama.stages.report.page_blocks import (
    Block,
    Cell,
    Chart,
    ChartRow,
    Column,
    Excerpt,
    Excerpts,
    Note,
    Section,
    Stat,
    StatRow,
    Table,
    not_run,
    numbers,
)
from teenytinyllama.stages.report.run_record import FinishedStage, RunRecord, dig
from teenytinyllama.stages.report.sections_run import stage_kwh
from teenytinyllama.stages.report.svg_chart import (
    Axes,
    Series,
    downsampled,
    four_digits,
    legend,
    line_chart,
)

MANIFEST, METRICS = "pretrain/manifest.json", "pretrain/metrics.jsonl"
PAPER_SOURCE = "the paper (Figure 1, Table 6)"
SHOWN_SETTINGS = (
    "model.kind",
    "model.hidden_size",
    "model.intermediate_size",
    "model.num_hidden_layers",
    "model.num_attention_heads",
    "model.num_key_value_heads",
    "model.max_position_embeddings",
    "model.tie_word_embeddings",
    "sequence_length",
    "tokens_per_step",
    "num_steps",
    "precision",
    "optimizer.kind",
    "optimizer.peak_learning_rate",
    "optimizer.muon_learning_rate",
    "optimizer.weight_decay",
    "optimizer.max_grad_norm",
    "schedule.kind",
    "schedule.warmup_steps",
    "seed",
)
MAX_CHECKPOINT_ROWS = 16
MAX_SAMPLE_STEPS, MAX_SAMPLE_PROMPTS = 5, 3

Metrics = Sequence[Mapping[str, Any]]


def make_chart(
    key: str,
    title: str,
    series: Sequence[Series],
    axes: Axes,
    *,
    is_small: bool = False,
    **words: str,
) -> Chart | None:
    """The chart at two widths, or None if there is nothing to draw."""
    sizes = ((380, 210), (340, 200)) if is_small else ((820, 330), (360, 270))
    series = [downsampled(one) for one in series]  # once, for both widths
    wide, narrow = (line_chart(series, axes, width=w, height=h) for w, h in sizes)
    if not wide:
        return None
    lines = tuple((one.name, one.tone) for one in series if one.points)
    return Chart(key, title, wide, narrow, legend(series), lines, **words)


def points(metrics: Metrics, y: str, x: str = "step") -> list[tuple[float, float]]:
    """Pairs of two logged fields, where both are numbers."""
    return [(m[x], m[y]) for m in metrics if is_number(m.get(x)) and is_number(m.get(y))]


def training_section(run: RunRecord) -> Section:
    """Curves from `metrics.jsonl`, and totals from the manifest."""
    title, lead = "Training", "From random weights to the base model."
    stage = run.stage("pretrain")
    if stage is None and "pretrain" in run.unfinished:
        return _unfinished_training(run, title)
    if stage is None:
        return not_run("training", title, "pretrain", lead)
    metrics = read_last_lines(stage.folder / "metrics.jsonl")
    blocks: list[Block] = [_stats(stage)]
    if not metrics:
        blocks.append(Note(f"Not recorded: no {METRICS} in this run.", tone="quiet"))
    else:
        blocks += _curves(stage, metrics)
        blocks.append(_checkpoints(stage, metrics))
    blocks += _weights_compared(stage)
    blocks.append(_shape(stage))
    return Section("training", title, blocks, lead)


def _unfinished_training(run: RunRecord, title: str) -> Section:
    """The curves so far of a training in progress."""
    metrics = read_last_lines(run.unfinished["pretrain"] / "metrics.jsonl")
    if not metrics:
        note = Note("In progress: nothing logged yet.", tone="quiet")
        return Section("training", title, (note,), has_run=False)
    last = metrics[-1]
    of = dig(run.recipe, "pretrain", "num_steps")
    stats = StatRow(
        (
            Stat("steps so far", count(last.get("step")), f"of {count(of)}"),
            Stat("tokens seen", short(last.get("tokens"))),
            Stat("training loss", decimal(last.get("loss"))),
            Stat("tokens per second", short(last.get("tokens_per_s"))),
            Stat("energy so far", energy(last.get("energy_kwh"))),
        ),
        METRICS,
    )
    return Section("training", title, (stats, *_curves(None, metrics)), "In progress.")


def _stats(stage: FinishedStage) -> StatRow:
    skipped, device = stage.metric("num_skipped_steps"), stage.metric("device") or "device"
    return StatRow(
        (
            Stat("parameters", short(stage.count("parameters")), count(stage.count("parameters"))),
            Stat(
                "tokens seen", short(stage.count("tokens")), f"{count(stage.count('steps'))} steps"
            ),
            Stat("training time", duration(stage.metric("training_seconds"))),
            Stat("tokens per second", short(stage.metric("mean_tokens_per_s")), "mean"),
            Stat(
                "MFU (FLOPs utilisation)",
                percent(stage.metric("mfu")),
                f"mean; share of the peak that the data sheet of {device} gives"
                if is_number(stage.metric("mfu"))
                else f"no data sheet's peak is known for {device}",
            ),
            Stat(
                "share of the measured peak",
                percent(stage.metric("share_of_measured_peak")),
                "mean; of the FLOP/s that one large matrix product reaches here",
            ),
            Stat("skipped steps", count(skipped), tone="warn" if skipped else ""),
        ),
        MANIFEST,
    )


def _curves(stage: FinishedStage | None, metrics: Metrics) -> list[Block]:
    loss = [Series("training loss", points(metrics, "loss"))]
    uniform = stage.metric("uniform_loss") if stage else None
    if is_number(uniform) and loss[0].points:
        last = max(x for x, _ in loss[0].points)
        loss.append(Series("uniform guess", [(0, uniform), (last, uniform)], "quiet", True))
    curve = make_chart(
        "loss",
        "Training loss",
        loss,
        Axes("steps", "loss, nats per token"),
        source=METRICS,
        note="In nats per token. In a long training, each point is a mean over several steps, "
        "and the band shows their minimum and maximum.",
    )
    small = (
        _small_chart(metrics, "heldout_bpb", "Held-out bits per byte", "2"),
        _small_chart(metrics, "lr", "Learning rate", write_y=lambda v: f"{v:.1e}" if v else "0"),
        _small_chart(metrics, "tokens_per_s", "Tokens per second", write_y=short),
        _small_chart(metrics, "grad_norm", "Gradient norm"),
    )
    row = ChartRow(tuple(chart for chart in small if chart is not None))
    blocks = (curve, row if row.charts else None, _paper_comparison(metrics))
    return [block for block in blocks if block is not None]


def _small_chart(
    metrics: Metrics,
    key: str,
    title: str,
    tone: Literal["2", "3"] = "3",
    write_y: Callable[[float], str] = four_digits,
) -> Chart | None:
    name = title.lower()
    line = Series(name, points(metrics, key), tone, dots=key == "heldout_bpb")
    axes = Axes("steps", name, write_y=write_y)
    return make_chart(key, title, [line], axes, is_small=True, source=METRICS)


def _paper_comparison(metrics: Metrics) -> Chart | None:
    """Our loss curve and the paper's two, by tokens seen (paper, Figure 1)."""
    ours = [(x, y) for x, y in points(metrics, "loss", "tokens") if x > 0]
    if not ours:
        return None
    series = [
        Series("this run, training", ours),
        Series("paper, 160m, held out", heldout_losses("160m"), "2", dots=True),
        Series("paper, 460m, held out", heldout_losses("460m"), "3", dots=True),
    ]
    return make_chart(
        "over_the_paper",
        "Loss compared with the paper (its Figure 1)",
        series,
        Axes("tokens seen", "loss, nats per token", log_x=True),
        source=f"{METRICS}; {PAPER_SOURCE}",
        note="Logarithmic token axis. Loss per token depends on the tokenizer and the text: with "
        "another tokenizer or corpus than the paper's, only the shapes can be compared.",
    )


def _weights_compared(stage: FinishedStage) -> list[Block]:
    """Members of an ensemble, and the weights among which the model was chosen, side by side."""
    members = stage.metric("heldout_bpb_of_members") or []
    weights = stage.metric("heldout_bpb_of_weights") or {}
    found = [(f"member {number}", bpb) for number, bpb in enumerate(members, start=1)]
    found += [("ensemble", stage.metric("heldout_bpb_of_ensemble"))] if members else []
    kept = stage.metric("kept_weights")
    found += [(f"{label}, kept" if label == kept else label, weights[label]) for label in weights]
    if not found:
        return []
    return [
        Table(
            "weights-compared",
            "Weights compared on held-out text",
            (Column("weights"), *numbers("held-out bits per byte")),
            tuple((Cell(label), Cell(decimal(bpb))) for label, bpb in found),
            MANIFEST,
            note="Read during training: up to 262,144 tokens of the held-out text.",
        )
    ]


def _checkpoints(stage: FinishedStage, metrics: Metrics) -> Table:
    """Loss and energy during training (paper, Table 6)."""
    measured = [m for m in metrics if is_number(m.get("heldout_bpb"))] or list(metrics)
    step = max(1, -(-len(measured) // MAX_CHECKPOINT_ROWS))
    chosen = [m for n, m in enumerate(measured) if n % step == 0 or n == len(measured) - 1]
    total = stage_kwh(stage)
    carbon = stage.manifest.emissions_kg / total if total else None
    rows = []
    for m in chosen:
        kwh = m.get("energy_kwh")
        kg = kwh * carbon if is_number(kwh) and carbon is not None else None
        rows.append(
            (
                Cell(count(m.get("step"))),
                Cell(short(m.get("tokens"))),
                Cell(decimal(m.get("loss"))),
                Cell(decimal(m.get("heldout_bpb")) if "heldout_bpb" in m else "–"),
                Cell(energy(kwh)),
                Cell(mass(kg)),
            )
        )
    columns = numbers(
        "step", "tokens", "training loss", "held-out bits per byte", "energy so far", "CO₂eq so far"
    )
    return Table(
        "checkpoints",
        "Loss and energy during training (paper, Table 6)",
        columns,
        tuple(rows),
        f"{METRICS}; {MANIFEST}",
        note="Energy is that of GPUs as measured, if any, plus CPU and memory as modelled. "
        "CO₂eq uses this run's mean carbon intensity.",
    )


def _shape(stage: FinishedStage) -> Table:
    uses_muon = stage.setting("optimizer", "kind") == "muon"
    rows = [
        (Cell(name), Cell(plain(stage.setting(*name.split(".")))))
        for name in SHOWN_SETTINGS
        if uses_muon or name != "optimizer.muon_learning_rate"
    ]
    return Table(
        "shape",
        "Model size and training settings (paper, Tables 2 and 3)",
        (Column("setting"), *numbers("value")),
        tuple(rows),
        MANIFEST,
    )


def samples_section(run: RunRecord) -> Section:
    """How the model continued the same prompts at several steps."""
    title = "Samples during training"
    lead = (
        "The model continues the same prompts at several steps. Greedy decoding: none was picked."
    )
    folder = run.folder("pretrain")
    if folder is None:
        return not_run("samples", title, "pretrain", lead)
    by_step: dict[int, list[Mapping[str, Any]]] = {}
    for line in read_lines(folder / "samples.jsonl"):
        if isinstance(line.get("step"), int):
            found = by_step.setdefault(line["step"], [])
            # A resumed run may write the samples of a step again: the last ones count.
            found[:] = [old for old in found if old.get("prompt") != line.get("prompt")]
            found.append(line)
    if not by_step:
        note = Note("Not recorded: no pretrain/samples.jsonl in this run.", tone="quiet")
        return Section("samples", title, (note,), lead)
    blocks = []
    for step in _spread(sorted(by_step), MAX_SAMPLE_STEPS):
        lines = by_step[step][:MAX_SAMPLE_PROMPTS]
        tokens = lines[0].get("tokens")
        seen = f", {short(tokens)} tokens seen" if is_number(tokens) else ""
        blocks.append(
            Excerpts(
                f"After {step:,} steps{seen}",
                tuple(_sample(line) for line in lines),
                source="pretrain/samples.jsonl",
            )
        )
    return Section("samples", title, blocks, lead)


def _sample(line: Mapping[str, Any]) -> Excerpt:
    prompt, text = str(line.get("prompt", "")), str(line.get("text", ""))
    return Excerpt("", text.removeprefix(prompt), prompt=prompt)


def _spread(values: Sequence[int], at_most: int) -> list[int]:
    """At most `at_most` values, evenly spread, the first and the last included.

    >>> _spread([0, 100, 200, 300, 400, 500], 3)
    [0, 200, 500]
    """
    if len(values) <= at_most:
        return list(values)
    last = len(values) - 1
    return [values[last * n // (at_most - 1)] for n in range(at_most)]


@cache
def _paper_data() -> dict[str, Any]:
    """The paper's numbers; 100,000 steps are 0.82 B tokens, not "8.1M" as its figure says."""
    text = (files(__package__) / "paper.json").read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text)
    return data


def heldout_losses(model: str) -> list[tuple[float, float]]:
    """Tokens seen and held-out loss in nats per token of one of the paper's models.

    >>> heldout_losses("160m")[0]
    (819200000, 3.19)
    """
    return [(tokens, loss) for tokens, loss in _paper_data()["heldout_loss_nats"][model]]


def perplexities_by_energy(model: str) -> list[tuple[float, float]]:
    """Kilowatt-hours used and held-out perplexity of one of the paper's models (Table 6).

    >>> [(kwh, round(value, 1)) for kwh, value in perplexities_by_energy("160m")][0]
    (3.75, 24.3)
    """
    energy, losses = _paper_data()["energy_kwh"][model], _paper_data()["heldout_loss_nats"][model]
    return [
        (kwh, math.exp(loss))
        for (tokens, kwh), (at, loss) in zip(energy, losses, strict=True)
        if tokens == at
    ]


def arc_accuracies() -> list[tuple[float, float]]:
    """Tokens seen and accuracy on ARC-Challenge of the 460m model (Figure 2)."""
    return [(tokens, accuracy) for tokens, accuracy in _paper_data()["arc_accuracy_460m"]]
