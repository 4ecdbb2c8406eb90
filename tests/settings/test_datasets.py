"""The paper's sources by name, read from local copies."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from support.corpus_stage import Stage
from support.corpus_stage import stage as stage

from teenytinyllama.errors import UserError
from teenytinyllama.settings.datasets import Source, presets_of

QUESTION, ANSWER = "Onde mora a raposa?", "A raposa mora na floresta."
TEXT_ROW = {"text": "Um artigo inteiro sobre a floresta.", "url": "https://x.br/1"}
# One record in the layout of each dataset's card, and the text that must come out.
RECORDS: dict[str, dict[str, Any]] = {
    "wikipedia": {"id": "220", "title": "Floresta", **TEXT_ROW},
    "culturax": {**TEXT_ROW, "timestamp": "2020-01-01", "source": "mC4"},
    "oscar": {"id": 1, **TEXT_ROW, "meta": {"warc_headers": {}}},
    "cc100": {"id": 1, **TEXT_ROW, "meta": {}},
    "roots-wikiquote": {**TEXT_ROW, "meta": "{}"},
    "roots-ted-talks": {**TEXT_ROW, "meta": "{}"},
    "instruct-ptbr": {"INSTRUCTION": QUESTION, "RESPONSE": ANSWER, "LANGUAGE": "pt"},
    "gpt4all-j": {"prompt": QUESTION, "response": ANSWER, "source": "unified_chip2"},
    "bactrian-x": {"instruction": QUESTION, "input": "", "id": "a-1", "output": ANSWER},
    "dolly": {"instruction": QUESTION, "context": "", "response": ANSWER, "category": "qa"},
    "cosmos-qa": {
        "context": "",
        "question": QUESTION,
        "label": 1,
        "answer0": "?",
        "answer1": ANSWER,
    },
}


def test_every_preset_is_a_valid_source_with_an_example() -> None:
    assert sorted(presets_of("pt")) == sorted(RECORDS)
    for name, fields in presets_of("pt").items():
        source = Source(kind="hub", name=name, **fields)
        assert source.license and source.origin.endswith(source.path)


@pytest.mark.parametrize("name", RECORDS)
def test_a_local_copy_is_read_by_the_fields_of_its_preset(
    name: str, stage: Stage, tmp_path: Path
) -> None:
    pytest.importorskip("datasets")
    folder = tmp_path / "copia"
    folder.mkdir()
    record = RECORDS[name]
    other = {
        k: f"Outro: {v}" if isinstance(v, str) and k != "LANGUAGE" else v for k, v in record.items()
    }
    lines = [json.dumps(row) for row in (record, other)]
    (folder / "train.jsonl").write_text("\n".join(lines), "utf-8")
    source = {"kind": "hub", "preset": name, "path": str(folder), "config": ""}
    rows = stage(source, near_duplicates=None).rows("*-*.zst")
    (row,) = [r for r in rows if not r["text"].startswith("Outro")]
    assert row["license"] == presets_of("pt")[name]["license"]
    assert row["source"] == name
    if "text" in record:
        assert (row["text"], row["url"]) == (TEXT_ROW["text"], TEXT_ROW["url"])
    else:
        assert [m["content"] for m in row["messages"]] == [QUESTION, ANSWER]


def test_rows_of_another_language_are_dropped_and_counted(stage: Stage, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    rows = [
        {"INSTRUCTION": f"{q}?", "RESPONSE": f"{q}!", "LANGUAGE": language}
        for q, language in (("Um", "pt"), ("Dois", "pt"), ("Three", "en"))
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    left = stage({"kind": "hub", "preset": "instruct-ptbr", "path": str(tmp_path)})
    assert left.counts["filtered_by_reason"] == {"not-selected": 1}
    assert left.counts["documents_kept"] == 2


def test_an_unknown_preset_is_an_error(stage: Stage) -> None:
    with pytest.raises(UserError, match=r'no source named "wikipedja" .*"wikipedia"'):
        stage({"kind": "hub", "preset": "wikipedja"})


@pytest.mark.parametrize(
    ("value", "wanted", "selected"),
    [
        (True, ("true", "True", "TRUE", True, 1, "1", 1.0, "1.0"), True),
        ("true", (True, "True", 1), True),  # as a .csv has it
        (1, (1.0, "1", "1.0", "1e0", True), True),
        ("1.0", (1, "1"), True),
        (False, (0, "false", "0.0"), True),
        (1.5, ("1.5", "1.50", 1.5), True),
        (None, ("",), True),
        (None, ("None", "null", 0, False), False),
        ("01", (1, "1"), False),  # a code, not a number
        (True, ("yes", 0, "false"), False),
        ("pt", ("PT", "pt "), False),
    ],
)
def test_only_compares_values_not_spellings(value: object, wanted: tuple[Any, ...], selected: bool):
    for one in wanted:
        source = Source(kind="files", path="x", only={"a": one})
        assert source.selects({"a": value}) is selected, one
        assert not source.selects({"b": value})


def test_only_takes_toml_values():
    toml = 'kind = "files"\npath = "x"\nonly = { ok = true, stars = 5, part = 1.5, lang = "pt" }'
    source = Source(**tomllib.loads(toml))
    assert source.selects({"ok": "True", "stars": "5.0", "part": 1.5, "lang": "pt"})


@pytest.mark.parametrize("name", ["none", "zlib", "rot13", "undefined", "utf\0", "u" * 5000])
def test_an_encoding_must_be_one_of_text(name):
    with pytest.raises(ValueError, match="no encoding is called") as caught:
        Source(kind="files", path="a", encoding=name)
    assert len(str(caught.value)) < 500
