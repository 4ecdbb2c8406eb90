"""Records that become documents, and those that are quarantined."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.corpus_stage import GOOD, Stage, json_lines

from teenytinyllama.artifacts.conversations import Message
from teenytinyllama.artifacts.documents import document_row
from teenytinyllama.settings.data_preparation import CorpusSettings
from teenytinyllama.settings.datasets import Source
from teenytinyllama.stages.corpus.batches import (
    BatchDocument,
    DocumentBatch,
    RawItem,
    StepConfig,
    quarantine_row,
)
from teenytinyllama.stages.corpus.readers.record_parser import (
    ExtractText,
    ParseRecord,
    SourceSelection,
)

LINES = json_lines(*GOOD)


def with_line(line: bytes) -> bytes:
    """The four good documents with a bad line as the third."""
    first, second, rest = LINES.split(b"\n", 2)
    return b"\n".join([first, second, line, rest])


def reasons(left: object) -> list[str]:
    return [row["reason"] for row in left.quarantine()]  # type: ignore[attr-defined]


QUARANTINED = {
    "1 invalid UTF-8": (b'{"text": "caf\xe9 da manh\xc3\xa3"}', "invalid-utf8"),
    "5 truncated JSON": (b'{"text": "cortado', "invalid-json"),
    "6 list": (b'["a", "b"]', "not-an-object"),
    "6 number": (b"42", "not-an-object"),
    "6 null": (b"null", "not-an-object"),
    "7 text key missing": (b'{"content": "outro campo"}', "text-missing"),
    "8 text null": (b'{"text": null}', "text-null"),
    "9 text number": (b'{"text": 7}', "text-number"),
    "10 text list": (b'{"text": ["a"]}', "text-list"),
    "11 text empty": (b'{"text": ""}', "text-empty"),
    "12 white space": (b'{"text": " \\n\\t "}', "text-blank"),
    "13 only control characters": (b'{"text": "\\u0000\\u0001"}', "text-blank"),
    "14 lone surrogate": (b'{"text": "meio emoji \\ud83d aqui"}', "lone-surrogate"),
    "15 giant line": (b'{"text": "' + b"a" * 5000 + b'"}', "line-too-long"),
    "16 nesting that Python just parses": (
        b'{"text": "x", "license": ' + b"[" * 960 + b"]" * 960 + b"}",
        "nesting-too-deep",
    ),
    "16 nesting": (b'{"text": "x", "y": ' + b"[" * 1900 + b"]" * 1900 + b"}", "nesting-too-deep"),
    "17 duplicate text key": (b'{"text": "a", "text": "b"}', "duplicate-text-key"),
    "surrogate in the licence": (b'{"text": "x", "license": "\\ud800"}', "lone-surrogate"),
    "licence of a page": (
        b'{"text": "x", "license": "' + b"MIT " * 200 + b'"}',
        "license-too-long",
    ),
}


@pytest.mark.parametrize("case", QUARANTINED)
def test_one_bad_line_is_quarantined_and_the_rest_kept(
    case: str, stage: Stage, tmp_path: Path
) -> None:
    line, reason = QUARANTINED[case]
    path = tmp_path / "ruim.jsonl"
    path.write_bytes(with_line(line))
    left = stage(path, max_line_bytes=4096)
    assert sorted(left.texts()) == sorted(GOOD)
    (row,) = left.quarantine()
    assert (row["reason"], row["line"], row["source"]) == (reason, 3, "ruim")
    assert row["byte_offset"] == len(LINES[: LINES.index(b"\n", LINES.index(b"\n") + 1) + 1])
    assert len(row["excerpt"]) <= 200 and len(row["sha1"]) == 40
    counts = left.counts
    assert (counts["documents_read"], counts["documents_kept"]) == (5, 4)
    assert counts["bytes_quarantined"] == len(line)
    assert counts["sources"]["ruim"]["documents_quarantined"] == 1


def test_17_other_duplicate_keys_are_counted(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES + b'{"text": "bom texto", "x": 1, "x": 2}\n')
    left = stage(tmp_path / "a.jsonl")
    assert len(left.texts()) == 5
    assert left.counts["notes"] == {"duplicate-keys": 1}


def test_32_line_without_licence_among_others_is_quarantined(stage: Stage, tmp_path: Path) -> None:
    licensed = json_lines(*GOOD, license="MIT")
    (tmp_path / "a.jsonl").write_bytes(licensed + json_lines("Este não diz de quem é."))
    left = stage(tmp_path / "a.jsonl", license="")
    assert reasons(left) == ["license-missing"]
    assert {row["license"] for row in left.rows("*-*.zst")} == {"MIT"}


ANSWER = "A raposa Lila mora na floresta."


def turns(question: str) -> list[Message]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": ANSWER}]


LAYOUTS = (
    {"messages": turns("Quem mora ali?")},
    {"conversations": [{"from": "human", "value": "E lá?"}, {"from": "gpt", "value": ANSWER}]},
    {"instruction": "Diga quem mora", "input": "na floresta", "output": ANSWER},
    {"prompt": "Quem é ela?", "completion": ANSWER},
)


def test_every_conversation_layout_becomes_messages(stage: Stage, tmp_path: Path) -> None:
    bad = [{"messages": turns("Oi")[:1]}, {"text": "não é conversa"}]
    alone = turns("E ali?")
    lines = [json.dumps(row, ensure_ascii=False) for row in (*LAYOUTS, *bad, alone)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), "utf-8")
    left = stage(tmp_path / "a.jsonl", source={"shape": "conversation"}, near_duplicates=None)
    rows = {row["id"]: row for row in left.rows("*-*.zst")}
    assert rows["a:1"]["messages"] == turns("Quem mora ali?")
    assert rows["a:2"]["messages"] == turns("E lá?")
    assert rows["a:3"]["messages"] == turns("Diga quem mora\n\nna floresta")
    assert rows["a:4"]["text"] == f"Quem é ela?\n\n{ANSWER}"
    assert rows["a:7"]["messages"] == alone
    assert left.counts["quarantined_by_reason"] == {"no-conversation": 2}


WITH_SURROGATES = st.characters(exclude_categories=())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(WITH_SURROGATES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
FIELDS = (
    "text",
    "id",
    "url",
    "source",
    "license",
    "messages",
    "instruction",
    "output",
    "prompt",
    "completion",
    "conversations",
    "question",
    "answer",
    "html",
)


@pytest.mark.parametrize("shape", ["text", "conversation"])
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(record=st.dictionaries(st.sampled_from(FIELDS), JSON | st.binary(max_size=9)))
def test_any_record_is_a_document_that_can_be_written_or_has_a_reason(
    record: dict[str, Any], shape: str
) -> None:
    """Also what no JSON holds and a table does: bytes."""
    source = Source(kind="files", path="a.jsonl", license="MIT", shape=shape)  # type: ignore[arg-type]
    step_config = StepConfig(CorpusSettings(sources=(source,)), "pt")
    batch = DocumentBatch(source, "lines", [BatchDocument(RawItem("a.jsonl", 1, 0, record))])
    for step in (ParseRecord, SourceSelection, ExtractText):
        step(step_config).apply(batch)
    (one,) = batch.documents
    if one.reason:
        assert one.is_quarantined
        json.dumps(quarantine_row(one, source, batch.kind)).encode("ascii")
    else:
        json.dumps(document_row(one.document), ensure_ascii=False).encode("utf-8")


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(lines=st.lists(st.binary(max_size=60) | JSON.map(json.dumps).map(str.encode), max_size=8))
def test_any_lines_are_counted_and_the_good_ones_kept(
    lines: list[bytes], stage: Stage, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    lines = [line.replace(b"\n", b" ").replace(b"\r", b" ") for line in lines]
    (folder / "a.jsonl").write_bytes(LINES * 1 + b"\n".join(lines))
    left = stage(folder / "a.jsonl", out=str(folder / "out"), max_quarantined_fraction=1.0)
    counts = left.counts
    assert counts["documents_read"] == 4 + sum(bool(line.strip()) for line in lines)
    parts = ("kept", "filtered", "duplicate", "quarantined")
    assert counts["documents_read"] == sum(counts[f"documents_{part}"] for part in parts)
    assert set(left.texts()) >= set(GOOD)
