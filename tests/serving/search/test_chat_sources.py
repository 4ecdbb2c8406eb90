"""The chat data of a model: the files of `--data`, else what its run was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from teenytinyllama.artifacts.manifest import write_json
from teenytinyllama.errors import UserError
from teenytinyllama.serving.search.chat_sources import find_chat_sources
from teenytinyllama.serving.search.retriever import Retriever, open_index
from teenytinyllama.serving.search.search_service import SearchLoader


def test_the_align_manifest_names_the_chat_data(tmp_path: Path) -> None:
    assert find_chat_sources([tmp_path], []) is None
    (tmp_path / "align").mkdir()
    manifest: dict[str, Any] = {
        "stage": "align",
        "version": "0",
        "fingerprint": "x",
        "recipe": {"sources": [{"kind": "storybook", "num_documents": 40}]},
        "inputs": {},
        "outputs": {},
        "counts": {},
        "metrics": {},
        "started_at": "",
        "duration_s": 0,
        "energy_kwh": {},
        "emissions_kg": 0,
        "versions": {},
    }
    write_json(tmp_path / "align" / "manifest.json", manifest)
    sources = find_chat_sources([tmp_path], [])
    assert sources is not None
    loader = SearchLoader(sources)
    loader.start()
    loader.wait(30)
    assert loader.state == "ready" and loader.service is not None
    assert loader.service.examples({})["total"] == 40
    assert isinstance(open_index(tmp_path / ".search", sources.fingerprint(), "pt"), Retriever)


def test_a_missing_data_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="chat-data"):
        find_chat_sources([tmp_path], [tmp_path / "gone.jsonl"])
