"""Portuguese words, their inflection, and how they are drawn at random.

Word lists and sentence patterns are in `languages/pt/storybook.toml`, with the exceptions to the
rules of agreement, plurals and verb forms here. Only the words of the lists are covered.

Item i of any stream has a random generator of its own, made from (seed, stream, i), so that a
longer run begins with the items of a shorter one.
"""

import random
import tomllib
from collections.abc import Sequence
from functools import cache
from hashlib import blake2b
from importlib import resources
from typing import Any, Literal, TypeVar

Item = TypeVar("Item")
Gender = Literal["m", "f"]
Tense = Literal["present", "preterite", "imperfect"]
Person = Literal["eu", "ele", "eles"]

_PERSONS: tuple[Person, ...] = ("eu", "ele", "eles")
_CONTRACTIONS = {"de": "d{}", "em": "n{}", "por": "pel{}"}
_ENDINGS: dict[str, dict[Tense, tuple[str, str, str]]] = {
    "ar": {
        "present": ("o", "a", "am"),
        "preterite": ("ei", "ou", "aram"),
        "imperfect": ("ava", "ava", "avam"),
    },
    "er": {
        "present": ("o", "e", "em"),
        "preterite": ("i", "eu", "eram"),
        "imperfect": ("ia", "ia", "iam"),
    },
    "ir": {
        "present": ("o", "e", "em"),
        "preterite": ("i", "iu", "iram"),
        "imperfect": ("ia", "ia", "iam"),
    },
}
# The stem's last letter changes before e/i (-ar) or o (-er, -ir) to keep its sound.
_RESPELLED_AR = {"c": "qu", "g": "gu", "ç": "c"}
_RESPELLED_ER = {"c": "ç", "g": "j"}
_PLURAL_OF_L = {"al": "ais", "el": "éis", "ol": "óis", "ul": "uis", "il": "is"}


@cache
def lexicon() -> dict[str, Any]:
    """Return the content of `languages/pt/storybook.toml`; do not change it."""
    path = resources.files("teenytinyllama.languages.pt").joinpath("storybook.toml")
    return tomllib.loads(path.read_text(encoding="utf-8"))


def item_random(seed: int, stream: str, index: int) -> random.Random:
    """Return the random generator of item `index`, which no other item shares."""
    digest = blake2b(f"{seed}/{stream}/{index}".encode(), digest_size=8).digest()
    return random.Random(int.from_bytes(digest, "big"))


@cache
def fraction(*parts: object) -> float:
    """Return a number in [0, 1) that is a hash of `parts`, for splits that must never change."""
    digest = blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def pick(rng: random.Random, items: Sequence[Item]) -> Item:
    """Return one item, each equally likely. Three times as fast as `rng.choice`."""
    return items[int(rng.random() * len(items))]


def article(gender: Gender, *, definite: bool = True, is_plural: bool = False) -> str:
    """Return o, a, os, as, or um, uma, uns, umas.

    >>> article("f"), article("m", definite=False), article("m", is_plural=True)
    ('a', 'um', 'os')
    """
    if definite:
        return ("o" if gender == "m" else "a") + ("s" if is_plural else "")
    if is_plural:
        return "uns" if gender == "m" else "umas"
    return "um" if gender == "m" else "uma"


def contract(preposition: str, following: str) -> str:
    """Join a preposition with the next words: it contracts with articles and pronouns, not names.

    >>> [contract("de", "o sapo"), contract("em", "uma ilha"), contract("por", "as ilhas")]
    ['do sapo', 'numa ilha', 'pelas ilhas']
    >>> [contract("a", "a onça"), contract("a", "o sapo"), contract("de", "ela")]
    ['à onça', 'ao sapo', 'dela']
    >>> contract("de", "Lila"), contract("de", "um sapo")
    ('de Lila', 'de um sapo')
    """
    first, _, rest = following.partition(" ")
    tail = f" {rest}" if rest else ""
    if first in ("o", "a", "os", "as"):
        if preposition == "a":
            return (("à" + first[1:]) if first[0] == "a" else "a" + first) + tail
        return _CONTRACTIONS[preposition].format(first) + tail
    if first in ("ele", "ela", "eles", "elas") and preposition in ("de", "em"):
        return _CONTRACTIONS[preposition].format(first) + tail
    if first in ("um", "uma") and preposition == "em":
        return "n" + first + tail
    return f"{preposition} {following}"


def plural(noun: str) -> str:
    """Return the plural of a noun or adjective; in "pão de queijo" only the first word changes.

    >>> [plural(noun) for noun in ("farol", "pão de queijo", "balão", "flor", "homem", "lápis")]
    ['faróis', 'pães de queijo', 'balões', 'flores', 'homens', 'lápis']
    """
    head, space, tail = noun.partition(" ")
    return _plural_of_word(head) + space + tail


def _plural_of_word(word: str) -> str:
    exceptions: dict[str, str] = lexicon()["grammar"]["plurals"]
    if word in exceptions:
        return exceptions[word]
    if word[-2:] in _PLURAL_OF_L:
        return word[:-2] + _PLURAL_OF_L[word[-2:]]
    if word.endswith("ão"):
        return word[:-2] + "ões"
    if word.endswith("ês"):
        return word[:-2] + "eses"
    if word.endswith("m"):
        return word[:-1] + "ns"
    if word[-1] in "rz":
        return word + "es"
    return word if word[-1] in "sx" else word + "s"


def adjective(masculine: str, gender: Gender, *, is_plural: bool = False) -> str:
    """Return the form of an adjective that agrees with a noun of this gender and number.

    >>> adjective("bonito", "f"), adjective("azul", "f", is_plural=True), adjective("bom", "f")
    ('bonita', 'azuis', 'boa')
    """
    exceptions: dict[str, str] = lexicon()["grammar"]["feminines"]
    form = masculine
    if gender == "f":
        if masculine in exceptions:
            form = exceptions[masculine]
        elif masculine.endswith("o"):
            form = masculine[:-1] + "a"
        elif masculine.endswith("or"):
            form = masculine + "a"
        elif masculine.endswith("ês"):
            form = masculine[:-2] + "esa"
    return plural(form) if is_plural else form


def conjugate(infinitive: str, tense: Tense, person: Person = "ele") -> str:
    """Return a verb form; words after the verb are kept, as in "pular corda".

    >>> conjugate("pular corda", "imperfect"), conjugate("conhecer", "present", "eu")
    ('pulava corda', 'conheço')
    >>> conjugate("ficar", "preterite", "eu"), conjugate("ter", "present", "eles")
    ('fiquei', 'têm')
    """
    verb, space, complement = infinitive.partition(" ")
    index = _PERSONS.index(person)
    irregular = lexicon()["grammar"]["irregular_verbs"].get(verb, {})
    if tense in irregular:
        form: str = irregular[tense][index]
        return form + space + complement
    stem, ending = verb[:-2], _ENDINGS[verb[-2:]][tense][index]
    if verb.endswith("ar") and ending[0] in "ei":
        stem = stem[:-1] + _RESPELLED_AR.get(stem[-1], stem[-1])
    if not verb.endswith("ar") and ending == "o":
        stem = stem[:-1] + _RESPELLED_ER.get(stem[-1], stem[-1])
    return stem + ending + space + complement


def gerund(infinitive: str) -> str:
    """Return the -ndo form.

    >>> gerund("pular corda"), gerund("correr"), gerund("sair")
    ('pulando corda', 'correndo', 'saindo')
    """
    verb, space, complement = infinitive.partition(" ")
    return verb[:-1] + "ndo" + space + complement


def capitalize(text: str) -> str:
    """Return the text with its first letter in upper case and the rest unchanged.

    >>> capitalize("a raposa Lila"), capitalize("à noite"), capitalize("— oi")
    ('A raposa Lila', 'À noite', '— oi')
    """
    return text[:1].upper() + text[1:]
