"""The page in a real browser: chat, stop, retry, compare, search, both languages.

Needs Chromium and the package playwright (`pip install playwright`; its own browsers are not
needed). With the environment variable AXE_CORE naming an `axe.min.js`, accessibility too.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.running_server import RunningServer, running

from teenytinyllama.inference.chat_model import ChatModel
from teenytinyllama.serving.search.chat_sources import find_chat_sources
from teenytinyllama.serving.search.search_service import SearchLoader

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]
sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright on this machine")
HOSTILE = "<img src=/x onerror=\"document.title='broken in'\">"


@pytest.fixture(scope="module")
def server(
    chat_model: ChatModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("data")
    data = folder / "conversas.jsonl"
    rows = [
        f'{{"instruction": "Onde mora o bicho número {n}?", "output": "Na floresta {n}."}}'
        for n in range(40)
    ]
    rows.append('{"instruction": "Qual é a fruta?", "output": "É a jabuticaba."}')
    data.write_text("\n".join(rows), encoding="utf-8")
    sources = find_chat_sources([folder], [data])
    assert sources is not None
    search = SearchLoader(sources)
    search.start()
    search.wait(60)
    with running([chat_model, replace(chat_model, name="outro")], search=search) as one:
        yield one


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def open_page(browser: Any, server: RunningServer, **options: Any) -> tuple[Any, list[str]]:
    """The loaded page, and the list of problems that it reports from now on."""
    context = browser.new_context(bypass_csp=bool(os.environ.get("AXE_CORE")), **options)
    page = context.new_page()
    page.set_default_timeout(60_000)
    problems: list[str] = []
    page.on("console", lambda line: problems.append(f"{line.type}: {line.text}"))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request",
        lambda sent: (
            None if sent.url.startswith(server.url) else problems.append(f"requests {sent.url}")
        ),
    )
    page.goto(f"{server.url}/")
    page.wait_for_function("() => document.querySelector('#model').options.length == 2")
    return page, problems


def check_accessible(page: Any) -> None:
    path = os.environ.get("AXE_CORE")
    if not path:
        return
    page.evaluate(Path(path).read_text(encoding="utf-8"))
    found = page.evaluate(
        "async () => (await axe.run()).violations.map(v => [v.id, v.impact, v.nodes[0].html])"
    )
    assert not [one for one in found if one[1] in ("serious", "critical")], found


@pytest.mark.parametrize(
    ("width", "scheme", "locale"),
    [(1280, "light", "pt-BR"), (1280, "dark", "en-US"), (390, "light", "pt-BR")],
)
def test_everything_on_the_page_works(
    browser: Any, server: RunningServer, width: int, scheme: str, locale: str
) -> None:
    size = {"width": width, "height": 800}
    page, problems = open_page(browser, server, viewport=size, color_scheme=scheme, locale=locale)
    page.wait_for_selector(".suggestion")
    check_accessible(page)
    page.fill("#question", HOSTILE)
    page.keyboard.press("Enter")
    page.wait_for_selector(".retry")
    assert page.inner_text(".question p") == HOSTILE
    page.wait_for_selector("p.match")
    check_accessible(page)
    if not page.locator(".nearest").evaluate("one => one.open"):
        page.click(".nearest > summary")
    page.wait_for_selector(".nearest[open]")
    page.select_option("#second", "outro")
    page.click(".retry")
    page.wait_for_function(
        "() => document.querySelectorAll('.two .answer[aria-busy=false]').length == 2"
    )
    page.wait_for_selector(".retry")
    check_accessible(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.click("#tab-data")
    page.fill("#query", "jabuticaba")
    page.wait_for_selector("mark.shared")
    assert page.locator(".example").count() == 1
    check_accessible(page)
    before = [page.inner_text(f"#view-data {part}") for part in ("h2", ".example dt")]
    page.click("#language")
    after = [page.inner_text(f"#view-data {part}") for part in ("h2", ".example dt")]
    assert before[0] != after[0] and before[1] != after[1]
    assert page.evaluate("document.title") == "TeenyTinyLlama"
    assert problems == []


def test_the_keyboard_alone_is_enough(browser: Any, server: RunningServer) -> None:
    page, problems = open_page(browser, server, locale="pt-BR")
    page.wait_for_function("() => document.activeElement.id == 'question'")
    page.keyboard.type("Olá")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("raposa")
    page.keyboard.press("Enter")
    page.wait_for_selector(".retry")
    assert page.inner_text(".question p") == "Olá\nraposa"
    page.focus("#tab-chat")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("#tab-data", "aria-selected") == "true"
    page.focus("#open-settings")
    page.keyboard.press("Enter")
    assert page.locator("#settings").evaluate("one => one.open")
    page.keyboard.press("Escape")
    assert not page.locator("#settings").evaluate("one => one.open")
    assert problems == []


def test_an_answer_can_be_stopped_and_copied(
    browser: Any, server: RunningServer, chat_model: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, step = chat_model.decoder, chat_model.decoder.decode_step
    wait = threading.Event().wait
    monkeypatch.setattr(
        decoder, "decode_step", lambda *given: (wait(0.15), step(*given))[1], raising=False
    )
    permissions = ["clipboard-read", "clipboard-write"]
    page, problems = open_page(browser, server, locale="pt-BR", permissions=permissions)
    page.fill("#question", "Conte uma história")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('.text').textContent.length > 3")
    page.click("#stop")
    page.wait_for_selector(".retry")
    assert "parado" in page.inner_text(".answer footer")
    page.wait_for_function("() => document.querySelector('.text').textContent.length > 3")
    text = page.evaluate("document.querySelector('.text').textContent")
    page.click("text=Copiar")
    page.wait_for_selector("text=Copiado")
    assert page.evaluate("navigator.clipboard.readText()") == text
    assert problems == []
