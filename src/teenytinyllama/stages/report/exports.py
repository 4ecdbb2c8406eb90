"""The page's tables as CSV and its charts as SVG: the very same blocks, so none can disagree."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from teenytinyllama.formats.manifest import write_atomically
from teenytinyllama.redaction import redact
from teenytinyllama.stages.report.blocks import Chart, ChartRow, Page, Table
from teenytinyllama.stages.report.chart import standalone

FORMULA_SIGNS = ("=", "+", "@", "\t", "\r")


def export(page: Page, out_dir: Path) -> int:
    """Write `tables/*.csv` and `plots/*.svg`; returns how many files."""
    number = 0
    for table in _tables(page):
        (out_dir / "tables").mkdir(exist_ok=True)
        write_atomically(out_dir / "tables" / f"{table.key}.csv", _for_others(csv_of(table)))
        number += 1
    for chart in _charts(page):
        (out_dir / "plots").mkdir(exist_ok=True)
        write_atomically(out_dir / "plots" / f"{chart.key}.svg", _for_others(standalone(chart)))
        number += 1
    return number


def _for_others(text: str) -> str:
    return redact(text, for_others=True)


def csv_of(table: Table) -> str:
    """The table as it stands on the page. A word that a spreadsheet would run gets a quote."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([column.title for column in table.columns])
    for row in (*table.rows, *((table.total,) if table.total else ())):
        writer.writerow([_safe(cell.text) for cell in row])
    return buffer.getvalue()


def _safe(text: str) -> str:
    runs = text.startswith(FORMULA_SIGNS) or re.match(r"-[^\d.]", text)
    return f"'{text}" if runs else text


def _tables(page: Page) -> Iterator[Table]:
    for section in page.sections:
        for block in section.blocks:
            if isinstance(block, Table):
                yield block


def _charts(page: Page) -> Iterator[Chart]:
    for section in page.sections:
        for block in section.blocks:
            if isinstance(block, Chart):
                yield block
            elif isinstance(block, ChartRow):
                yield from block.charts
