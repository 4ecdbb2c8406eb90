"""Records that become documents, and those that are quarantined."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.corpus_stage import GOOD, Stage, json_lines

from teenytinyllama.artifacts.conversations import Message

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
    "16 nesting": (b'{"text": "x", "y": ' + b"[" * 1900 + b"]" * 1900 + b"}", "nesting-too-deep"),
    "17 duplicate text key": (b'{"text": "a", "text": "b"}', "duplicate-text-key"),
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
    lines = [json.dumps(row, ensure_ascii=False) for row in (*LAYOUTS, *bad)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), "utf-8")
    left = stage(tmp_path / "a.jsonl", source={"shape": "conversation"}, near_duplicates=None)
    rows = {row["id"]: row for row in left.rows("*-*.zst")}
    assert rows["a:1"]["messages"] == turns("Quem mora ali?")
    assert rows["a:2"]["messages"] == turns("E lá?")
    assert rows["a:3"]["messages"] == turns("Diga quem mora\n\nna floresta")
    assert rows["a:4"]["text"] == f"Quem é ela?\n\n{ANSWER}"
    assert left.counts["quarantined_by_reason"] == {"no-conversation": 2}
