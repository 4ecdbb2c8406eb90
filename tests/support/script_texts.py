"""Made-up text in many scripts: names of CLDR, joined as CLDR joins a list, by a seed."""

from __future__ import annotations

import random
from functools import cache

from babel import Locale

UNSPACED = ("th", "km", "zh", "ja", "lo", "my")
SENTENCE_END = {"zh": "。", "ja": "。", "km": "។ ", "my": "။ ", "hi": "। ", "am": "። "}


@cache
def names_of(language: str) -> tuple[str, ...]:
    """Names of territories, languages, scripts and currencies in a language."""
    locale = Locale.parse(language)
    lists = (locale.territories, locale.languages, locale.scripts, locale.currencies)
    return tuple(sorted({name for names in lists for name in names.values() if len(name) < 40}))


def sentence(language: str, rng: random.Random) -> str:
    """Two to five names; some joined by the language's word for `and`."""
    joined = str(Locale.parse(language).list_patterns["standard"]["end"])
    first, *others = rng.choices(names_of(language), k=rng.randint(2, 5))
    text = first
    for name in others:
        gap = "" if language in UNSPACED else " "
        text = (joined if rng.random() < 0.5 else f"{{0}}{gap}{{1}}").format(text, name)
    return text


def text_of(language: str, rng: random.Random, num_characters: int) -> str:
    """Sentences until there are so many characters; an empty line after about every 300."""
    end = SENTENCE_END.get(language, " " if language in UNSPACED else ". ")
    parts: list[str] = []
    size = since = 0
    while size < num_characters:
        part = sentence(language, rng) + end
        if since > 300:
            part, since = part.rstrip() + "\n\n", 0
        parts.append(part)
        size, since = size + len(part), since + len(part)
    return "".join(parts).strip()


def with_changes(text: str, share: float, rng: random.Random) -> str:
    """The text with this share of its characters changed, left out or doubled by another."""
    letters = list(text)
    alphabet = sorted({sign for sign in text if sign.isalpha()})
    for place in rng.sample(range(len(text)), max(1, round(share * len(text)))):
        kind = rng.random()
        other = rng.choice(alphabet)
        letters[place] = other if kind < 0.7 else "" if kind < 0.85 else letters[place] + other
    return "".join(letters)
