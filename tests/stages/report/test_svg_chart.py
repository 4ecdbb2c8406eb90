from __future__ import annotations

import re

from teenytinyllama.stages.report.svg_chart import MAX_POINTS, Axes, Series, legend, line_chart


def draw(*series: Series) -> str:
    return line_chart(series, Axes("steps", "loss"), width=820, height=330)


def test_lines_without_points_are_not_drawn() -> None:
    assert draw(Series("a", [])) == ""
    assert legend([Series("a", [(0, 1)]), Series("b", [])]) == ""


def test_long_line_is_downsampled_with_a_band() -> None:
    svg = draw(Series("a", [(x, x % 7) for x in range(10_000)]))
    line = re.search(r'<polyline[^>]* points="([^"]*)"', svg)
    assert line
    assert len(line[1].split()) == MAX_POINTS
    assert 'class="band s1"' in svg


def test_names_are_escaped() -> None:
    svg = draw(Series('<b>"x"', [(0, 1), (1, 2)]))
    assert "<b>" not in svg
    assert "&lt;b&gt;&quot;x&quot;" in svg
