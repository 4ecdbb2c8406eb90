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


def clean(text: str, form: Literal["NFC", "NFKC", "none"], notes: Counter[str]) -> str:
    r"""The text with `\n` line ends, no control or invisible characters, in one normal form.

    A literal special token gets a space after its bracket, so that no tokenizer takes it for a
    command. `notes` counts the documents that each rule touched.

    >>> seen = Counter()
    >>> clean("a\x00b\r\n<s>c", "NFC", seen), sorted(seen)
    ('ab\n< s>c', ['control-characters', 'special-tokens'])
    """
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
