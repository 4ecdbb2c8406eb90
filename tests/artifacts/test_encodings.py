"""Which encoding a file has, and when that is certain."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from teenytinyllama.artifacts.decompression import DamagedFileError
from teenytinyllama.artifacts.encodings import detect_encoding, utf8_chunks_of

TEXTS = {
    "ru": "Старый лес стоял над рекой, и вода в ней была тёмной. Мальчик шёл по тропинке домой.\n",
    "el": "Το παλιό δάσος βρισκόταν πάνω από το ποτάμι και το νερό ήταν σκοτεινό το βράδυ.\n",
    "he": "היער הישן עמד מעל הנהר והמים היו כהים. הילד הלך בשביל וחשב על הבית.\n",
    "tr": "Eski orman nehrin üstünde duruyordu ve su karanlıktı. Çocuk evi düşünüyordu.\n",
    "cs": "Příští den začalo pršet, šel po pěšině a myslel na domov, kde babička vyprávěla.\n",
    "th": "ป่าเก่าตั้งอยู่เหนือแม่น้ำและน้ำก็มืด เด็กชายเดินไปตามทางและคิดถึงบ้าน\n",
    "zh": "古老的森林矗立在河边，水色很深。男孩沿着小路走着，想着家。晚上奶奶讲故事。\n",
    "ja": "古い森は川の上に立ち、水は暗かった。少年は小道を歩きながら家のことを考えていた。\n",
    "pt": "A velha floresta. À noite a avó contava histórias até amanhã; não há ação.\n",
}
ENCODINGS = {
    "ru": ("cp1251", "koi8-r", "iso8859-5", "cp866"), "el": ("cp1253", "iso8859-7"),
    "he": ("cp1255", "iso8859-8"), "tr": ("cp1254", "iso8859-9"), "cs": ("cp1250", "iso8859-2"),
    "th": ("cp874",), "zh": ("gb18030",), "ja": ("shift_jis", "euc_jp", "iso2022_jp"),
    "pt": ("cp1252", "iso8859-15", "cp850", "mac_roman"),
}  # fmt: skip
PAIRS = [(language, encoding) for language, names in ENCODINGS.items() for encoding in names]


@pytest.mark.parametrize(("language", "encoding"), PAIRS)
def test_a_usual_encoding_of_the_language_is_found(language: str, encoding: str) -> None:
    data = (TEXTS[language] * 4).encode(encoding)
    found = detect_encoding(data, language)
    assert found and data.decode(found) == TEXTS[language] * 4


@pytest.mark.parametrize(("language", "encoding"), PAIRS)
def test_no_encoding_is_certain_in_another_language(language: str, encoding: str) -> None:
    data = (TEXTS[language] * 4).encode(encoding)
    for other in set(TEXTS) - {language}:
        try:
            found = detect_encoding(data, other)
        except DamagedFileError:
            continue
        # Turkish and Portuguese share Windows-1252's letters but for six.
        assert not found or data.decode(found) == TEXTS[language] * 4


def test_an_encoding_that_gives_up_is_damage_and_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"xn--" + b"\xff" * 20 + b".a")
    notes: Counter[str] = Counter()
    with pytest.raises(DamagedFileError, match="not idna"):
        list(utf8_chunks_of(tmp_path / "a.txt", encoding="idna", language="pt", notes=notes))
    assert notes["bytes-not-read"] == 26
