"""A plan on the terminal: the model, its cost, and what other sizes and budgets would give."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from teenytinyllama.errors import UserError
from teenytinyllama.planning.little_text import largest_trainings
from teenytinyllama.planning.plan_request import PlanRequest
from teenytinyllama.planning.planner import Plan, make_plan, other_sizes
from teenytinyllama.planning.recipe_cost import RecipeCost
from teenytinyllama.planning.reference_data import gpus
from teenytinyllama.progress import (
    format_bytes,
    format_carbon,
    format_duration,
    format_energy,
    format_money,
)

BAR_WIDTH = 18


def show_plan(plan: Plan, console: Console | None = None) -> None:
    """Print the plan, other sizes for the same budget, and other budgets for the same text."""
    console = console or Console()
    console.print()
    console.print(_main(plan))
    if plan.little_text:
        console.print(_ways(plan))
    if plan.expected.loss is not None:  # below their range the laws predict nothing
        console.print(_sizes(plan))
        console.print(_budgets(plan))
    console.print(_limit(plan))
    if plan.little_text:
        console.print(
            "  Bits per byte from manuals' and laws' text to the web's, extrapolated from "
            f"{largest_trainings()}. Worth: times the text that four epochs would need "
            "(docs/little-text.md).",
            style="dim",
        )
    if plan.warning:
        console.print(f"  {plan.warning}")
    for note in plan.notes:
        console.print(f"  {note}", style="dim")
    console.print()


def show_recipe(cost: RecipeCost, console: Console | None = None) -> None:
    """Print what a recipe's pre-training takes."""
    cards = f"{cost.num_gpus} x " if cost.num_gpus > 1 else ""
    table = _two_columns(f"{cost.name}: its pre-training")
    for name, value in (
        ("GPU", f"{cards}{gpus()[cost.gpu].title}, {cost.mfu:.0%} of its peak"),
        ("model", f"{cost.parameters:,} parameters, {cost.vocab_size:,} tokens"),
        ("training", f"{cost.num_steps:,} steps, {_short(cost.tokens)} tokens{_times(cost)}"),
        ("compute", f"{cost.flops:.3g} FLOPs"),
        ("time", format_duration(cost.hours * 3600)),
        ("energy", f"{format_energy(cost.kwh)} (modelled)"),
        ("carbon", format_carbon(cost.emissions_kg)),
        (
            "money",
            "no price given (--usd-per-hour)" if cost.usd is None else format_money(cost.usd),
        ),
        ("disk", f"{format_bytes(cost.disk_bytes)} for checkpoints and model"),
    ):
        table.add_row(name, value)
    (console or Console()).print(table)


def _times(cost: RecipeCost) -> str:
    if cost.trainings == 1:
        return ""
    return f"; ensemble and auxiliary loss make that {cost.trainings:.3g} times as much"


def _two_columns(title: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    return table


def _main(plan: Plan) -> Table:
    table = _two_columns("The plan")
    for name, value in _rows(plan):
        table.add_row(name, value)
    return table


def _rows(plan: Plan) -> Iterator[tuple[str, str]]:
    model, cost, request = plan.model, plan.cost, plan.request
    cards = f"{request.num_gpus} x " if request.num_gpus > 1 else ""
    yield "GPU", f"{cards}{request.gpu.title}, {request.mfu:.0%} of its peak"
    yield (
        "model",
        f"{_short(plan.parameters)} parameters: hidden {model.hidden_size}, "
        f"{model.num_hidden_layers} layers, {model.num_attention_heads} heads",
    )
    yield "vocabulary", f"{plan.vocab_size:,} tokens"
    yield (
        "tokens",
        f"{_short(plan.tokens)}: {plan.epochs:.2g} epochs over {_short(plan.unique_tokens)}"
        if request.has_text or request.unique_tokens
        else f"{_short(plan.tokens)}, each read once",
    )
    yield "steps", f"{plan.num_steps:,} of {plan.tokens_per_step:,} tokens"
    yield "peak rate", f"{plan.peak_learning_rate:g}"
    yield "time", f"{format_duration(cost.hours * 3600)}{_reserved(request)}"
    device = "CPU" if request.gpu.name == "cpu" else "GPU"
    yield (
        "energy",
        f"{format_energy(cost.gpu_kwh)} {device} + {format_energy(cost.host_kwh)} rest of the "
        "machine (modelled)",
    )
    yield "carbon", f"{format_carbon(cost.emissions_kg)} ({request.country})"
    yield "money", format_price(cost.usd, request)
    yield "expected loss", _expected(plan)


def _ways(plan: Plan) -> Table:
    """What the money buys with this text."""
    table = Table(title="What the money buys", title_justify="left", pad_edge=False)
    table.add_column("training", no_wrap=True)
    for column in ("time", "money", "bits per byte", "worth"):
        table.add_column(column, justify="right", no_wrap=True)
    for way in plan.little_text:
        title = f"{way.epochs:.2g} epochs"
        if way.members:
            title = f"student of {way.members}, {title} each"
        table.add_row(
            title,
            format_duration(way.hours * 3600),
            format_money(way.usd) if plan.request.usd_per_hour else "",
            f"{way.low:.2f} to {way.high:.2f}",
            f"{way.worth:.1f} x",
        )
    return table


def _reserved(request: PlanRequest) -> str:
    share = request.reserve_fraction
    return f" ({share:.0%} of the budget is reserved for later stages)" if share else ""


def format_price(usd: float, request: PlanRequest) -> str:
    """The money, and where its price is from."""
    if not request.usd_per_hour:
        return "no price given (--usd-per-hour)"
    price = f"at ${request.usd_per_hour:g} per GPU and hour"
    if request.usd_per_hour == request.gpu.usd_per_hour:
        price += f": {request.gpu.price_from}"
    return f"{format_money(usd)} ({price})"


def _expected(plan: Plan) -> str:
    found = plan.expected
    if found.loss is None:
        if plan.little_text:
            return "by no published law; see below"
        return "too small to predict"
    return (
        f"{found.loss:.2f} nats per token, 95 %: {found.low:.2f} to {found.high:.2f} "
        f"(about {found.bits_per_byte:.2f} bits per byte)"
    )


def _sizes(plan: Plan) -> Table:
    """Other sizes for the same budget and their losses. Small models see more tokens."""
    table = _plot("Other sizes for the same budget", "parameters", "tokens")
    found = other_sizes(plan)
    losses = [loss for *_, loss in found]
    for parameters, tokens, loss in found:
        chosen = parameters == plan.parameters
        bar = _bar(loss, min(losses), max(losses))
        style = "bold" if chosen else None
        table.add_row(_short(parameters), _short(tokens), f"{loss:.3f}", bar, style=style)
    return table


def _plot(title: str, *columns: str) -> Table:
    """A table whose last column is a bar for the loss, by the law alone."""
    table = Table(title=title, title_justify="left", pad_edge=False)
    for column in (*columns, "loss by law"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    return table


def _bar(loss: float, low: float, high: float) -> str:
    share = (loss - low) / (high - low) if high > low else 0.5
    return "█" * round(4 + share * (BAR_WIDTH - 4))


def _budgets(plan: Plan) -> Table:
    """The same request with other budgets: the loss as a bar, by the law alone."""
    table = _plot("Other budgets", "budget", "parameters", "tokens", "epochs")
    plans = [(factor, _other(plan, factor)) for factor in (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)]
    found = [(factor, other) for factor, other in plans if other is not None]
    losses = [other.law_loss for _, other in found]
    low, high = min(losses), max(losses)
    for number, (factor, other) in enumerate(found):
        if factor > 1 and other.law_loss >= losses[number - 1]:
            continue  # more money gives no lower loss
        bar = _bar(other.law_loss, low, high)
        money = plan.request.budget_usd
        hours = plan.request.budget_hours or 0.0
        budget = format_money(money * factor) if money else format_duration(hours * factor * 3600)
        table.add_row(
            budget,
            _short(other.parameters),
            _short(other.tokens),
            f"{other.epochs:.2g}",
            f"{other.law_loss:.3f}",
            bar,
            style="bold" if factor == 1.0 else None,
        )
    return table


def _other(plan: Plan, factor: float) -> Plan | None:
    request = plan.request
    if request.budget_usd is not None:
        other = replace(request, budget_usd=request.budget_usd * factor)
    else:
        assert request.budget_hours is not None
        other = replace(request, budget_hours=request.budget_hours * factor)
    try:
        return make_plan(other)
    except UserError:
        return None


def _limit(plan: Plan) -> str:
    if plan.expected.loss is None:
        return f"What limits it: {plan.limit}."
    return (
        f"What limits it: {plan.limit}. Twice the money lowers the loss by "
        f"{plan.gain_of_twice_the_money:.3f}, twice the text by {plan.gain_of_twice_the_text:.3f}."
    )


def _short(value: float) -> str:
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.3g}"
