"""The chat data of a model: the files of `--data`, else what its run was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.no_network import no_network

from teenytinyllama.artifacts.manifest import write_json
from teenytinyllama.errors import UserError
from teenytinyllama.serving.search.chat_sources import find_chat_sources
from teenytinyllama.serving.search.retriever import Retriever, open_index
from teenytinyllama.serving.search.search_service import SearchLoader


def write_align(folder: Path, *sources: Any) -> None:
    """An align stage's folder whose manifest names these sources."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = dict.fromkeys(("version", "fingerprint", "started_at"), "0")
    empty: dict[str, Any] = {
        name: {} for name in ("inputs", "outputs", "counts", "metrics", "energy_kwh", "versions")
    }
    numbers = {"duration_s": 0, "emissions_kg": 0}
    recipe = {"sources": list(sources)}
    whole = {**manifest, **empty, **numbers, "stage": "align", "recipe": recipe}
    write_json(folder / "manifest.json", whole)


def test_the_align_manifest_names_the_chat_data(tmp_path: Path) -> None:
    assert find_chat_sources([tmp_path], []) is None
    write_align(tmp_path / "align", {"kind": "storybook", "num_documents": 40})
    sources = find_chat_sources([tmp_path], [])
    assert sources is not None
    loader = SearchLoader(sources)
    loader.start()
    loader.wait(30)
    assert loader.state == "ready" and loader.service is not None
    assert loader.service.examples()["total"] == 40
    assert isinstance(open_index(tmp_path / ".search", sources.fingerprint(), "pt"), Retriever)


def test_a_missing_data_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="chat-data"):
        find_chat_sources([tmp_path], [tmp_path / "gone.jsonl"])


@pytest.fixture
def strangers_run(tmp_path: Path) -> Path:
    """A run folder in `tmp_path`, where a private file lies beside it."""
    (tmp_path / "private.jsonl").write_text('{"question": "o cofre", "answer": "no tapete"}\n')
    run_dir = tmp_path / "run"
    (run_dir / "align").mkdir(parents=True)
    return run_dir


OUTSIDE: tuple[Any, ...] = (
    {"kind": "files", "path": "{root}/private.jsonl"},
    {"kind": "files", "path": "{root}/run/../private.jsonl"},
    {"kind": "files", "path": "{root}/run/align/../../private.jsonl"},
    {"kind": "files", "path": "{root}/*.jsonl"},
    {"kind": "files", "path": "{root}/run/**/../../*.jsonl"},
    {"kind": "files", "path": "{root}"},
    {"kind": "files", "path": "~/private.jsonl"},
    {"kind": "files", "path": "private.jsonl"},
    {"kind": "files", "path": "/proc/self/environ"},
    {"kind": "files", "path": "{root}/run/link.jsonl"},
    {"kind": "files", "path": "{root}/run/links"},
    {"kind": "hub", "path": "someone/data"},
    {"kind": "hub", "path": "{root}"},
    {"kind": "hub", "preset": "alpaca-gpt4-pt"},
    {"kind": "storybook", "num_documents": 10**15},
    {"kind": "unknown"},
    {"kind": "files", "path": "a\x00b"},
    3,
)


@pytest.mark.parametrize("source", OUTSIDE, ids=str)
@pytest.mark.parametrize("named", ["run", "run/align", "run/align/final", "run/quantize/a.gguf"])
def test_a_strangers_manifest_names_nothing_outside_its_run(
    strangers_run: Path, monkeypatch: pytest.MonkeyPatch, source: Any, named: str
) -> None:
    root = strangers_run.parent
    monkeypatch.chdir(root)
    monkeypatch.setenv("HOME", str(root))
    (strangers_run / "link.jsonl").symlink_to(root / "private.jsonl")
    (strangers_run / "links").mkdir()
    (strangers_run / "links" / "a.jsonl").symlink_to(root / "private.jsonl")
    if isinstance(source, dict) and "path" in source:
        source = {**source, "path": source["path"].replace("{root}", str(root))}
    write_align(strangers_run / "align", {"kind": "storybook", "num_documents": 4}, source)
    with no_network() as tried:
        assert find_chat_sources([root / named], []) is None
    assert tried == []


def test_a_kept_file_that_is_a_link_to_elsewhere_is_not_read(strangers_run: Path) -> None:
    write_align(strangers_run / "align")
    (strangers_run / "align" / "train.jsonl").symlink_to(strangers_run.parent / "private.jsonl")
    assert find_chat_sources([strangers_run], []) is None


def test_what_lies_in_the_run_is_read_and_data_may_lie_anywhere(strangers_run: Path) -> None:
    inside = strangers_run / "chat.jsonl"
    inside.write_bytes((strangers_run.parent / "private.jsonl").read_bytes())
    write_align(strangers_run / "align", {"kind": "files", "path": str(inside)})
    for found in (
        find_chat_sources([strangers_run], []),
        find_chat_sources([strangers_run], [strangers_run.parent / "private.jsonl"]),
    ):
        assert found is not None
        messages = [messages for _, messages in found.conversations()]
        assert [message["content"] for message in messages[0]] == ["o cofre", "no tapete"]


@pytest.mark.parametrize("value", ['{"recipe": 3}', "[]", "{", '{"recipe": {"language": "../x"}}'])
def test_a_damaged_run_file_does_not_stop_the_search(strangers_run: Path, value: str) -> None:
    (strangers_run / "run.json").write_text(value)
    write_align(strangers_run / "align", {"kind": "storybook", "num_documents": 4})
    found = find_chat_sources([strangers_run], [])
    assert found is not None and found.language == "pt"
