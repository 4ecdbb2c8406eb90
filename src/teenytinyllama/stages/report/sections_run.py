"""Sections about the run itself: energy and cost, licences, versions, how to reproduce it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from teenytinyllama.artifacts.manifest import STAGE_NAMES
from teenytinyllama.stages.report.number_format import (
    NOT_RUN,
    count,
    decimal,
    duration,
    energy,
    is_number,
    mass,
    money,
    short,
)
from teenytinyllama.stages.report.page_blocks import (
    Block,
    Cell,
    Column,
    Note,
    Section,
    Stat,
    StatRow,
    Table,
    numbers,
)
from teenytinyllama.stages.report.run_record import FinishedStage, RunRecord

ENERGY_TITLES = {
    "gpu_measured": "GPU (measured)",
    "cpu_modelled": "CPU (modelled)",
    "ram_modelled": "memory (modelled)",
}
ENERGY_PARTS = tuple(ENERGY_TITLES)


def stage_kwh(stage: FinishedStage) -> float:
    """Energy of a stage in kilowatt-hours, measured plus modelled."""
    return sum(v for v in stage.manifest.energy_kwh.values() if is_number(v))


def cost_usd(run: RunRecord, stage: FinishedStage) -> float | None:
    """Cost of a stage at the recipe's prices, or None if it gives no price."""
    if not run.has_price:
        return None
    return run.energy.cost_usd(stage.manifest.duration_s, stage_kwh(stage))


def total_cost_usd(run: RunRecord) -> float | None:
    """Cost of all stages, or None if the recipe gives no price."""
    costs = (cost_usd(run, stage) for stage in run.stages.values())
    return sum(cost or 0.0 for cost in costs) if run.has_price and run.stages else None


def headline(run: RunRecord) -> StatRow:
    """The key figures at the top of the page."""
    pretrain, evaluate = run.stage("pretrain"), run.stage("evaluate")
    stages = list(run.stages.values())
    usd = total_cost_usd(run)
    kwh, kg = sum(map(stage_kwh, stages)), sum(r.manifest.emissions_kg for r in stages)
    seconds = sum(stage.manifest.duration_s for stage in stages)
    return StatRow(
        (
            Stat("parameters", short(pretrain.count("parameters")) if pretrain else NOT_RUN),
            Stat("tokens seen", short(pretrain.count("tokens")) if pretrain else NOT_RUN),
            Stat(
                "held-out bits per byte",
                decimal(evaluate.metric("heldout_bits_per_byte")) if evaluate else NOT_RUN,
            ),
            Stat("total time", duration(seconds) if stages else NOT_RUN),
            Stat("total energy", energy(kwh) if stages else NOT_RUN, f"{mass(kg)} CO₂eq"),
            Stat(
                "cost",
                money(usd) if usd is not None else "–",
                "" if usd is not None else "no price given",
            ),
        )
    )


def energy_section(run: RunRecord) -> Section:
    """Time, energy, carbon and cost per stage; measured and modelled energy are separate."""
    title = "Energy and cost"
    has_gpu = any(s.manifest.energy_kwh.get("gpu_measured") for s in run.stages.values())
    parts_shown = ENERGY_PARTS if has_gpu else ENERGY_PARTS[1:]
    measured = "GPU energy is measured." if has_gpu else "No GPU was measured."
    lead = f"{measured} CPU and memory energy is estimated from rated power."
    rows, total = [], [0.0] * (3 + len(parts_shown))
    for name in STAGE_NAMES:
        stage = run.stage(name)
        if stage is None:
            rows.append((Cell(name), *(Cell(NOT_RUN, tone="quiet") for _ in total)))
            continue
        parts = [stage.manifest.energy_kwh.get(part, 0.0) for part in parts_shown]
        usd = cost_usd(run, stage) or 0.0
        values = [stage.manifest.duration_s, *parts, stage.manifest.emissions_kg, usd]
        total = [a + b for a, b in zip(total, values, strict=True)]
        rows.append((Cell(name), *_energy_cells(values, run.has_price)))
    prices = run.energy
    cost_note = "No cost: the recipe gives no price in [energy]."
    if run.has_price:
        cost_note = (
            f"Prices from the recipe: {money(prices.usd_per_gpu_hour)} per machine hour, "
            f"{money(prices.usd_per_kwh)} per kWh."
        )
    table = Table(
        "energy",
        "Per stage",
        (
            Column("stage"),
            *numbers("time", *(ENERGY_TITLES[part] for part in parts_shown), "CO₂eq", "cost"),
        ),
        tuple(rows),
        "*/manifest.json",
        note=f"CO₂eq uses the mean carbon intensity of the grid in {prices.country}. {cost_note}",
        total=(Cell("all"), *_energy_cells(total, run.has_price)) if run.stages else None,
    )
    return Section("energy", title, (_energy_stats(run), table), lead, bool(run.stages))


def _energy_cells(values: list[float], has_price: bool) -> list[Cell]:
    seconds, *parts, kg, usd = values
    return [
        Cell(duration(seconds)),
        *(Cell(energy(part), tone="quiet" if not part else "") for part in parts),
        Cell(mass(kg)),
        Cell(money(usd) if has_price else "–"),
    ]


def _energy_stats(run: RunRecord) -> StatRow:
    stages = run.stages.values()
    measured = sum(stage.manifest.energy_kwh.get("gpu_measured", 0.0) for stage in stages)
    total = sum(map(stage_kwh, stages))
    pretrain = run.stage("pretrain")
    joules = pretrain.metric("joules_per_token") if pretrain else None
    return StatRow(
        (
            Stat("measured", energy(measured) if measured else "none", "GPU (NVML)"),
            Stat("modelled", energy(total - measured), "CPU and memory"),
            Stat(
                "per training token",
                f"{joules * 1000:.3g} mJ"
                if is_number(joules)
                else (NOT_RUN if pretrain is None else "not recorded"),
                "paper: 14.9 mJ for 160m, 41.4 mJ for 460m (A100)",
            ),
        ),
        "*/manifest.json",
    )


def licences_section(run: RunRecord) -> Section:
    """Where the text comes from, and its licences."""
    title = "Sources and licences"
    lead = "The licences of the training text limit the licence of the model."
    blocks: list[Block] = []
    stage = run.stage("corpus")
    if stage is None:
        blocks.append(Note("Not run: no corpus/manifest.json in this run.", tone="quiet"))
    else:
        blocks.append(_source_table("sources", "Text sources", stage, "corpus/manifest.json"))
        licences = stage.count("licenses")
        if isinstance(licences, Mapping):
            blocks.append(
                Table(
                    "licences",
                    "Documents kept, by licence",
                    (Column("licence"), *numbers("documents")),
                    tuple(
                        (Cell(name or "not given", tone="" if name else "warn"), Cell(count(n)))
                        for name, n in licences.items()
                    ),
                    "corpus/manifest.json",
                )
            )
    align = run.stage("align")
    if align is not None:
        blocks.append(
            _source_table("chat_sources", "Conversation sources", align, "align/manifest.json")
        )
    return Section("licences", title, blocks, lead, stage is not None)


def _source_table(key: str, title: str, stage: FinishedStage, source: str) -> Table:
    rows = []
    for found in stage.setting("sources") or ():
        kind, path = str(found.get("kind", "")), str(found.get("path", ""))
        rows.append(
            (
                Cell(str(found.get("name") or path or kind)),
                Cell(kind),
                Cell(
                    str(found.get("license") or "not given"),
                    tone="" if found.get("license") else "warn",
                ),
                Cell(str(found.get("origin") or "–")),
            )
        )
    columns = (Column("source"), Column("kind"), Column("licence"), Column("origin"))
    return Table(key, title, columns, tuple(rows), source)


def versions_section(run: RunRecord) -> Section:
    """Software versions, and start and fingerprint of each stage."""
    names: list[str] = []
    for stage in run.stages.values():
        names += [name for name in stage.manifest.versions if name not in names]
    rows = []
    for name in names:
        found = {stage.manifest.versions.get(name) for stage in run.stages.values()} - {None}
        words = ", ".join(sorted(str(version) for version in found))
        rows.append((Cell(name), Cell(words, tone="warn" if len(found) > 1 else "")))
    started = [
        (Cell(name), Cell(stage.manifest.started_at), Cell(stage.manifest.fingerprint))
        for name, stage in run.stages.items()
    ]
    blocks: list[Block] = [
        Table(
            "versions",
            "Software",
            (Column("name"), Column("version")),
            tuple(rows),
            "*/manifest.json",
        ),
        Table(
            "manifests",
            "Stages",
            (Column("stage"), Column("started"), Column("fingerprint")),
            tuple(started),
            "*/manifest.json",
        ),
    ]
    if not run.stages:
        blocks = [Note("Not run: no stage in this folder has finished.", tone="quiet")]
    return Section("versions", "Versions", blocks, has_run=bool(run.stages))


def reproduce_section(run: RunRecord) -> Section:
    """The resolved recipe with every default written out, and the command."""
    version = next((r.manifest.version for r in run.stages.values()), None)
    if version is None:
        note = Note("Not run: no stage in this folder has finished.", tone="quiet")
        return Section("reproduce", "Reproduce", (note,), has_run=False)
    lead = "recipe.toml beside this page has every setting, defaults included."
    command = f"pip install teenytinyllama=={version}\nttl run recipe.toml"
    return Section(
        "reproduce",
        "Reproduce",
        (Note(code=command), Note("Recipe:", code=recipe_toml(run))),
        lead,
    )


def recipe_toml(run: RunRecord) -> str:
    """A recipe that reproduces this run, built from its manifests."""
    lines = [f"name = {_toml(run.name)}", f"language = {_toml(run.language)}", "", "[energy]"]
    lines += [
        f"country = {_toml(run.energy.country)}",
        f"usd_per_gpu_hour = {_toml(run.energy.usd_per_gpu_hour)}",
        f"usd_per_kwh = {_toml(run.energy.usd_per_kwh)}",
    ]
    for name, stage in run.stages.items():
        lines += ["", f"[{name}]"]
        settings = stage.manifest.recipe
        lines += [f"{k} = {_toml(v)}" for k, v in settings.items() if v is not None]
    return "\n".join([*lines, "", "[report]", ""])


def _toml(value: Any) -> str:
    """A value as inline TOML.

    >>> _toml({"a": [1, 2.5, True, "x"], "b": {}})
    '{ a = [1, 2.5, true, "x"], b = {} }'
    """
    if isinstance(value, Mapping):
        items = ", ".join(f"{_key(k)} = {_toml(v)}" for k, v in value.items() if v is not None)
        return f"{{ {items} }}" if items else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    # JSON escapes strings as TOML does, except DEL, which TOML wants escaped.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)
