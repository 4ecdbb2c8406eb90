"""Links, images and anchors of the pages lead somewhere, the Python they name exists."""

import ast
import re
import shlex
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from markdown_it import MarkdownIt
from typer.main import get_command

from teenytinyllama.cli.app import app
from teenytinyllama.cli.reference import settings_rows

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
MARKDOWN = MarkdownIt("commonmark").enable("table")


def inline_tokens(page):
    for token in MARKDOWN.parse(page.read_text(encoding="utf-8")):
        yield from token.children or ()


def targets(page):
    """Every address that the page links to or shows."""
    for token in inline_tokens(page):
        address = token.attrGet("href") or token.attrGet("src")
        if address:
            yield address


def anchors(page):
    """The anchors of the headings, as GitHub and the site make them."""
    tokens, found = MARKDOWN.parse(page.read_text(encoding="utf-8")), []
    for opening, inside in pairwise(tokens):
        if opening.type == "heading_open":
            text = "".join(part.content for part in inside.children)
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            found.append(f"{slug}-{found.count(slug)}" if slug in found else slug)
    return found


def dead_links(page):
    for address in targets(page):
        parts = urlsplit(address)
        if parts.scheme:
            continue
        target = page.parent / unquote(parts.path) if parts.path else page
        if not target.exists():
            yield f"{page.name}: {address}: no such file"
        elif parts.fragment and unquote(parts.fragment) not in anchors(target):
            yield f"{page.name}: {address}: no such heading"
        elif DOCS in page.parents and DOCS not in target.resolve().parents:
            yield f"{page.name}: {address}: not on the site, which has docs/ only"


def test_the_check_itself_finds_dead_links(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A page's `title`\n[a](other.md) ![b](no.png)\n\n[c](#a-pages-title) [d](#e)\n\n"
        "`[code](no.md)` [f](https://example.org) [g](<page.md#a-pages-title>)\n"
    )
    assert [line.split(": ")[1] for line in dead_links(page)] == ["other.md", "no.png", "#e"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_internal_links_lead_somewhere(page):
    assert list(dead_links(page)) == []


def nav_pages(entry):
    if isinstance(entry, str):
        yield entry
        return
    for part in entry.values() if isinstance(entry, dict) else entry:
        yield from nav_pages(part)


def test_the_site_s_navigation_has_every_page():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = list(nav_pages(config["nav"]))
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def python_names(page):
    """(module, name) of our package in the page's Python code and in its API reference."""
    text = page.read_text(encoding="utf-8")
    for dotted in re.findall(r"^::: (\S+)", text, re.M):
        yield tuple(dotted.rsplit(".", 1))
    for token in MARKDOWN.parse(text):
        if token.type == "fence" and token.info == "python":
            for node in ast.walk(ast.parse(token.content)):
                if isinstance(node, ast.ImportFrom) and node.module.startswith("teenytinyllama"):
                    yield from ((node.module, alias.name) for alias in node.names)


def test_python_names_on_the_pages_exist():
    named = {pair for page in PAGES for pair in python_names(page)}
    assert len(named) > 8
    for module, name in named:
        path = ROOT / "src" / (module.replace(".", "/") + ".py")
        body = ast.parse(path.read_text(encoding="utf-8")).body
        defined = {getattr(node, "name", "") for node in body}
        assert name in defined, f"{module}.{name}"


def commands(page):
    """The arguments of each `ttl ...` line in the page's code."""
    for token in MARKDOWN.parse(page.read_text(encoding="utf-8")):
        if token.type == "code_block" or (token.type == "fence" and token.info in ("", "bash")):
            for line in token.content.splitlines():
                if line.removeprefix(".venv/bin/").startswith("ttl "):
                    yield shlex.split(line, comments=True)[1:]


def test_the_command_line_takes_every_command_of_the_pages():
    names = get_command(app).commands
    typed = {(page.name, *line) for page in PAGES for line in commands(page)}
    assert len(typed) > 50
    for page, name, *arguments in typed:
        with names[name].make_context(name, arguments) as context:
            assert context.params, f"{page}: ttl {name}"


def test_settings_that_the_pages_name_exist():
    known = {re.sub(r"\[\]", "", row[0]) for row in settings_rows()}
    sections = {path.split(".")[0] for path in known}
    for page in PAGES:
        for token in inline_tokens(page):
            if token.type == "code_inline":
                for path in re.findall(r"[a-z_]+(?:\.[a-z_0-9]+)+", token.content):
                    if path.split(".")[0] in sections and not path.endswith((".py", ".json")):
                        assert path in known, f"{page.name}: {path}"
