"""The page: its own files only, text stays text, both languages complete."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from support.running_server import RunningServer, running

from teenytinyllama.inference.chat_model import ChatModel
from teenytinyllama.serving.app import PAGE_DIR, PAGE_FILES

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SCRIPTS = [PAGE_DIR / name for name, _ in PAGE_FILES.values() if name.endswith(".js")]


def test_files_have_a_strict_content_security_policy(server: RunningServer) -> None:
    for path, (name, kind) in PAGE_FILES.items():
        status, text, response = server.ask(path)
        assert (status, response.getheader("content-type")) == (200, kind)
        assert text == (PAGE_DIR / name).read_text(encoding="utf-8")
        policy = response.getheader("content-security-policy", "")
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert "require-trusted-types-for 'script'" in policy
        assert response.getheader("x-content-type-options") == "nosniff"


def test_no_script_can_turn_text_into_markup() -> None:
    for path in SCRIPTS:
        source = path.read_text(encoding="utf-8")
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert word not in source, (path.name, word)


def test_the_page_refers_to_no_other_site() -> None:
    for name, _ in PAGE_FILES.values():
        source = (PAGE_DIR / name).read_text(encoding="utf-8")
        source = source.replace("http://www.w3.org/2000/svg", "")  # a namespace, not an address
        assert not re.findall(r"https?://|//[a-z]+\.[a-z]+", source), name


def test_both_languages_have_every_text() -> None:
    source = (PAGE_DIR / "words.js").read_text(encoding="utf-8")
    pt, en = source.split("\n  en: {", 1)
    word = re.compile(r'(?:^|[ {,])(\w+): "', re.MULTILINE)
    in_pt, in_en = (set(word.findall(part)) for part in (pt, en.split("\n};", 1)[0]))
    assert in_pt == in_en and len(in_pt) > 60
    page = (PAGE_DIR / "index.html").read_text(encoding="utf-8")
    assert set(re.findall(r'data-(?:word|label|placeholder)="(\w+)"', page)) <= in_pt
    for path in SCRIPTS:
        used = re.findall(r'\btranslate\("(\w+)"', path.read_text(encoding="utf-8"))
        assert set(used) <= in_pt, path.name


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_browser_shows_a_hostile_name_as_text(chat_model: ChatModel, tmp_path: Path) -> None:
    name = "<img src=/x onerror=\"document.title='broken in'\">"
    with running([replace(chat_model, name=name)]) as server:
        assert CHROMIUM is not None
        command = [CHROMIUM, "--headless", "--no-sandbox", "--dump-dom", "--enable-logging=stderr"]
        command += [f"--user-data-dir={tmp_path}", "--virtual-time-budget=4000", f"{server.url}/"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "&lt;img src=/x onerror" in done.stdout
    assert "<title>TeenyTinyLlama</title>" in done.stdout
    assert "CONSOLE" not in done.stderr, done.stderr[-1000:]


def test_what_people_models_and_data_say_has_its_own_direction() -> None:
    html = (PAGE_DIR / "index.html").read_text()
    for name in ("question", "query", "system"):
        assert f'id="{name}" dir="auto"' in html
    scripts = {path.name: path.read_text() for path in PAGE_DIR.glob("*.js")}
    assert 'element.dir = "auto"' in scripts["words.js"]
    assert scripts["chat.js"].count("= makeText(") + scripts["chat.js"].count(", makeText(") == 3
    assert scripts["attribution.js"].count("makeText(") == 2
