"""Files that are not UTF-8: decoded where the encoding is certain, else quarantined whole.

An encoding is certain where the file has a byte-order mark, where its zero bytes say so, or where
one of the usual encodings of the recipe's language gives text of that language and no other does.
For the rest the source has a setting, since only people know.
"""

from __future__ import annotations

import codecs
import json
import shlex
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from teenytinyllama.artifacts.decompression import (
    TOOLS,
    DamagedFileError,
    chunks_of,
    compression_of,
)

HEAD_BYTES = 1 << 16
# Below this many invalid bytes in the head a file is damaged UTF-8, not another encoding.
DAMAGED_BELOW = 4
UNKNOWN = "encoding-unknown"
NOT_UTF8 = "teenytinyllama-not-utf8"
MIN_PLAUSIBLE, MIN_MARGIN = 0.9, 0.02
MIN_PROBABILITY = 0.5
IDENTIFIED_BYTES = 1 << 13

# Encodings by script family, the likeliest first: those of Windows, ISO, DOS and Macintosh.
_FAMILIES = {
    "western": ("cp1252", "iso8859_15", "cp850", "mac_roman"),
    "central": ("cp1250", "iso8859_2", "cp852", "mac_latin2"),
    "baltic": ("cp1257", "iso8859_13", "cp775"),
    "turkish": ("cp1254", "iso8859_9", "cp857"),
    "cyrillic": ("cp1251", "koi8_u", "iso8859_5", "cp866", "mac_cyrillic"),
    "greek": ("cp1253", "iso8859_7", "cp737"),
    "hebrew": ("cp1255", "iso8859_8", "cp862"),
    "arabic": ("cp1256", "iso8859_6", "cp864"),
    "thai": ("cp874",),
    "vietnamese": ("cp1258",),
    "chinese": ("gb18030", "big5hkscs"),
    "japanese": ("cp932", "euc_jp", "iso2022_jp"),
    "korean": ("cp949",),
}
# The HTML standard's table of fallback encodings by locale, by family; all others are western.
_LANGUAGES = {
    "central": "cs hr hu pl ro sk sl bs",
    "baltic": "et lt lv",
    "turkish": "az ku tr",
    "cyrillic": "ba be bg kk ky mk mn ru sah sr tg tt uk",
    "greek": "el",
    "hebrew": "he yi",
    "arabic": "ar fa ps ug ur",
    "thai": "th",
    "vietnamese": "vi",
    "chinese": "zh",
    "japanese": "ja",
    "korean": "ko",
}
_FAMILY_OF = {code: family for family, codes in _LANGUAGES.items() for code in codes.split()}
_PUNCTUATION = frozenset("“”‘’„‚‹›«»–—…·¿¡ºª°§€、。，！？：；「」『』（）・ー〜")
_WIDE_MARKS = (
    (codecs.BOM_UTF32_LE, "utf_32"),
    (codecs.BOM_UTF32_BE, "utf_32"),
    (codecs.BOM_UTF16_LE, "utf_16"),
    (codecs.BOM_UTF16_BE, "utf_16"),
)
ICONV_NAMES = {
    "utf_16_le": "utf-16le",
    "utf_16_be": "utf-16be",
    "utf_32_le": "utf-32le",
    "utf_32_be": "utf-32be",
    "mac_roman": "macintosh",
    "mac_latin2": "mac-centraleurope",
    "iso2022_jp": "iso-2022-jp",
}
"""Where they are not Python's with hyphens."""


def utf8_chunks_of(
    path: Path, *, encoding: str, language: str, notes: Counter[str]
) -> Iterator[bytes]:
    """The decompressed bytes of a file as UTF-8; its own byte-order mark, if any, stays.

    `encoding` is the source's setting; "" detects it. `notes` counts files that were decoded, by
    encoding. Bytes that the encoding does not have stay as they are, so that their line is
    quarantined. Raises DamagedFileError at once where the encoding is not certain.
    """
    chunks = chunks_of(path, notes)
    first = next(chunks, b"")
    try:
        name = encoding or detect_encoding(first[:HEAD_BYTES], language)
    except DamagedFileError:
        notes["bytes-not-read"] += path.stat().st_size
        raise
    if name in ("", "utf_8_sig"):
        yield first
        yield from chunks
        return
    notes[f"decoded-{name}"] += 1
    decoder = codecs.getincrementaldecoder(name)(NOT_UTF8)
    try:
        yield decoder.decode(first).encode("utf-8", NOT_UTF8)
        for chunk in chunks:
            yield decoder.decode(chunk).encode("utf-8", NOT_UTF8)
        yield decoder.decode(b"", final=True).encode("utf-8", NOT_UTF8)
    except UnicodeError as error:  # of a codec that cannot go on
        notes["bytes-not-read"] += path.stat().st_size
        raise DamagedFileError(UNKNOWN, f"not {name} ({str(error)[:100]})") from error


def _as_not_utf8(error: UnicodeError) -> tuple[str | bytes, int]:
    """What cannot be decoded or encoded, as bytes that are not UTF-8: its line is quarantined."""
    if isinstance(error, UnicodeDecodeError):
        wrong = error.object[error.start : error.end]
        return "".join(chr(0xDC00 + max(byte, 0x80)) for byte in wrong), error.end
    assert isinstance(error, UnicodeEncodeError)
    codes = [ord(character) for character in error.object[error.start : error.end]]
    return bytes(c - 0xDC00 if 0xDC80 <= c < 0xDD00 else 0xFF for c in codes), error.end


codecs.register_error(NOT_UTF8, _as_not_utf8)


def detect_encoding(head: bytes, language: str, min_wrong_bytes: int = DAMAGED_BELOW) -> str:
    """Codec of a file that is not UTF-8, from its first bytes; "" for UTF-8, damaged or not.

    With fewer than `min_wrong_bytes` that are not UTF-8 it is damaged. Raises DamagedFileError
    where the bytes are another encoding and none is certain.

    >>> detect_encoding("Ação, coração e pão: não há razão.".encode("cp1252"), "pt")
    'cp1252'
    >>> detect_encoding("ação".encode("utf-16"), "pt")
    'utf_16'
    >>> detect_encoding("ação e um erro: ".encode() + bytes([0xff]), "pt")
    ''
    """
    if head.startswith(codecs.BOM_UTF8):
        return "utf_8_sig"
    if wide := wide_encoding(head):
        return wide
    if b"\x1b$" in head and _FAMILY_OF.get(language) == "japanese":
        return "iso2022_jp"
    text = head.decode("utf-8", "replace")
    wrong = text.count("�") - head.count("�".encode())
    right = sum(c > "\x7f" and c != "�" for c in text) if wrong >= min_wrong_bytes else 0
    if wrong < min_wrong_bytes or wrong * 10 <= right or head.count(0) * 20 >= len(head):
        return ""
    candidates = encodings_of(language)
    if name := _certain_encoding(head, candidates, language):
        return name
    if wrong <= 3 * right:  # UTF-8 with much damage: its lines are quarantined one by one
        return ""
    raise DamagedFileError(UNKNOWN, f'not UTF-8, nor an encoding that fits "{language}"')


def iconv_command(codec: str, path: Path) -> str:
    """What to type to write a file again in UTF-8, packed as before."""
    name, made = (
        shlex.quote(str(path)),
        f"iconv -f {ICONV_NAMES.get(codec) or codec.replace('_', '-')} -t utf-8",
    )
    with path.open("rb") as file:
        packed = compression_of(file.read(512))
    if packed:
        tool = TOOLS[packed]
        made = f"{tool} -dc {name} | {made} | {tool}"
    else:
        made += f" {name}"
    # Not `-o` of the same file: iconv reads it while it writes.
    return f"{made} > a.tmp && mv a.tmp {name}"


def encodings_of(language: str) -> tuple[str, ...]:
    """Encodings that texts of a language come in, the likeliest first."""
    return _FAMILIES[_FAMILY_OF.get(language.split("-")[0], "western")]


def wide_encoding(data: bytes) -> str:
    """UTF-16 or UTF-32, by the mark or by zeros: the high bytes of Latin letters, no others."""
    head = data[:HEAD_BYTES]
    for mark, name in _WIDE_MARKS:
        if head.startswith(mark):
            return name
    if head.lstrip(b"\0")[:1] in (b"{", b"["):  # JSON begins with ASCII, in any script
        name = json.detect_encoding(head).replace("-", "_")
        return name if name.startswith(("utf_16", "utf_32")) else ""
    zeros = [head[k::4].count(0) * 4 / max(len(head), 1) for k in range(4)]
    for name, high in (
        ("utf_32_le", (1, 2, 3)),
        ("utf_32_be", (0, 1, 2)),
        ("utf_16_le", (1, 3)),
        ("utf_16_be", (0, 2)),
    ):
        low = [zeros[k] for k in range(4) if k not in high]
        if min(zeros[k] for k in high) > 0.7 and max(low) < 0.1:
            return name
    return ""


def _certain_encoding(head: bytes, candidates: tuple[str, ...], language: str) -> str:
    """The only candidate that gives text of the language; "" where none or several do."""
    found: dict[str, tuple[float, str]] = {}
    for codec in candidates:
        text = _decoded(head, codec)
        if text and (share := _plausible_share(text)) >= MIN_PLAUSIBLE and text not in found:
            found[text] = (share, codec)
    ranked = sorted(found.items(), key=lambda item: -item[1][0])
    close = [row for row in ranked if ranked[0][1][0] - row[1][0] < MIN_MARGIN]
    if len(close) > 1 and close[0][1][1] != candidates[0]:
        return ""
    if len(close) > 1 and close[0][1][0] == close[1][1][0]:
        # The encodings of Windows add letters in 0x80 to 0x9F to those of ISO. Where no such byte
        # occurs in a text with letters that differ, it is ISO's.
        close = [row for row in close if row[1][1].startswith("iso")]
        if any(0x80 <= byte < 0xA0 for byte in head):
            return ""
    if not close or not _is_in_language(close[0][0], language):
        return ""
    return close[0][1][1] if _script(close[0][0]) == _likeliest_script(head) else ""


def _decoded(head: bytes, codec: str) -> str:
    """The head as text, without a character that the end cuts; "" where bytes do not fit."""
    try:
        text = codecs.getincrementaldecoder(codec)().decode(head)
    except UnicodeDecodeError:
        return ""
    return "" if any("\x80" <= c < "\xa0" for c in text) else text


def _plausible_share(text: str) -> float:
    """Share of the characters beyond ASCII that are letters where a letter can be.

    Another encoding than the text's gives signs, or upper case inside words.
    """
    plausible = total = 0
    for before, c in zip(" " + text, text, strict=False):
        if c <= "\x7f" or c.isspace():
            continue
        total += 1
        if c.isupper():
            plausible += not before.isalpha()
        else:
            plausible += c.isalpha() or c in _PUNCTUATION or unicodedata.category(c)[0] == "M"
    return plausible / total if total else 0.0


def _is_in_language(text: str, language: str) -> bool:
    """Whether the identifier finds the language; without one that knows it, by script alone.

    Latin letters fit every Latin language, so a language that cannot be identified is certain only
    where its script has encodings of its own.
    """
    identifier = _identifier(language)
    if identifier is None:
        return _FAMILY_OF.get(language, "western") not in (
            "western",
            "central",
            "baltic",
            "turkish",
        )
    words = text.split()
    middle = " ".join(words[len(words) // 4 :][:400]) or text[:2000]
    return bool(identifier([middle])[0] >= MIN_PROBABILITY)


def _likeliest_script(head: bytes) -> str:
    """Script of the text in the likeliest of all encodings, whatever the language.

    Hebrew bytes read as Cyrillic look like words; only a look at all encodings shows that.
    """
    from charset_normalizer import from_bytes

    best = from_bytes(head[:IDENTIFIED_BYTES]).best()
    return _script(str(best)) if best is not None else ""


def _script(text: str) -> str:
    """The commonest script of the letters beyond ASCII, as Unicode names it."""
    names = Counter(
        unicodedata.name(c, "").split(" ", 1)[0] for c in text if c > "\x7f" and c.isalpha()
    )
    return names.most_common(1)[0][0] if names else ""


@lru_cache(maxsize=2)
def _identifier(language: str) -> Callable[[list[str]], Sequence[float]] | None:
    from teenytinyllama.errors import UserError
    from teenytinyllama.languages.identification import Py3langid

    try:
        return Py3langid(language).probabilities
    except UserError:  # not installed, or it does not know the language
        return None
