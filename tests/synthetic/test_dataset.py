"""The invented world as files."""

from __future__ import annotations

import json
from pathlib import Path

from teenytinyllama.synthetic import dataset


def test_files_have_the_same_items_as_the_generators(tmp_path: Path) -> None:
    dataset.write_files(tmp_path, language="gl", num_documents=6, num_conversations=3, seed=2)
    lines = (tmp_path / "text/storybook.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    made = dataset.documents(seed=2, num_documents=6, language="gl")
    assert texts == [document.text for document in made]
    assert len((tmp_path / "chat/storybook.jsonl").read_text().splitlines()) == 3
    assert (tmp_path / "clean.txt").read_text(encoding="utf-8") == "\n\n".join(texts)
