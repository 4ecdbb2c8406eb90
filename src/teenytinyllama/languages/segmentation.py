"""Words in scripts that do not separate them: Thai, Lao, Khmer, Burmese, Han, kana and others.

ICU's dictionaries find the words (Unicode Standard Annex 29). Where ICU has no dictionary for a
script, every character with its marks is a word. All that counts or compares words asks here:
filters, duplicates, decontamination, overlap, cloze, tokens per word, search.

Only runs of such letters are looked at, each by itself: the words of a run depend on nothing around
it, so a text has the same words alone, in a batch and inside another text.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import accumulate, chain, pairwise

import numpy as np
import numpy.typing as npt
from icu4py.breakers import WordBreaker

from teenytinyllama.languages import word_pattern

Places = npt.NDArray[np.int64]

# Thai, Lao, Tibetan (syllables), Burmese and its extensions, Khmer; kana, also halfwidth and small;
# signs of repetition and zero of Han.
_SEGMENTED = (
    (0x0E01, 0x0FFF), (0x1000, 0x109F), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F), (0x1780, 0x17DD),
    (0x3005, 0x3007), (0x303B, 0x303B), (0x3041, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F),
)  # fmt: skip
# Without a dictionary: Tai Le, New Tai Lue, Tai Tham, Tai Viet, Yi, Balinese, Javanese.
_UNSEGMENTED = (
    (0x1950, 0x197F), (0x1980, 0x19DF), (0x1A20, 0x1AAF), (0xAA80, 0xAADF), (0xA000, 0xA48C),
    (0x1B00, 0x1B4F), (0xA980, 0xA9CF),
)  # fmt: skip
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
CHARACTERS_PER_WORD = 6
"""Mean of Portuguese, with the space after the word."""
# A dictionary never looks further, and a sentence is shorter.
MAX_RUN_CHARACTERS = 2_000


def _letters(ranges: tuple[tuple[int, int], ...], kinds: str) -> str:
    """Characters of these ranges whose category is of these kinds, for a character class."""
    points = chain.from_iterable(range(low, high + 1) for low, high in ranges)
    return "".join(x for x in map(chr, points) if unicodedata.category(x)[0] in kinds)


_OTHERS = _letters(_UNSEGMENTED, "LM")
_UNSPACED = _letters(_SEGMENTED, "LM") + "\u3007" + _HAN + _OTHERS
UNSPACED_MARKS = _letters((*_SEGMENTED, *_UNSEGMENTED), "M")
"""Combining marks of these scripts, for a character class."""
UNSPACED_LETTERS = re.compile(f"[{_UNSPACED}]+")
_SIGNS = _letters((*_SEGMENTED, (0x17D4, 0x17DB), (0x3000, 0x3040), (0xFF00, 0xFFEF)), "PSZ")
UNSPACED_SIGNS = re.compile(f"[{re.escape(_SIGNS)}]+")
"""Punctuation of these scripts, and of full width."""
ZERO_WIDTH_SPACE = "\u200b"
"""Between letters of these scripts, the border of a word."""
_VARIANTS = "\ufe00-\ufe0f\U000e0100-\U000e01ef"
_RUN = re.compile(f"[{_UNSPACED}][{_UNSPACED}{_VARIANTS}]{{0,{MAX_RUN_CHARACTERS}}}")
_CHARACTER = re.compile(f".[{UNSPACED_MARKS}{_VARIANTS}]*", re.DOTALL)
_OTHER_LETTER = re.compile(f"[{_OTHERS}]")
# First bytes in UTF-8 of all characters of these scripts: most text has none of them.
_LEADS = tuple(bytes([lead]) for lead in (0xE0, 0xE1, *range(0xE3, 0xEB), 0xEF, 0xF0))


def has_unspaced_letters(text: str) -> bool:
    """Whether a text has letters of scripts that do not separate words.

    >>> has_unspaced_letters("O rato “viu” o rei — 1.ª vez"), has_unspaced_letters("Em 漢 só um")
    (False, True)
    """
    if text.isascii() or not may_be_unspaced(text.encode("utf-8", "replace")):
        return False
    return UNSPACED_LETTERS.search(text) is not None


def may_be_unspaced(data: bytes) -> bool:
    """The same of a text in UTF-8, in a tenth of the time; true for some other text, too."""
    return any(lead in data for lead in _LEADS)


def has_spaces_between_words(text: str) -> bool:
    """Whether most letters of a text belong to scripts that separate words by spaces.

    >>> texts = "o rato", "ไปที่ตลาด", "我们去 KTV", "우리는 간다"
    >>> [has_spaces_between_words(text) for text in texts]
    [True, False, False, True]
    """
    if not has_unspaced_letters(text):
        return True
    letters = sum(map(str.isalpha, text))
    unspaced = sum(len(run) for run in UNSPACED_LETTERS.findall(text))
    return 2 * unspaced < max(letters, 1)


def counts_characters(text: str) -> bool:
    """Whether most words of a text are its characters: no spaces, and no dictionary of ICU's."""
    if not has_unspaced_letters(text) or has_spaces_between_words(text):
        return False
    return 2 * len(_OTHER_LETTER.findall(text)) > sum(map(len, UNSPACED_LETTERS.findall(text)))


def word_borders(text: str) -> Places:
    """Where words begin or end in and at the runs of unspaced letters; ascending places in `text`.

    >>> word_borders("nós 去北京 e ยุง").tolist()
    [4, 5, 7, 10, 13]
    """
    runs = [(match.start(), match.group()) for match in _RUN.finditer(text)]
    if not runs:
        return np.empty(0, np.int64)
    of_text = np.array([start for start, _ in runs], np.int64)
    joined = "\n".join(run for _, run in runs)
    sizes = np.array([len(run) + 1 for _, run in runs], np.int64)
    of_joined = np.cumsum(sizes) - sizes
    ends = np.fromiter(accumulate(_word_lengths(joined)), np.int64)
    owners = np.searchsorted(of_joined, ends - 1, side="right") - 1
    # The end of a line break is the start of the next run, which is counted by itself.
    inner = ends - of_joined[owners] < sizes[owners]
    places = (ends - of_joined[owners] + of_text[owners])[inner]
    return np.union1d(places, of_text)


def _word_lengths(text: str) -> list[int]:
    # Offsets of ICU count UTF-16 units; the words themselves have Python's lengths.
    words = list(WordBreaker(text, "root"))
    if _OTHER_LETTER.search(text) is None:
        return list(map(len, words))
    parts = (_CHARACTER.findall(word) if _OTHER_LETTER.search(word) else [word] for word in words)
    return list(map(len, chain.from_iterable(parts)))


def separate_words(text: str) -> str:
    """The text with a space around every word of an unspaced script; other text as it is.

    Zero-width spaces become spaces where the text has such a script.

    >>> separate_words("O rato viu o rei.")
    'O rato viu o rei.'
    """
    if not has_unspaced_letters(text):
        return text
    borders = word_borders(text).tolist()
    parts = [text[low:high] for low, high in zip([0, *borders], [*borders, len(text)], strict=True)]
    return " ".join(filter(None, parts)).replace(ZERO_WIDTH_SPACE, " ")


def count_words(text: str) -> int:
    """Words between white space; in a text of an unspaced script its runs of letters and digits.

    >>> count_words("O rato, o rei."), count_words("我们明天去市场。")
    (4, 4)
    """
    return len(find_words(text) if has_unspaced_letters(text) else text.split())


def spaced_length(text: str) -> int:
    """Characters of a text; without spaces, of one with as many words of Portuguese.

    >>> spaced_length("O rato viu."), spaced_length("我们明天去市场。")
    (11, 24)
    """
    if not has_unspaced_letters(text):
        return len(text)
    return max(len(text), CHARACTERS_PER_WORD * len(find_words(text)))


def word_spans(text: str) -> list[tuple[int, int]]:
    """Start and end of every word of a text: letters, digits and marks.

    >>> word_spans("বাংলা ভাষা"), word_spans("去北京。")
    ([(0, 5), (6, 10)], [(0, 1), (1, 3)])
    """
    spans = [match.span() for match in word_pattern().finditer(text)]
    if not has_unspaced_letters(text):
        return spans
    borders = word_borders(text)
    cut: list[tuple[int, int]] = []
    for start, end in spans:
        low, high = np.searchsorted(borders, (start + 1, end))
        places = [start, *borders[low:high].tolist(), end]
        cut += pairwise(places)
    return cut


def find_words(text: str) -> list[str]:
    """The words of a text: letters, digits and marks.

    >>> find_words("বাংলা ভাষা, 2 gatos."), find_words("ไปตลาด 2 ครั้ง")
    (['বাংলা', 'ভাষা', '2', 'gatos'], ['ไป', 'ตลาด', '2', 'ครั้ง'])
    """
    if not has_unspaced_letters(text):
        return word_pattern().findall(text)
    return [text[start:end] for start, end in word_spans(text)]
