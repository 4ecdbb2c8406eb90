"""What a page is made of: sections of tables, charts, key figures and texts.

Words and numbers of the stages are plain text here; the template escapes them. HTML, CSV and SVG
are all rendered from these blocks, so that they agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Tone = Literal["", "good", "warn", "quiet"]


@dataclass(frozen=True)
class IntervalPlot:
    """A value with its interval on a scale from 0 to 1, and the chance level."""

    low: float
    high: float
    value: float
    chance: float | None = None


@dataclass(frozen=True)
class Cell:
    """One cell. `note` is small print below the text; `bar` (0 to 1) draws a bar beside it."""

    text: str
    note: str = ""
    tone: Tone = ""
    bar: float | None = None
    interval: IntervalPlot | None = None


@dataclass(frozen=True)
class Column:
    """A heading; numbers are right-aligned, words left-aligned."""

    title: str
    is_number: bool = False


def numbers(*titles: str) -> tuple[Column, ...]:
    """Columns of numbers with these headings."""
    return tuple(Column(title, True) for title in titles)


@dataclass(frozen=True)
class Table:
    """Rows under headings. `source` names the files of the run that the numbers come from."""

    key: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    source: str = ""
    note: str = ""
    total: tuple[Cell, ...] | None = None
    kind: str = "table"


@dataclass(frozen=True)
class Chart:
    """A line chart as SVG in two widths, for a desktop and for a phone (see `svg_chart`).

    `lines` holds the names and colours of its lines; `legend` is the same as HTML.
    """

    key: str
    title: str
    wide: str
    narrow: str
    legend: str = ""
    lines: tuple[tuple[str, str], ...] = ()
    source: str = ""
    note: str = ""
    kind: str = "chart"


@dataclass(frozen=True)
class ChartRow:
    """Small charts side by side."""

    charts: tuple[Chart, ...]
    kind: str = "charts"


@dataclass(frozen=True)
class Stat:
    """One key figure with its name."""

    title: str
    text: str
    note: str = ""
    tone: Tone = ""


@dataclass(frozen=True)
class StatRow:
    """Key figures in a row."""

    items: tuple[Stat, ...]
    source: str = ""
    kind: str = "stats"


@dataclass(frozen=True)
class Excerpt:
    """Text from a model or a corpus. `prompt` is what the model was given.

    `is_answer`: the text answers the prompt and is shown on its own line.
    """

    label: str
    text: str
    prompt: str = ""
    note: str = ""
    tone: Tone = ""
    is_answer: bool = False


@dataclass(frozen=True)
class Excerpts:
    """Texts under one title; `folded`: hidden until opened."""

    title: str
    items: tuple[Excerpt, ...]
    source: str = ""
    note: str = ""
    folded: bool = False
    kind: str = "excerpts"


@dataclass(frozen=True)
class Note:
    """A sentence or two; `code` is shown below, for copying."""

    text: str = ""
    code: str = ""
    tone: Tone = ""
    kind: str = "note"


Block = Table | Chart | ChartRow | StatRow | Excerpts | Note


@dataclass(frozen=True)
class Section:
    """One part of the page."""

    key: str
    title: str
    blocks: Sequence[Block]
    lead: str = ""
    has_run: bool = True


@dataclass(frozen=True)
class Page:
    """The whole page."""

    title: str
    subtitle: str
    language: str
    headline: StatRow
    sections: Sequence[Section] = field(default_factory=tuple)


def not_run(key: str, title: str, stage: str, lead: str = "") -> Section:
    """The section of a stage that left no manifest."""
    words = f"Not run: no {stage}/manifest.json in this run."
    return Section(key, title, (Note(words, tone="quiet"),), lead, has_run=False)
