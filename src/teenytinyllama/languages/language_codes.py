"""Codes of languages (ISO 639-3, by pycountry) and their scripts (CLDR, by babel)."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import pycountry
import regex
from babel import Locale
from babel.core import get_global

from teenytinyllama.errors import UserError
from teenytinyllama.languages.segmentation import has_spaces_between_words

MIN_SCRIPT_SHARE = 0.5
"""A text is in a script where at least this share of its letters is."""
# What CLDR calls the scripts of Chinese, Japanese and Korean are several of Unicode's.
_COMPOSED = {
    "Hans": ("Hani",),
    "Hant": ("Hani",),
    "Jpan": ("Hani", "Hira", "Kana"),
    "Kore": ("Hang", "Hani"),
}
_CHARACTERS_READ = 100_000


@dataclass(frozen=True)
class LanguageCode:
    """A code of ISO 639 that exists."""

    code: str
    name: str
    """In English."""
    is_macrolanguage: bool
    """Whether the code stands for several languages, as `ar` and `zh` do (ISO 639-3, scope M)."""
    scripts: tuple[str, ...]
    """Scripts that it is written in (ISO 15924), the usual one first; empty: CLDR has none."""


def read_code(code: str) -> LanguageCode:
    """Look a code up. Raises UserError for one that does not exist, or has a shorter form.

    >>> read_code("sr").scripts, read_code("ar").is_macrolanguage
    (('Cyrl', 'Latn'), True)
    """
    found = pycountry.languages.get(**{f"alpha_{len(code)}": code})
    if found is None or found.type == "S":  # S: codes for "undetermined" and the like
        what = f'ISO 639 has no language "{code}"'
        of_country = str(get_global("likely_subtags").get(f"und_{code.upper()}", "")).split("_")[0]
        if of_country:
            what += f'; it is a country, where most speak "{of_country}"'
        fix = f"--language {of_country or 'pt'}, or the ISO 639 code of yours"
        raise UserError("language-code", "--language", what, fix)
    shorter = getattr(found, "alpha_2", code)
    if shorter != code:
        what = f'the code of {found.name} has two letters: "{shorter}"'
        raise UserError("language-code", "--language", what, f"--language {shorter}")
    return LanguageCode(code, found.name, found.scope == "M", _scripts_of(code))


def check_sample(language: LanguageCode, text: str) -> str:
    """One line on the scripts of a language and of a sample of it.

    Raises UserError for a sample that is in none of the language's scripts.
    """
    shares = {one: script_share(text, one) for one in language.scripts}
    script = max(shares, key=shares.__getitem__, default="")
    share = shares.get(script, 0.0)
    names = [script_name(one) for one in language.scripts]
    # Letters tell Cyrillic from Latin, not traditional from simplified Chinese.
    alike = [script_name(one) for one in shares if _parts(one) == _parts(script)]
    if names and share < MIN_SCRIPT_SHARE:
        what = (
            f"{share:.0%} of its letters are {' or '.join(names)}, in which {language.name} "
            f'("{language.code}") is written; most are {commonest_script(text)}'
        )
        fix = "give clean text in that language, or the --language of this text"
        raise UserError("sample-script", "--clean-sample", what, fix)
    written = "written in " + (" or ".join(alike) or commonest_script(text))
    if is_right_to_left(text):
        written += ", from right to left"
    line = f"{language.code}: {language.name}, {written}"
    if others := " or ".join(name for name in names if name not in alike):
        line += f" in this sample, elsewhere in {others}: leave text in other scripts out"
    if not has_spaces_between_words(text[:_CHARACTERS_READ]):
        line += "; no spaces separate words, ICU finds them"
    if language.is_macrolanguage:
        line += "; the code stands for several languages: give text in one of them"
    return line


def _scripts_of(code: str) -> tuple[str, ...]:
    usual = get_global("likely_subtags").get(code)
    if usual is None:
        return ()
    by_territory = get_global("territory_languages").values()
    others = {
        tag.split("_")[1] for tags in by_territory for tag in tags if tag.startswith(f"{code}_")
    }
    return tuple(dict.fromkeys((usual.split("_")[1], *sorted(others))))


def _parts(script: str) -> tuple[str, ...]:
    """The scripts of Unicode that one of CLDR's is made of."""
    return _COMPOSED.get(script, (script,))


def identification_labels(code: str) -> frozenset[str]:
    """Names that GlotLID, OpenLID and lid.176 may have for a language.

    >>> sorted(identification_labels("th"))
    ['th', 'tha_Thai']
    """
    aliases = {alias for alias, of in get_global("language_aliases").items() if of == code}
    if len(code) == 3:
        aliases.add(code)
    scripts = {one for script in _scripts_of(code) for one in (script, *_parts(script))}
    longer = {f"{alias}_{script}" for alias in aliases if len(alias) == 3 for script in scripts}
    return frozenset({code, *longer})


def script_name(script: str) -> str:
    """The English name of a script.

    >>> script_name("Cyrl"), script_name("Hans")
    ('Cyrillic', 'Simplified Han')
    """
    name = str(Locale("en").scripts.get(script, script))
    return f"{name} Han" if script in ("Hans", "Hant") else name


def script_share(text: str, script: str) -> float:
    """Share of a text's letters that are of a script, 0 to 1.

    >>> script_share("Olá, мир", "Cyrl")
    0.5
    """
    letters = regex.findall(r"\p{L}", text[:_CHARACTERS_READ])
    kinds = "".join(rf"\p{{Script={one}}}" for one in _parts(script))
    return len(regex.findall(f"[{kinds}]", "".join(letters))) / max(1, len(letters))


def commonest_script(text: str) -> str:
    """The English name of the script of most letters of a text; empty without letters.

    >>> commonest_script("O rato"), commonest_script("শিয়াল"), commonest_script("狐")
    ('Latin', 'Bangla', 'Han')
    """
    shares = {one: script_share(text[:2_000], one) for one in _unicode_scripts()}
    script = max(shares, key=shares.__getitem__)
    return script_name(script) if shares[script] else ""


def characters_by_script(characters: Iterable[str]) -> dict[str, list[str]]:
    """Characters by the English name of their script; digits and punctuation are "Common".

    >>> characters_by_script("aé1ก")
    {'Latin': ['a', 'é'], 'Thai': ['ก'], 'Common': ['1']}
    """
    text = "".join(characters)
    found = ((one, regex.findall(rf"\p{{Script={one}}}", text)) for one in _unicode_scripts())
    return {script_name(script): signs for script, signs in found if signs}


@cache
def _unicode_scripts() -> tuple[str, ...]:
    """Scripts of CLDR that Unicode has: the others are composed, or styles of writing."""
    known = []
    for script in map(str, Locale("en").scripts):
        try:
            regex.compile(rf"\p{{Script={script}}}")
        except regex.error:
            continue
        known.append(script)
    return tuple(known)


def is_right_to_left(text: str) -> bool:
    """Whether most letters of a text are written from right to left.

    >>> is_right_to_left("قال الثعلب"), is_right_to_left("a raposa")
    (True, False)
    """
    kinds = Counter(unicodedata.bidirectional(sign) for sign in text[:_CHARACTERS_READ])
    return kinds["R"] + kinds["AL"] > kinds["L"]
