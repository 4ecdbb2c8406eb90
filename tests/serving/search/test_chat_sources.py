"""The chat data of a model: the files of `--data`, else what its run was trained on."""

from __future__ import annotations

from pathlib import Path

import pytest
import zstandard
from support.no_network import no_network

from teenytinyllama.errors import UserError
from teenytinyllama.serving.search.chat_sources import find_chat_sources
from teenytinyllama.serving.search.retriever import Retriever, open_index
from teenytinyllama.serving.search.search_service import SearchLoader

ROW = '{"messages": [{"role": "user", "content": "%s"}, {"role": "assistant", "content": "%s"}]}\n'
SAID = [ROW % ("o cofre", f"no tapete {number}") for number in range(4)]


def write_align(run_dir: Path, rows: list[str]) -> Path:
    """What the align stage leaves of its training conversations."""
    path = run_dir / "align" / "train.jsonl.zst"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(zstandard.compress("".join(rows).encode()))
    return path


@pytest.mark.parametrize("named", ["", "align", "align/final", "quantize/a.gguf"])
def test_the_align_stage_left_the_chat_data(tmp_path: Path, named: str) -> None:
    assert find_chat_sources([tmp_path / named], []) is None
    write_align(tmp_path, [*SAID, "broken\n", '{"messages": []}\n'])
    sources = find_chat_sources([tmp_path / named], [])
    assert sources is not None
    loader = SearchLoader(sources)
    loader.start()
    loader.wait(30)
    assert loader.state == "ready" and loader.service is not None
    assert loader.service.examples()["total"] == 4
    assert isinstance(open_index(tmp_path / ".search", sources.fingerprint(), "pt"), Retriever)


def test_a_missing_data_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="chat-data"):
        find_chat_sources([tmp_path], [tmp_path / "gone.jsonl"])


@pytest.mark.parametrize("linked", ["align/train.jsonl.zst", "align"])
def test_a_strangers_link_to_elsewhere_is_not_read(tmp_path: Path, linked: str) -> None:
    private, run_dir = tmp_path / "private", tmp_path / "run"
    write_align(private, SAID)
    (run_dir / linked).parent.mkdir(parents=True, exist_ok=True)
    (run_dir / linked).symlink_to(private / linked)
    with no_network() as tried:
        assert find_chat_sources([run_dir], []) is None
    assert tried == []
    found = find_chat_sources([run_dir], [private / "align" / "train.jsonl.zst"])
    assert found is not None and len(list(found.conversations())) == 4


@pytest.mark.parametrize("value", ['{"recipe": 3}', "[]", "{", '{"recipe": {"language": "../x"}}'])
def test_a_damaged_run_file_does_not_stop_the_search(tmp_path: Path, value: str) -> None:
    (tmp_path / "run.json").write_text(value)
    write_align(tmp_path, SAID)
    found = find_chat_sources([tmp_path], [])
    assert found is not None and found.language == "pt"
