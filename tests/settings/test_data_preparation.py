"""Settings of the stages that prepare data."""

from __future__ import annotations

from pathlib import Path

from teenytinyllama.settings.data_preparation import FilterSettings, ToxicitySettings


def test_filters_name_the_files_they_read(tmp_path: Path) -> None:
    for name in ("glotlid.bin", "lines.jsonl", "clean.txt"):
        (tmp_path / name).touch()
    toxicity = ToxicitySettings(
        model=str(tmp_path / "lines.jsonl"), clean_path=str(tmp_path / "clean.txt")
    )
    settings = FilterSettings(language_model=str(tmp_path / "glotlid.bin"), toxicity=toxicity)
    found = [path.name for path in settings.local_paths()]
    assert found == ["clean.txt", "glotlid.bin", "lines.jsonl"]
    assert FilterSettings(toxicity=ToxicitySettings()).local_paths() == []
