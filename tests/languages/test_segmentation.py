"""Words of scripts without spaces are ICU's, alone, in a batch and in every place that counts."""

from __future__ import annotations

import unicodedata

import pytest
from icu4py.breakers import WordBreaker

from teenytinyllama.languages.segmentation import (
    counts_characters,
    find_words,
    has_spaces_between_words,
    has_unspaced_letters,
    separate_words,
    word_borders,
    word_spans,
)
from teenytinyllama.stages.corpus.dedup.shingling import Shingler
from teenytinyllama.stages.corpus.filters.word_table import read_words
from teenytinyllama.stages.evaluate.contamination import WordHasher

TEXTS = {
    "th": "ชาวประมงออกเรือตั้งแต่เช้ามืด เด็กๆ วิ่งเล่นบนชายหาดกับเพื่อน 25 คน",
    "km": "អ្នកនេសាទចេញទៅសមុទ្រនៅពេលព្រឹក។ កុមារលេងនៅលើឆ្នេរជាមួយមិត្តភក្តិ។",
    "lo": "ຊາວປະມົງອອກເຮືອໃນຕອນເຊົ້າ ເດັກນ້ອຍຫຼິ້ນຢູ່ແຄມຫາດ",
    "my": "ငါးဖမ်းသမားများသည် မနက်စောစောတွင် ပင်လယ်သို့ ထွက်ကြသည်။",
    "zh": "清晨，渔民们驾着小船出海。孩子们在沙滩上捡贝壳，笑声不断。",
    "ja": "漁師たちは朝早く船を出した。子どもたちは砂浜で貝殻を拾っている。",
}


def words_by_icu(text: str) -> list[str]:
    return [w for w in WordBreaker(text, "root") if any(map(str.isalnum, w))]


@pytest.mark.parametrize("language", TEXTS)
def test_words_are_those_of_icu(language: str) -> None:
    text = TEXTS[language]
    expected = words_by_icu(text)
    assert 5 < len(expected) < sum(unicodedata.category(c) == "Lo" for c in text)
    assert find_words(text) == expected
    table = read_words([text, "e o rato", text], "fast", language)
    for first in (table.first[0], table.first[2]):
        lengths = table.lengths[first : first + table.counts()[0]].tolist()
        letters = table.letters[first : first + table.counts()[0]].tolist()
        found = [n for n, is_word in zip(lengths, letters, strict=True) if is_word]
        assert found == [len(w) for w in expected if any(map(str.isalpha, w))]
    assert len(Shingler(5).words([text])[0]) == len(expected)
    assert len(WordHasher().words(text)) == len(expected)


@pytest.mark.parametrize("language", TEXTS)
def test_words_do_not_depend_on_the_text_around(language: str) -> None:
    text = TEXTS[language]
    assert find_words(f"Um {text} e (“{text}”)") == [
        "Um", *find_words(text), "e", *find_words(text),
    ]  # fmt: skip
    assert [text[start:end] for start, end in word_spans(text)] == find_words(text)
    alone, again = Shingler(5).words([text, f"Sim! {text}\n"])
    assert again[1:].tolist() == alone.tolist()


def test_other_text_is_left_alone() -> None:
    text = "Um rato — d’água; বাংলা ভাষা, 우리는 간다. العربية\u200b"
    assert separate_words(text) is text
    assert not has_unspaced_letters(text)
    assert not len(word_borders(text))


def test_a_zero_width_space_is_a_border_that_the_writer_set() -> None:
    assert find_words("ទៅ\u200bផ្សារ") == ["ទៅ", "ផ្សារ"]
    assert separate_words("ទៅ\u200bផ្សារ").split() == ["ទៅ", "ផ្សារ"]


def test_a_script_without_dictionary_has_characters_for_words() -> None:
    text = "ᨲᩫ᩠ᩅᨾᩮᩬᩥᨦ"  # Tai Tham
    assert counts_characters(text)
    assert len(find_words(text)) == sum(unicodedata.category(c) == "Lo" for c in text)
    assert not any(counts_characters(known) for known in [*TEXTS.values(), "o rato"])


def test_most_letters_decide_whether_a_text_has_spaces() -> None:
    assert has_spaces_between_words("O restaurante 北京 fica na praça")
    assert not has_spaces_between_words("我们去 KTV 唱歌")
