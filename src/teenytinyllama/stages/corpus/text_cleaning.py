"""Text that is fit to be filtered and kept: `CleanText`, `MinLength`, `EmptyText` and
`PersonalDataReplacement`.

Characters that are not text are removed or made harmless, each kind counted. Cheap: one scan per
rule over text that is nearly always clean.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import Literal

from teenytinyllama.languages.personal_data import PersonalData
from teenytinyllama.languages.segmentation import counts_characters
from teenytinyllama.stages.corpus.batches import (
    DocumentBatch,
    DocumentStep,
    ProseFilter,
    StepConfig,
)

CHARACTERS_AS_WORDS = "characters-as-words"
"""Note of the documents whose words nothing here can find: their characters stand for words."""
TOO_SHORT, EMPTY = "too-short", "empty"
PERSONAL_DATA = "personal-data:"
"""Prefix of the counts of what was replaced, by kind."""
# U+0085 is a line break between words, and an ellipsis of Windows-1252 at the end of one.
LINE_BREAKS = re.compile("\r\n?|[\x0b\x0c\u2028\u2029]|\x85(?=\\w)")
# Codes of Windows-1252 that were written as Unicode: quotes, dashes, the euro. HTML reads them so.
_WINDOWS = {
    byte: bytes([byte]).decode("cp1252")
    for byte in range(0x80, 0xA0)
    if byte not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)
}
WINDOWS_CODES = re.compile(f"[{''.join(map(chr, _WINDOWS))}]")
CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
# Word joiner, byte-order mark, soft hyphen, embeddings of writing direction.
# The joiners U+200C and U+200D stay: emoji and some scripts need them.
INVISIBLE = re.compile("[\u2060\ufeff\u00ad\u202a-\u202e\u2066-\u2069]")
# A zero-width space is the border of a word in scripts without spaces, a mark of direction belongs
# to scripts from right to left; between other letters they are remains of a page's layout.
_UNSPACED = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u1b00-\u1b7f"
    "\ua980-\ua9ff\uaa60-\uaa7f"
)
_RIGHT_TO_LEFT = "\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc"
STRAY_MARKS = re.compile(
    f"(?<![{_UNSPACED}])\u200b(?![{_UNSPACED}])"
    f"|(?<![{_RIGHT_TO_LEFT}])[\u200e\u200f](?![{_RIGHT_TO_LEFT}])"
)
# What some tokenizers parse as a special token when it occurs in text.
SPECIAL_TOKENS = re.compile(r"<(?=(?:/?s|/?unk|pad|bos|eos|mask|\|[A-Za-z0-9_]{1,40}\|)>)")
# Mojibake: UTF-8 that was read as an 8-bit encoding and written as UTF-8 again, "aÃ§Ã£o" for
# "ação". Each character stands for its byte in Windows-1252, or in ISO-8859-1 if it has none there.
_BYTE_OF = {chr(byte): byte for byte in range(256)}
_BYTE_OF |= {letter: byte for byte, letter in _WINDOWS.items()}
_FOLLOWING = "".join(re.escape(c) for c, byte in _BYTE_OF.items() if 0x80 <= byte < 0xC0)
DOUBLE_ENCODED = re.compile(f"[\u00c2-\u00f4][{_FOLLOWING}]{{1,3}}")
_WESTERN_LETTERS = re.compile("[\u00c0-\u00ff]")
MIN_DOUBLE_ENCODED = 3


class CleanText(DocumentStep):
    """Mojibake, control and invisible characters, special tokens, one Unicode normal form."""

    def apply(self, batch: DocumentBatch) -> None:
        """Clean texts and messages; a text of which nothing is left is quarantined."""
        form = self.settings.unicode_form
        for one in batch.remaining():
            text = clean(one.text, form, batch.notes)
            if one.text and not text.strip():
                batch.quarantine(one, "text-blank")
                continue
            batch.edit(one, text)
            batch.notes[CHARACTERS_AS_WORDS] += counts_characters(text)
            # The messages are parts of the text: what is fixed in them was counted there.
            one.document.messages = [
                {"role": message["role"], "content": clean(message["content"], form, Counter())}
                for message in one.document.messages
            ]


class MinLength(DocumentStep):
    """Drops documents below `min_document_bytes`."""

    def apply(self, batch: DocumentBatch) -> None:
        """Drop short documents."""
        for one in batch.remaining():
            if one.document.num_bytes < self.settings.min_document_bytes:
                batch.drop(one, TOO_SHORT)


class EmptyText(ProseFilter):
    """Drops texts of nothing but white space, as removed boilerplate may leave them."""

    def apply(self, batch: DocumentBatch) -> None:
        """Drop empty texts."""
        for one in batch.remaining():
            if not one.text or one.text.isspace():
                batch.drop(one, EMPTY)


class PersonalDataReplacement(DocumentStep):
    """Typed marks such as `[E-MAIL]` in place of personal data; the storybook's is invented."""

    setting = "replace_personal_data"

    def __init__(self, config: StepConfig) -> None:
        super().__init__(config)
        self._personal_data = PersonalData(self.language)

    def apply(self, batch: DocumentBatch) -> None:
        """Replace personal data in texts and messages, counted by kind."""
        if batch.source.kind == "storybook":
            return
        found: Counter[str] = Counter()
        for one in batch.remaining():
            batch.edit(one, self._personal_data.replace(one.text, found))
            for message in one.document.messages:
                content = self._personal_data.replace(message["content"], Counter())
                message["content"] = content
        batch.notes.update({PERSONAL_DATA + kind: count for kind, count in found.items()})


def clean(text: str, form: Literal["NFC", "NFKC", "none"], notes: Counter[str]) -> str:
    r"""The text with `\n` line ends, no control or invisible characters, in one normal form.

    A literal special token gets a space after its bracket, so that no tokenizer parses it as one.
    `notes` counts the documents that each rule changed.

    >>> seen = Counter()
    >>> clean("a\x00b\r\n<s>c", "NFC", seen), sorted(seen)
    ('ab\n< s>c', ['control-characters', 'special-tokens'])
    """
    if DOUBLE_ENCODED.search(text) and (fixed := fix_mojibake(text)) != text:
        text = fixed
        notes["encoded-twice"] += 1
    if LINE_BREAKS.search(text):
        text = LINE_BREAKS.sub("\n", text)
    if WINDOWS_CODES.search(text):
        text = text.translate(_WINDOWS)
        notes["windows-codes"] += 1
    for name, pattern, instead in (
        ("control-characters", CONTROLS, ""),
        ("invisible-characters", INVISIBLE, ""),
        ("invisible-characters", STRAY_MARKS, ""),
        ("special-tokens", SPECIAL_TOKENS, "< "),
    ):
        if pattern.search(text):
            text = pattern.sub(instead, text)
            notes[name] += 1
    if form != "none" and not unicodedata.is_normalized(form, text):
        text = unicodedata.normalize(form, text)
        notes["normal-form"] += 1
    return text


def fix_mojibake(text: str) -> str:
    """The text with double-encoded letters decoded, line by line where that succeeds.

    Only where most of its accented letters are half of such a pair: a capital Ã before a dash is
    Portuguese.

    >>> fix_mojibake("NÃ£o Ã© aÃ§Ã£o."), fix_mojibake("AMANHÃ… até amanhã")
    ('Não é ação.', 'AMANHÃ… até amanhã')
    """
    num_pairs = len(DOUBLE_ENCODED.findall(text))
    if num_pairs < max(MIN_DOUBLE_ENCODED, len(_WESTERN_LETTERS.findall(text)) / 2):
        return text
    lines = text.split("\n")
    for place, line in enumerate(lines):
        try:
            lines[place] = bytes(map(_BYTE_OF.__getitem__, line)).decode("utf-8")
        except (KeyError, UnicodeDecodeError):  # another alphabet, or damaged further
            continue
    return "\n".join(lines)
