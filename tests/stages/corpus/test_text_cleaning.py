"""Text is cleaned, and personal data replaced."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from support.corpus_stage import GOOD, Stage, json_lines

from teenytinyllama.stages.corpus.text_cleaning import clean


def test_mojibake_is_fixed_and_counted(stage: Stage, tmp_path: Path) -> None:
    text = "Não é só “ação”:\na avó põe pão à mesa às três — e “já”.\nÁgua e Índio."
    again = text.encode().decode("latin-1")
    windows = "A ação é boa, e o pão também."
    honest = "AMANHÃ… até amanhã. À mesa, três irmãs põem pão."
    (tmp_path / "a.jsonl").write_bytes(json_lines(again, windows.encode().decode("cp1252"), honest))
    left = stage(tmp_path / "a.jsonl", near_duplicates=None)
    assert left.counts["notes"]["encoded-twice"] == 2
    assert set(left.texts()) == {text, windows, honest}


def test_13_control_characters_are_removed_and_counted(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(json_lines("um\x00 dois\x1b[31m\r\ntrês", "quatro"))
    left = stage(tmp_path / "a.jsonl")
    assert sorted(left.texts()) == ["quatro", "um dois[31m\ntrês"]
    assert left.counts["notes"] == {"control-characters": 1}


def test_38_literal_special_tokens_are_made_harmless(stage: Stage, tmp_path: Path) -> None:
    text = "Digite <s>, </s>, <unk>, <|im_start|> ou <|user|>; mas <span> e <script> ficam."
    (tmp_path / "a.jsonl").write_bytes(json_lines(text, GOOD[0]))
    left = stage(tmp_path / "a.jsonl")
    expected = (
        "Digite < s>, < /s>, < unk>, < |im_start|> ou < |user|>; mas <span> e <script> ficam."
    )
    assert expected in left.texts()
    assert left.counts["notes"] == {"special-tokens": 1}


def test_39_one_normal_form_and_no_invisible_characters(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(json_lines("c\u0327a\u0303o", "in\u200bvi\u202es\u00adto"))
    left = stage(tmp_path / "a.jsonl")
    assert sorted(left.texts()) == ["invisto", "ção"]
    assert left.counts["notes"] == {"invisible-characters": 2, "normal-form": 1}
    as_is = stage(tmp_path / "a.jsonl", out="other", unicode_form="none")
    assert "c\u0327a\u0303o" in as_is.texts()


def test_codes_of_windows_become_what_they_mean() -> None:
    notes: Counter[str] = Counter()
    text = "\x93It didn\x92t\x94 \x96 \x801990\x85 and\x85more\x81"
    assert clean(text, "NFC", notes) == "“It didn’t” – €1990… and\nmore"
    assert notes == {"windows-codes": 1, "control-characters": 1}


def test_marks_that_a_script_needs_stay() -> None:
    notes: Counter[str] = Counter()
    khmer, hebrew = "\u1780\u200b\u1781", "\u05d0\u200f!"
    assert clean(f"{khmer} {hebrew} a\u200bb\u200e", "NFC", notes) == f"{khmer} {hebrew} ab"


def test_personal_data_is_counted_by_kind_and_replaced_before_deduplication(
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
