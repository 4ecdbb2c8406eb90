"""Blocks to HTML, CSV, SVG and PNG: one source for all, so that they cannot disagree.

The page is one HTML file: style and script are inside, no request leaves it, all text is escaped.
A content security policy with the hash of our own script is in its head: if a text slipped through
the escaping, the browser would still neither run nor fetch anything.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from teenytinyllama.artifacts.manifest import write_atomically
from teenytinyllama.redaction import redact
from teenytinyllama.stages.report.page_blocks import Chart, ChartRow, Page, Table
from teenytinyllama.stages.report.svg_chart import interval_svg, standalone

FORMULA_SIGNS = ("=", "+", "@", "\t", "\r")


def render(page: Page, *, refresh_s: int = 0) -> str:
    """The page as HTML; with `refresh_s`, the browser reloads it after that many seconds."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["interval_svg"] = lambda plot: Markup(interval_svg(plot))
    # `svg_chart` escapes every word in a drawing.
    environment.filters["drawing"] = Markup
    script = _file("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    html = environment.from_string(_file("page.html")).render(
        page=page,
        style=Markup(_file("page.css")),
        script=Markup(script),
        script_hash=digest,
        refresh_s=refresh_s,
    )
    # Pages are shared: no secret may leave in one, wherever in the run it was.
    return redact(html, for_others=True)


def _file(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def export(page: Page, out_dir: Path) -> int:
    """Write `tables/*.csv`, `plots/*.svg` and, with the extra `png`, `plots/*.png`.

    Returns the number of files.
    """
    blocks = [block for section in page.sections for block in section.blocks]
    exported: dict[str, str | bytes] = {
        f"tables/{block.key}.csv": redact(csv_of(block), for_others=True)
        for block in blocks
        if isinstance(block, Table)
    }
    for block in blocks:
        charts = block.charts if isinstance(block, ChartRow) else (block,)
        for chart in charts:
            if isinstance(chart, Chart):
                svg = redact(standalone(chart), for_others=True)
                exported[f"plots/{chart.key}.svg"] = svg
                if png := _png_of(svg):
                    exported[f"plots/{chart.key}.png"] = png
    for name, content in exported.items():
        (out_dir / name).parent.mkdir(exist_ok=True)
        write_atomically(out_dir / name, content)
    return len(exported)


def _png_of(svg: str) -> bytes | None:
    """The chart as PNG at 1.5 times its size; None without the extra `png`."""
    try:
        import resvg_py
    except ImportError:
        return None
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, zoom=1.5))


def csv_of(table: Table) -> str:
    """The table as shown on the page. Text that a spreadsheet would run gets a leading quote."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([column.title for column in table.columns])
    for row in (*table.rows, *((table.total,) if table.total else ())):
        writer.writerow([_safe(cell.text) for cell in row])
    return buffer.getvalue()


def _safe(text: str) -> str:
    runs = text.startswith(FORMULA_SIGNS) or re.match(r"-[^\d.]", text)
    return f"'{text}" if runs else text
