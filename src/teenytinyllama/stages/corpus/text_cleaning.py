"""Characters that are no text: taken out or made harmless, each kind counted.

Cheap: one scan per rule over text that is nearly always clean.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import Literal

LINE_BREAKS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
# Zero-width space, word joiner, marks of byte order, soft hyphen, marks of writing direction.
# The joiners U+200C and U+200D stay: emoji and some scripts are spelt with them.
INVISIBLE = re.compile("[\u200b\u2060\ufeff\u00ad\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# What some tokenizer reads as a command when it stands in text.
SPECIAL_TOKENS = re.compile(r"<(?=(?:/?s|/?unk|pad|bos|eos|mask|\|[A-Za-z0-9_]{1,40}\|)>)")
# UTF-8 that was read as an 8-bit encoding and written as UTF-8 again: "aÃ§Ã£o" for "ação". Each
# character stands for the byte that Windows-1252, or ISO-8859-1 where that has none, gives it.
_BYTE_OF = {chr(byte): byte for byte in range(256)} | {
    bytes([byte]).decode("cp1252"): byte
    for byte in range(0x80, 0xA0)
    if byte not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)
}
_FOLLOWING = "".join(re.escape(c) for c, byte in _BYTE_OF.items() if 0x80 <= byte < 0xC0)
TWICE_ENCODED = re.compile(f"[\u00c2-\u00f4][{_FOLLOWING}]{{1,3}}")
_WESTERN_LETTERS = re.compile("[\u00c0-\u00ff]")
MIN_TWICE_ENCODED = 3


def clean(text: str, form: Literal["NFC", "NFKC", "none"], notes: Counter[str]) -> str:
    r"""The text with `\n` line ends, no control or invisible characters, in one normal form.

    A literal special token gets a space after its bracket, so that no tokenizer takes it for a
    command. `notes` counts the documents that each rule touched.

    >>> seen = Counter()
    >>> clean("a\x00b\r\n<s>c", "NFC", seen), sorted(seen)
    ('ab\n< s>c', ['control-characters', 'special-tokens'])
    """
    if TWICE_ENCODED.search(text) and (mended := encoded_once(text)) != text:
        text = mended
        notes["encoded-twice"] += 1
    if LINE_BREAKS.search(text):
        text = LINE_BREAKS.sub("\n", text)
    for name, pattern, instead in (
        ("control-characters", CONTROLS, ""),
        ("invisible-characters", INVISIBLE, ""),
        ("special-tokens", SPECIAL_TOKENS, "< "),
    ):
        if pattern.search(text):
            text = pattern.sub(instead, text)
            notes[name] += 1
    if form != "none" and not unicodedata.is_normalized(form, text):
        text = unicodedata.normalize(form, text)
        notes["normal-form"] += 1
    return text


def encoded_once(text: str) -> str:
    """The text whose letters were encoded twice, read rightly, line by line where that succeeds.

    A text is believed to be one only where most of its accented letters are half of such a pair:
    a capital Ã before a dash is Portuguese.

    >>> encoded_once("NÃ£o Ã© aÃ§Ã£o."), encoded_once("AMANHÃ… até amanhã")
    ('Não é ação.', 'AMANHÃ… até amanhã')
    """
    num_pairs = len(TWICE_ENCODED.findall(text))
    if num_pairs < max(MIN_TWICE_ENCODED, len(_WESTERN_LETTERS.findall(text)) / 2):
        return text
    lines = text.split("\n")
    for place, line in enumerate(lines):
        try:
            lines[place] = bytes(map(_BYTE_OF.__getitem__, line)).decode("utf-8")
        except (KeyError, UnicodeDecodeError):  # another alphabet, or damaged beyond that
            continue
    return "\n".join(lines)
