"""Settings of the stages that prepare data."""

from __future__ import annotations

from pathlib import Path

import pytest

from teenytinyllama.settings.data_preparation import (
    FilterSettings,
    QualityCut,
    QualitySettings,
    ToxicitySettings,
)


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
    quality = QualitySettings(labels_path=str(tmp_path / "lines.jsonl"))
    found = [path.name for path in FilterSettings(quality_classifier=quality).local_paths()]
    assert found == ["lines.jsonl"]


def test_quality_is_learned_from_labels_or_from_a_clean_sample() -> None:
    for given in ({}, {"labels_path": "a.jsonl", "clean_path": "b.txt"}):
        with pytest.raises(ValueError, match="give one of labels_path and clean_path"):
            QualitySettings(**given)
    cuts = QualitySettings(
        clean_path="b.txt", min_score=2.5, by_source={"leis": QualityCut(kept_fraction=0.5)}
    )
    assert cuts.cut_for("romances").min_score == 2.5
    assert cuts.cut_for("leis").min_score is None
