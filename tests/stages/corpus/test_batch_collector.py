"""Inputs that cannot be right stop the stage."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.corpus_stage import GOOD, Stage, json_lines

from teenytinyllama.errors import UserError

LINES = json_lines(*GOOD)


ENGLISH = "The fox lives in the forest and she likes to tell the same old stories to everyone."


def test_7_text_key_missing_everywhere_names_the_keys(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"content": "um texto", "title": "b"}\n' * 300)
    with pytest.raises(UserError, match='they have content, title - fix: set text_key = "content"'):
        stage(tmp_path / "a.jsonl")


def test_7_dialogues_read_as_text_name_the_shape(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"messages": [{"role": "user", "content": "oi"}]}\n')
    with pytest.raises(UserError, match=r'set shape = "conversation" in corpus.sources.0, or'):
        stage(tmp_path / "a.jsonl")


def test_31_other_languages_are_reported_and_too_much_stops(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("py3langid")
    foreign = [ENGLISH.replace("fox", f"fox {n}") for n in range(6)]
    (tmp_path / "a.jsonl").write_bytes(json_lines(*GOOD, *foreign))
    language = {"families": ["language"]}
    left = stage(tmp_path / "a.jsonl", filters=language)
    assert sorted(left.dropped()["language"]) == sorted(foreign)
    assert '60% of the documents are not in the language "pt"' in capsys.readouterr().err
    with pytest.raises(UserError, match=r'60% of 10 documents are not in the language "pt"'):
        stage(tmp_path / "a.jsonl", filters=language, max_foreign_fraction=0.5)


def test_32_missing_licence_names_the_line_to_add(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    with pytest.raises(UserError, match=r'a\.jsonl:1:license .*add license = "CC-BY-4\.0"'):
        stage(tmp_path / "a.jsonl", license="")
    (tmp_path / "b.jsonl").write_bytes(json_lines(*GOOD, license="unknown"))
    with pytest.raises(UserError, match="names no licence"):
        stage(tmp_path / "b.jsonl", license="")


def test_too_many_bad_records_stop_the_stage(stage: Stage, tmp_path: Path) -> None:
    bad = b'{"text": null}\n' * 20
    (tmp_path / "a.jsonl").write_bytes(LINES + bad)
    said = r"20 of 24 records .* \(most: text-null, 20; the first: .*a\.jsonl:5, text-null\)"
    with pytest.raises(UserError, match=said) as error:
        stage(tmp_path / "a.jsonl")
    assert error.value.fix.endswith("--set corpus.max_quarantined_fraction=0.84")
    left = stage(tmp_path / "a.jsonl", max_quarantined_fraction=0.9)
    assert left.counts["documents_quarantined"] == 20


@pytest.mark.parametrize("num_good", [0, 1])
def test_records_that_leave_no_corpus_are_the_reason(
    num_good: int, stage: Stage, tmp_path: Path
) -> None:
    """Never "add text"."""
    (tmp_path / "a.jsonl").write_bytes(json_lines(*GOOD[:num_good]) + b"404 Not Found\n")
    said = rf"1 of {num_good + 1} records .*invalid-json, 1; the first: .*a\.jsonl:\d, "
    with pytest.raises(UserError, match=said) as error:
        stage(tmp_path / "a.jsonl")
    assert error.value.fix == "fix the sources"


def test_no_field_is_proposed_where_none_is_a_text(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"document": {"text": "um"}, "n": 1}\n' * 200)
    with pytest.raises(UserError, match="set text_key to a field that is a text: here none is"):
        stage(tmp_path / "a.jsonl")
