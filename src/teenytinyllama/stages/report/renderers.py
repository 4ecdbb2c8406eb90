"""Blocks to one HTML file: style and script inside, no request leaves it, all text escaped.

A content security policy with the hash of our own script stands in its head: were a text to slip
through the escaping, the browser would still neither run nor fetch anything.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from teenytinyllama.redaction import redact
from teenytinyllama.stages.report.page_blocks import Page
from teenytinyllama.stages.report.svg_chart import strip_svg


def render(page: Page, *, refresh_s: int = 0) -> str:
    """The page as HTML; with `refresh_s`, one that the browser loads again so often."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["strip_svg"] = lambda strip: Markup(strip_svg(strip))
    # Drawings are made by `chart`, which escapes every word in them itself.
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
    # Pages are passed on: no secret leaves in one, wherever in the run it stood.
    return redact(html, for_others=True)


def _file(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")
