"""Values for the slots of sentence patterns: every word of a character, inflected once.

A pattern such as "{p} {v_morar} {em_home}" is filled from a plain dictionary, which is fast;
`Slots` adds scenery words, drawn when a pattern needs them.
"""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

from teenytinyllama.synthetic.grammar import (
    Gender,
    Tense,
    adjective,
    article,
    capitalize,
    conjugate,
    contract,
    gerund,
    lexicon,
    pick,
    plural,
)
from teenytinyllama.synthetic.world import Character, World, world

Naming = Literal["full", "bare", "pronoun"]
"""How a text refers to a character: "a raposa Lila", "Lila" or "ela"."""

Entry = Mapping[str, str]


def noun_slots(slot: str, noun: str, gender: Gender) -> dict[str, str]:
    """Return a noun with its articles and contractions, by slot name.

    >>> words = noun_slots("home", "floresta", "f")
    >>> words["home"], words["em_home"], words["por_home"], words["a_home"]
    ('floresta', 'na floresta', 'pela floresta', 'à floresta')
    """
    definite = f"{article(gender)} {noun}"
    return {
        slot: noun,
        f"o_{slot}": definite,
        f"um_{slot}": f"{article(gender, definite=False)} {noun}",
        f"seu_{slot}": f"{'seu' if gender == 'm' else 'sua'} {noun}",
        f"oa_{slot}": "o" if gender == "m" else "a",
        f"plural_{slot}": plural(noun),
    } | {f"{word}_{slot}": contract(word, definite) for word in ("de", "em", "a", "por")}


def person_slots(person: str, character: Character, naming: Naming) -> dict[str, str]:
    """Return the ways of naming a character, by slot name; `person` is "p" or "q"."""
    pronoun = "ele" if character.gender == "m" else "ela"
    definite = f"{article(character.gender)} {character.species} {character.name}"
    words = {"full": definite, "bare": character.name, "pronoun": pronoun}[naming]
    return {
        person: words,
        f"ele_{person}": pronoun,
        f"oa_{person}": "o" if character.gender == "m" else "a",
        f"um_{person}": article(character.gender, definite=False),
    } | {f"{word}_{person}": contract(word, words) for word in ("de", "em", "a", "por")}


def fact_slots(forms: World, character: Character) -> dict[str, str]:
    """Return the facts of a character in every form that the patterns use, by slot name."""
    genders, fears, jobs = _noun_genders(), dict(_fears()), lexicon()["world"]["jobs"]
    friend = forms.character(character.friend)
    *_, workplace, activity = next(row for row in jobs if character.job in row[:2])
    slots = {"colour": character.colour, "activity": activity, "friend": friend.name}
    slots |= {"hobby": character.hobby, "hobby_gerund": gerund(character.hobby)}
    slots |= {"hobby_key": character.hobby.split()[-1], "name": character.name}
    slots |= {"fear_event": fears[character.fear]}
    slots |= noun_slots("job", character.job, character.gender)
    slots |= noun_slots("species", character.species, character.gender)
    slots |= noun_slots("workplace", *_split(workplace))
    for attribute in ("home", "food", "object", "fear"):
        noun = character.attribute(attribute)
        slots |= noun_slots(attribute, noun, genders[noun])
    full = person_slots("friend", friend, "full")
    slots |= {key: words for key, words in full.items() if key != "friend"}
    slots["o_friend"] = full["friend"]
    best = (
        ("melhor amigo", "grande amigo")
        if friend.gender == "m"
        else ("melhor amiga", "grande amiga")
    )
    slots |= noun_slots("best_friend", best[0], friend.gender)
    slots |= noun_slots("great_friend", best[1], friend.gender)
    both_feminine = character.gender == friend.gender == "f"
    slots["oas_friend"] = "as" if both_feminine else "os"
    return slots


def verb_slots(character: Character, activity: str, tense: Tense) -> dict[str, str]:
    """Return each verb of the fact patterns, and the character's hobby and work, in one tense."""
    slots = {f"v_{verb}": conjugate(verb, tense) for verb in _fact_verbs()}
    slots |= {f"v_{verb}_pl": conjugate(verb, tense, "eles") for verb in _fact_verbs()}
    return slots | {
        "v_hobby": conjugate(character.hobby, tense),
        "v_activity": conjugate(activity, tense),
    }


@dataclass(frozen=True)
class WordForms:
    """The characters of a world with the values of their slots."""

    world: World
    first_role: dict[tuple[str, Naming, Tense], Entry]
    """(name, naming, tense) -> the slots of a character in the first role, {p}."""
    second_role: dict[str, Entry]
    """name -> the slots of a character in the second role: {q}, {name_q}, {q_food}, {em_q_home}."""

    @property
    def characters(self) -> tuple[Character, ...]:
        """The characters, in the order of the world."""
        return self.world.characters


@cache
def word_forms(seed: int, num_characters: int) -> WordForms:
    """Return the word forms of a world; computed once per process, in about 30 ms."""
    inhabitants = world(seed, num_characters)
    first_role: dict[tuple[str, Naming, Tense], Entry] = {}
    second_role: dict[str, Entry] = {}
    namings: tuple[Naming, ...] = ("full", "bare", "pronoun")
    tenses: tuple[Tense, ...] = ("present", "imperfect")
    for character in inhabitants.characters:
        facts = fact_slots(inhabitants, character)
        for tense in tenses:
            verbs = verb_slots(character, facts["activity"], tense)
            for naming in namings:
                slots = facts | verbs | person_slots("p", character, naming)
                first_role[character.name, naming, tense] = slots
        second_role[character.name] = _as_second_role(character, facts)
    return WordForms(world=inhabitants, first_role=first_role, second_role=second_role)


def _as_second_role(character: Character, facts: Entry) -> dict[str, str]:
    """Rename slots: {em_home} -> {em_q_home}, {food} -> {q_food}; name and species get _q."""
    renamed = person_slots("q", character, "bare")
    for key, words in facts.items():
        head, _, slot = key.rpartition("_")
        if slot in ("name", "species"):
            renamed[f"{key}_q"] = words
        else:
            renamed[f"{head}_q_{slot}" if head else f"q_{slot}"] = words
    return renamed


class Slots(dict[str, str]):
    """Values of slots; a missing one is drawn from the scenery.

    A noun is kept with all its forms, so that {o_place} is the same place in the whole text; any
    other word is drawn each time. `{Slot}` is the slot with a capital; `{quality_X}` is an
    adjective that agrees with noun X.
    """

    def __init__(self, rng: random.Random, *entries: Entry) -> None:
        super().__init__()
        for entry in entries:
            self.update(entry)
        self._rng = rng

    def __missing__(self, key: str) -> str:
        if key[0].isupper():
            return capitalize(self[key[0].lower() + key[1:]])
        if key.startswith("quality_"):
            forms = pick(self._rng, _qualities())
            return forms[0 if self[f"oa_{key[8:]}"] == "o" else 1]
        entry = pick(self._rng, _scenery()[key])
        if len(entry) > 1:
            self.update(entry)
        words = entry[key]
        return words.format_map(self) if "{" in words else words

    def fill(self, pattern: str) -> str:
        """Return the pattern with its slots filled and its first letter in upper case."""
        words = pattern.format_map(self)
        return words[0].upper() + words[1:]


@cache
def _scenery() -> dict[str, tuple[Entry, ...]]:
    """Return, for each form of a scenery slot, the entries that have it."""
    groups: dict[str, tuple[Entry, ...]] = {}
    for slot, words in lexicon()["scenery"].items():
        is_noun = ":" in words[0]
        entries = tuple(noun_slots(slot, *_split(w)) if is_noun else {slot: w} for w in words)
        groups |= dict.fromkeys(entries[0], entries)
    return groups


@cache
def _qualities() -> tuple[tuple[str, str], ...]:
    words = lexicon()["scenery"]["quality"]
    return tuple((adjective(word, "m"), adjective(word, "f")) for word in words)


def _split(noun: str) -> tuple[str, Gender]:
    word, _, gender = noun.partition(":")
    return word, "m" if gender == "m" else "f"


@cache
def _noun_genders() -> dict[str, Gender]:
    """Return the gender of every noun of the lexicon that states one."""
    words, genders = lexicon(), {}
    lists = [value for value in words["world"].values() if isinstance(value, list)]
    lists += [*words["scenery"].values(), words["sentiment"]["things"]]
    for noun in (noun for nouns in lists for noun in nouns):
        for part in [noun] if isinstance(noun, str) else noun:
            if part[-2:] in (":m", ":f"):
                word, gender = _split(part)
                genders[word] = gender
    return genders


@cache
def _fears() -> tuple[tuple[str, str], ...]:
    return tuple((_split(noun)[0], event) for noun, event in lexicon()["world"]["fears"])


@cache
def _fact_verbs() -> tuple[str, ...]:
    """Return the verbs that the fact patterns name as {v_verb} or {v_verb_pl}."""
    patterns = " ".join(p for patterns in lexicon()["facts"].values() for p in patterns)
    verbs = set(re.findall(r"\{v_([a-zç]+)(?:_pl)?\}", patterns)) - {"hobby", "activity"}
    return tuple(sorted(verbs))
