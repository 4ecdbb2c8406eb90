"""Task files are inspected without being loaded: includes, tags and texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from teenytinyllama.settings.task_files import read_task_file, with_includes


def test_includes_are_followed_at_any_depth_and_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("<<: {include: [b.yaml, gone.yaml]}\ntask: a\n")
    (tmp_path / "b.yaml").write_text("include: a.yaml\nextra: !function module.name\n")
    found = with_includes(tmp_path / "a.yaml")
    assert [task.path.name for task in found] == ["a.yaml", "b.yaml"]
    assert found[1].tags == {"!function"}
    assert "module.name" in found[1].texts


@pytest.mark.parametrize("text", ["a: [1", "[" * 10_000])
def test_what_is_not_yaml_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"."):
        read_task_file(tmp_path / "a.yaml")


def test_python_tags_are_reported_and_not_executed(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("x: !!python/object/apply:os.abort []\n")
    assert read_task_file(tmp_path / "a.yaml").tags == {
        "tag:yaml.org,2002:python/object/apply:os.abort"
    }
