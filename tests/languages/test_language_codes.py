"""Codes that exist, and samples in the script of their language."""

from __future__ import annotations

import random

import pytest
from support import script_texts

from teenytinyllama.errors import UserError
from teenytinyllama.languages.language_codes import (
    check_sample,
    commonest_script,
    identification_labels,
    read_code,
    script_share,
)

TEN = ("th", "km", "zh", "ja", "ar", "he", "hi", "yo", "vi", "am")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("xx", r'ISO 639 has no language "xx" - fix: --language pt'),
        ("zxx", r'ISO 639 has no language "zxx"'),
        ("qqq", r'ISO 639 has no language "qqq"'),
        ("jp", r'it is a country, where most speak "ja" - fix: --language ja'),
        ("por", r'the code of Portuguese has two letters: "pt" - fix: --language pt'),
    ],
)
def test_a_code_that_does_not_exist_is_one_line(code: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_code(code)


def test_every_language_of_cldr_has_a_code_and_a_script() -> None:
    assert read_code("sr").scripts == ("Cyrl", "Latn")
    assert read_code("zh").scripts == ("Hans", "Hant")
    assert (read_code("ar").is_macrolanguage, read_code("yo").is_macrolanguage) == (True, False)
    assert [read_code(code).scripts[0] for code in TEN] == [
        "Thai", "Khmr", "Hans", "Jpan", "Arab", "Hebr", "Deva", "Latn", "Latn", "Ethi",
    ]  # fmt: skip


@pytest.mark.parametrize("code", TEN)
def test_a_sample_is_in_the_script_of_its_language(code: str) -> None:
    text = script_texts.text_of(code, random.Random(1), 2000)
    line = check_sample(read_code(code), text)
    assert line.startswith(f"{code}: ")
    assert ("from right to left" in line) == (code in ("ar", "he"))
    assert ("ICU finds them" in line) == (code in script_texts.UNSPACED)
    assert ("stands for several languages" in line) == (code in ("ar", "zh"))
    other = read_code("th" if code in ("yo", "vi") else "yo")
    with pytest.raises(UserError, match=r"sample-script\] --clean-sample - \d+% of its letters"):
        check_sample(other, text)


def test_a_language_of_two_scripts_is_told_apart() -> None:
    line = check_sample(read_code("sr"), "Лисица живи у шуми. " * 30 + "Lisica.")
    assert "written in Cyrillic in this sample, elsewhere in Latin: leave text in other" in line
    line = check_sample(read_code("sr"), "Lisica živi u šumi. " * 30)
    assert "written in Latin in this sample, elsewhere in Cyrillic" in line


def test_labels_are_those_of_glotlid() -> None:
    assert {"arb_Arab", "ar"} <= identification_labels("ar")
    assert {"cmn_Hani", "cmn_Hans", "cmn_Hant"} <= identification_labels("zh")
    assert {"srp_Cyrl", "srp_Latn"} <= identification_labels("sr")
    assert {"jpn_Jpan", "kor_Hang"} <= identification_labels("ja") | identification_labels("ko")
    assert "ceb_Latn" in identification_labels("ceb")
    assert identification_labels("qqq") == {"qqq"}


def test_scripts_are_counted_by_letters() -> None:
    assert script_share("123 !? мир", "Cyrl") == 1
    assert script_share("漢字とかな", "Jpan") == script_share("漢字", "Hant") == 1
    assert script_share("", "Latn") == 0
    assert commonest_script("12 !") == ""
