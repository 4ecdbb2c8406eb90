"""The corpus stage replaces personal data and counts it by kind."""

from __future__ import annotations

from pathlib import Path

from support.corpus_stage import Stage, json_lines


def test_the_stage_counts_by_kind_and_splits_by_the_text_it_writes(
    stage: Stage, tmp_path: Path
) -> None:
    lines = json_lines("Fale com ana@x.com agora.", "Fale com bia@y.org agora.", "Nada aqui.")
    (tmp_path / "a.jsonl").write_bytes(lines)
    left = stage(tmp_path / "a.jsonl")
    assert sorted(left.texts()) == ["Fale com [E-MAIL] agora.", "Nada aqui."]
    assert left.counts["personal_data"] == {"email": 2}
    assert left.counts["duplicate_by_reason"] == {"duplicate-exact": 1}
    as_is = stage(tmp_path / "a.jsonl", out="as-is", replace_personal_data=False)
    assert as_is.counts["documents_kept"] == 3
