"""What a page is made of, before it is HTML: sections of tables, charts, figures and texts.

Stages' words and numbers go in as plain text; the template escapes them. The same blocks are
written as HTML, CSV and SVG, so that the three can never disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Tone = Literal["", "good", "warn", "quiet"]


@dataclass(frozen=True)
class Strip:
    """A value with its interval on a scale from 0 to 1, and where chance lies."""

    low: float
    value: float
    high: float
    chance: float | None = None


@dataclass(frozen=True)
class Cell:
    """One cell. `note` stands small beside the text; `share` (0 to 1) draws a bar behind it."""

    text: str
    note: str = ""
    tone: Tone = ""
    share: float | None = None
    strip: Strip | None = None


@dataclass(frozen=True)
class Column:
    """A heading; numbers stand right, words left."""

    title: str
    is_number: bool = False


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
    """A drawing in two widths, for a desk and for a phone; both are SVG made by `chart`.

    `lines` are the names of its lines with their colours; `legend` is the same as HTML.
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
class Fact:
    """One figure with what it counts."""

    title: str
    text: str
    note: str = ""
    tone: Tone = ""


@dataclass(frozen=True)
class Facts:
    """Figures in a row."""

    items: tuple[Fact, ...]
    source: str = ""
    kind: str = "facts"


@dataclass(frozen=True)
class Excerpt:
    """A piece of text by a model or of a corpus. `lead` is what it was given to go on from.

    `is_answer`: the text answers the lead, and stands on a line of its own.
    """

    label: str
    text: str
    lead: str = ""
    note: str = ""
    tone: Tone = ""
    is_answer: bool = False


@dataclass(frozen=True)
class Excerpts:
    """Pieces of text under one title."""

    title: str
    items: tuple[Excerpt, ...]
    source: str = ""
    note: str = ""
    folded: bool = False
    kind: str = "excerpts"


@dataclass(frozen=True)
class Note:
    """A sentence or two; `code` stands below, to be copied."""

    text: str = ""
    code: str = ""
    tone: Tone = ""
    kind: str = "note"


Block = Table | Chart | ChartRow | Facts | Excerpts | Note


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
    headline: Facts
    sections: Sequence[Section] = field(default_factory=tuple)


def not_run(key: str, title: str, stage: str, lead: str = "") -> Section:
    """The section of a stage that left no manifest."""
    words = f"Not run: {stage}/manifest.json is not in this run."
    return Section(key, title, (Note(words, tone="quiet"),), lead, has_run=False)
