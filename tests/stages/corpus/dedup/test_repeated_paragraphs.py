"""Paragraphs that many documents share: the first few keep them."""

from __future__ import annotations

from pathlib import Path

from support.corpus_stage import Stage, json_lines

FOOTER = "Todos os direitos reservados à editora desta página, sem exceção."


SHORT = "Página seguinte"


def test_footer_stays_in_the_first_documents_only(stage: Stage, tmp_path: Path) -> None:
    texts = [f"Um texto bem próprio, número {n}.\n{FOOTER}\n{SHORT}" for n in range(8)]
    (tmp_path / "a.jsonl").write_bytes(json_lines(*texts))
    left = stage(tmp_path / "a.jsonl", repeated_paragraphs={"max_documents": 3})
    written = {row["id"]: row["text"] for row in left.rows("*-*.zst")}
    assert [FOOTER in written[f"a:{n}"] for n in range(1, 9)] == [True] * 3 + [False] * 5
    assert written["a:8"] == f"Um texto bem próprio, número 7.\n{SHORT}"
    assert left.counts["notes"] == {"repeated-paragraphs-cut": 5}
    assert left.counts["bytes_kept"] == sum(len(text.encode()) for text in texts)


def test_twice_in_one_document_counts_once(stage: Stage, tmp_path: Path) -> None:
    texts = [f"Texto {n}.\n{FOOTER}\n{FOOTER}" for n in range(3)]
    (tmp_path / "a.jsonl").write_bytes(json_lines(*texts))
    left = stage(
        tmp_path / "a.jsonl", repeated_paragraphs={"max_documents": 2}, near_duplicates=None
    )
    assert sorted(left.texts()) == sorted([*texts[:2], "Texto 2."])


def test_documents_left_empty_or_equal_are_dropped(stage: Stage, tmp_path: Path) -> None:
    texts = [f"Texto {n}.\n{FOOTER}" for n in range(2)]
    more = [FOOTER + "\n ", "Igual.", f"{FOOTER}\nIgual."]
    (tmp_path / "a.jsonl").write_bytes(json_lines(*texts, *more))
    left = stage(
        tmp_path / "a.jsonl", repeated_paragraphs={"max_documents": 2}, near_duplicates=None
    )
    assert sorted(left.texts()) == sorted([*texts, "Igual."])
    assert left.counts["filtered_by_reason"] == {"repeated-paragraphs": 1}
    assert left.counts["duplicate_by_reason"] == {"duplicate-exact": 1}
    (pair,) = left.rows("duplicates.jsonl.zst")
    assert (pair["kept"], pair["dropped"]) == ("a:4", "a:5")


def test_dropped_documents_do_not_count(stage: Stage, tmp_path: Path) -> None:
    one = f"Um texto que volta igual, palavra por palavra.\n{FOOTER}"
    (tmp_path / "a.jsonl").write_bytes(json_lines(one, one, one, f"Outro.\n{FOOTER}"))
    left = stage(tmp_path / "a.jsonl", repeated_paragraphs={"max_documents": 2})
    assert sorted(left.texts()) == sorted([one, f"Outro.\n{FOOTER}"])
