"""Line charts as SVG, without a plotting library or external font.

Colours come from CSS classes, so that a chart follows the light or dark page around it;
`standalone` adds its own style for a separate file. All text is escaped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Literal

from teenytinyllama.stages.report.number_format import short
from teenytinyllama.stages.report.page_blocks import Chart, IntervalPlot

MAX_POINTS = 320
_VIEW_BOX = re.compile(r'viewBox="([^"]*)"')
Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One line. `tone` 1 to 3 are colours of the page; `quiet` is for reference lines."""

    name: str
    points: Sequence[Point]
    tone: Literal["1", "2", "3", "quiet"] = "1"
    dashed: bool = False
    dots: bool = False
    # Minimum and maximum around each point, if the points are means over several.
    band: Sequence[tuple[Point, Point]] = ()


def four_digits(value: float) -> str:
    """The number with at most four significant digits."""
    return f"{value:.4g}"


@dataclass(frozen=True)
class Axes:
    """Labels of the axes, and how to format their numbers."""

    x: str
    y: str
    log_x: bool = False
    write_x: Callable[[float], str] = short
    write_y: Callable[[float], str] = four_digits


@dataclass(frozen=True)
class _Frame:
    """Maps data to coordinates of the drawing."""

    width: float
    height: float
    x_range: Point
    y_range: Point
    log_x: bool
    left: float = 52
    right: float = 16
    top: float = 14
    bottom: float = 40

    def x(self, value: float) -> float:
        low, high = self.x_range
        if self.log_x:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, 1e-9))
        inside = self.width - self.left - self.right
        return self.left + inside * (value - low) / (high - low)

    def y(self, value: float) -> float:
        low, high = self.y_range
        inside = self.height - self.top - self.bottom
        return self.height - self.bottom - inside * (value - low) / (high - low)


def line_chart(series: Sequence[Series], axes: Axes, *, width: int, height: int) -> str:
    """SVG of the lines, downsampled if they are long. Empty if no line has a point."""
    drawn = [downsampled(s) for s in series if s.points]
    if not drawn:
        return ""
    frame = _frame(drawn, axes, width, height)
    label = escape(f"{axes.y} against {axes.x}: " + ", ".join(s.name for s in drawn), quote=True)
    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{label}" '
        f'xmlns="http://www.w3.org/2000/svg">'
    ]
    parts += _grid(frame, axes)
    for one in drawn:
        parts += _line(one, frame)
    parts += _marks(drawn, frame, axes)
    parts.append("</svg>")
    return "".join(parts)


def _frame(series: Sequence[Series], axes: Axes, width: int, height: int) -> _Frame:
    xs = [x for s in series for x, _ in s.points if x > 0 or not axes.log_x]
    ys = [y for s in series for _, y in s.points]
    ys += [y for s in series for ends in s.band for _, y in ends]
    x_range = _padded(min(xs), max(xs), 0.0, from_zero=False)
    if axes.log_x:
        x_range = (min(xs), max(max(xs), min(xs) * 10))
    y_range = _round_out(*_padded(min(ys), max(ys), 0.02, from_zero=True))
    widest = max(len(axes.write_y(tick)) for tick in ticks(*y_range, 6))
    return _Frame(width, height, x_range, y_range, axes.log_x, left=20 + 6.6 * widest)


def _padded(low: float, high: float, fraction: float, *, from_zero: bool) -> Point:
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # flat, apart from rounding
        spread = abs(low) * 0.1 or 1.0
        return low - spread, high + spread
    pad = (high - low) * fraction
    # A quantity that is never negative gets an axis that starts at 0 or above.
    return (max(low - pad, 0.0) if from_zero and low >= 0 else low - pad), high + pad


def _round_out(low: float, high: float) -> Point:
    """The bounds moved out to the next ticks, so that the top and bottom lines have numbers."""
    found = ticks(low, high, 6)
    step = found[1] - found[0] if len(found) > 1 else high - low
    return math.floor(low / step + 1e-6) * step, math.ceil(high / step - 1e-6) * step


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers between two bounds, about `wanted` of them.

    >>> ticks(0, 400, 5)
    [0.0, 100.0, 200.0, 300.0, 400.0]
    """
    rough = (high - low) / max(wanted - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{n * step:.10g}") for n in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between two bounds.

    >>> log_ticks(5e5, 2e8)
    [1000000.0, 10000000.0, 100000000.0]
    """
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    return [10.0**power for power in range(first, last + 1)]


def _grid(frame: _Frame, axes: Axes) -> list[str]:
    right, bottom = frame.width - frame.right, frame.height - frame.bottom
    parts = []
    for tick in ticks(*frame.y_range, 6):
        y = frame.y(tick)
        parts.append(
            f'<line class="grid" x1="{frame.left:.1f}" x2="{right:.1f}" y1="{y:.1f}" '
            f'y2="{y:.1f}"/><text class="tick" x="{frame.left - 8:.1f}" y="{y + 4:.1f}" '
            f'text-anchor="end">{escape(axes.write_y(tick))}</text>'
        )
    many = 6 if frame.width > 500 else 4
    x_ticks = log_ticks(*frame.x_range) if axes.log_x else ticks(*frame.x_range, many)
    for tick in x_ticks:
        x, words = frame.x(tick), axes.write_x(tick)
        # A long number at the right edge is placed left of its tick, or it would be cut off.
        anchor = "end" if x + 3.4 * len(words) > frame.width else "middle"
        parts.append(
            f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom:.1f}" y2="{bottom + 4:.1f}"'
            f'/><text class="tick" x="{x:.1f}" y="{bottom + 17:.1f}" text-anchor="{anchor}">'
            f"{escape(words)}</text>"
        )
    parts.append(
        f'<line class="axis" x1="{frame.left:.1f}" x2="{right:.1f}" y1="{bottom:.1f}" '
        f'y2="{bottom:.1f}"/><text class="tick" x="{right:.1f}" y="{bottom + 33:.1f}" '
        f'text-anchor="end">{escape(axes.x)}</text>'
    )
    return parts


def downsample(
    points: Sequence[Point], at_most: int
) -> tuple[list[Point], list[tuple[Point, Point]]]:
    """Means over equal parts of a line, and the minimum and maximum of each part.

    >>> downsample([(0, 1.0), (1, 3.0), (2, 5.0), (3, 5.0)], 2)
    ([(0.5, 2.0), (2.5, 5.0)], [((0.5, 1.0), (0.5, 3.0)), ((2.5, 5.0), (2.5, 5.0))])
    """
    if len(points) <= at_most:
        return list(points), []
    means, bands = [], []
    for number in range(at_most):
        part = points[number * len(points) // at_most : (number + 1) * len(points) // at_most]
        x = sum(x for x, _ in part) / len(part)
        ys = [y for _, y in part]
        means.append((x, sum(ys) / len(ys)))
        bands.append(((x, min(ys)), (x, max(ys))))
    return means, bands


def downsampled(series: Series) -> Series:
    """The line with at most MAX_POINTS points: means over equal parts, with a min-max band."""
    if len(series.points) <= MAX_POINTS:
        return series
    points, band = downsample(series.points, MAX_POINTS)
    return replace(series, points=points, band=band)


def _line(series: Series, frame: _Frame) -> list[str]:
    points, bands = series.points, series.band
    parts = []
    if bands:
        upper = [f"{frame.x(x):.1f},{frame.y(y):.1f}" for _, (x, y) in bands]
        lower = [f"{frame.x(x):.1f},{frame.y(y):.1f}" for (x, y), _ in reversed(bands)]
        parts.append(f'<polygon class="band s{series.tone}" points="{" ".join(upper + lower)}"/>')
    path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
    dash = " dashed" if series.dashed else ""
    parts.append(f'<polyline class="line s{series.tone}{dash}" points="{path}"/>')
    if series.dots:
        for x, y in points:
            parts.append(
                f'<circle class="dot s{series.tone}" cx="{frame.x(x):.1f}" '
                f'cy="{frame.y(y):.1f}" r="3.2"/>'
            )
    return parts


def _marks(series: Sequence[Series], frame: _Frame, axes: Axes) -> list[str]:
    """Invisible dots that show their numbers in the browser's tooltip."""
    parts = []
    for one in series:
        if one.tone == "quiet" and not one.dots:
            continue
        for x, y in downsample(one.points, 60)[0]:
            words = f"{one.name}: {axes.write_y(y)} at {axes.write_x(x)} {axes.x}"
            parts.append(
                f'<circle class="mark" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="8">'
                f"<title>{escape(words)}</title></circle>"
            )
    return parts


def legend(series: Sequence[Series]) -> str:
    """Names and colours of the lines as HTML; empty for a single line."""
    drawn = [s for s in series if s.points]
    if len(drawn) < 2:
        return ""
    items = "".join(
        f'<span class="key"><i class="s{s.tone}{" dashed" if s.dashed else ""}"></i>'
        f"{escape(s.name)}</span>"
        for s in drawn
    )
    return f'<p class="legend">{items}</p>'


def interval_svg(plot: IntervalPlot) -> str:
    """A value with its interval on a scale from 0 to 1; a tick marks chance."""
    width, middle = 150, 9

    def at(fraction: float) -> float:
        return 3 + (width - 6) * min(max(fraction, 0.0), 1.0)

    chance = ""
    if plot.chance is not None:
        chance = (
            f'<line class="chance" x1="{at(plot.chance):.1f}" x2="{at(plot.chance):.1f}" '
            f'y1="1" y2="17"/>'
        )
    return (
        f'<svg class="interval-plot" viewBox="0 0 {width} 18" width="{width}" height="18" '
        f'aria-hidden="true"><line class="axis" x1="3" x2="{width - 3}" y1="{middle}" '
        f'y2="{middle}"/>{chance}<line class="interval" x1="{at(plot.low):.1f}" '
        f'x2="{at(plot.high):.1f}" y1="{middle}" y2="{middle}"/><circle class="dot s1" '
        f'cx="{at(plot.value):.1f}" cy="{middle}" r="3"/></svg>'
    )


STANDALONE_STYLE = (
    "svg{font-family:system-ui,sans-serif}.title{font-size:15px;font-weight:600}"
    ".grid{stroke:#e4e4e0}.axis{stroke:#8a8a84}.tick{fill:#5a5a55;font-size:11px}"
    ".line{fill:none;stroke-width:2;stroke-linejoin:round}.dashed{stroke-dasharray:5 4}"
    ".band{opacity:.18;stroke:none}.mark{fill:transparent}"
    ".line.s1{stroke:#0b6e4f}.line.s2{stroke:#c25410}.line.s3{stroke:#3d5bc9}"
    ".line.squiet{stroke:#8a8a84}.dot.s1,.band.s1{fill:#0b6e4f}.dot.s2,.band.s2{fill:#c25410}"
    ".dot.s3,.band.s3{fill:#3d5bc9}.dot.squiet,.band.squiet{fill:#8a8a84}"
)


def standalone(chart: Chart) -> str:
    """The chart as a separate file: white background, with title and legend."""
    inner = chart.wide.replace("<svg ", '<svg y="44" ', 1)
    _, _, width, height = _VIEW_BOX.search(chart.wide)[1].split()  # type: ignore[index]
    names, x = [], 12.0
    for name, tone in chart.lines if len(chart.lines) > 1 else ():
        names.append(
            f'<line class="line s{tone}" x1="{x}" x2="{x + 16}" y1="37" y2="37"/>'
            f'<text class="tick" x="{x + 22}" y="41">{escape(name)}</text>'
        )
        x += 44 + 6.4 * len(name)
    total = int(height) + 44
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" width="{width}" '
        f'height="{total}"><style>{STANDALONE_STYLE}</style><rect width="{width}" '
        f'height="{total}" fill="#fff"/><text class="title" x="12" y="20">{escape(chart.title)}'
        f"</text>{''.join(names)}{_sized(inner, width, height)}</svg>\n"
    )


def _sized(svg: str, width: str, height: str) -> str:
    return svg.replace("<svg ", f'<svg width="{width}" height="{height}" ', 1)
