"""The characters of the Terra das Pitangas, and the eight facts and the species of each.

Each value belongs to nearly the same number of characters, so that the most common answer to a
question is no better a guess than any other.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from teenytinyllama.synthetic.grammar import Gender, Item, item_random, lexicon

MIN_CHARACTERS = 10
NUM_CHARACTERS = 16
"""Measured with a Llama of 1.2 million parameters on 2 million tokens (1500 steps of 1024): it
answers 99 % of the multiple-choice questions about 16 characters; with a higher learning rate 84 %
about 16 or 24, and 50 % about 40."""
ATTRIBUTES = (
    "species",
    "home",
    "food",
    "colour",
    "job",
    "friend",
    "object",
    "fear",
    "hobby",
)
"""Attributes of a character; a (name, attribute) pair is one fact of the world."""


@dataclass(frozen=True)
class Character:
    """One character. Values are words as in the texts, without article: "bolo de cenoura"."""

    name: str
    gender: Gender
    species: str
    home: str
    food: str
    colour: str
    job: str
    """In the gender of the character: "padeira"."""
    friend: str
    """The name of another character; friendship is mutual (one circle of three if odd)."""
    object: str
    fear: str
    hobby: str
    """In the infinitive: "pular corda"."""

    def attribute(self, attribute: str) -> str:
        """Return the value of one of `ATTRIBUTES`."""
        value: str = getattr(self, attribute)
        return value


@dataclass(frozen=True)
class World:
    """The characters of one seed, in the order in which they were made."""

    seed: int
    characters: tuple[Character, ...]

    def character(self, name: str) -> Character:
        """Return the character of this name."""
        return next(one for one in self.characters if one.name == name)

    def values(self, attribute: str) -> tuple[str, ...]:
        """Return the different values of an attribute in this world, sorted."""
        return tuple(sorted({one.attribute(attribute) for one in self.characters}))


@cache
def world(seed: int = 0, num_characters: int = NUM_CHARACTERS) -> World:
    """Return the world of this seed, with `num_characters` characters, half of each gender.

    More characters are more facts, and a model needs more text to learn them all.
    """
    words = lexicon()["world"]
    max_characters = 2 * min(len(words["names_m"]), len(words["names_f"]))
    if not MIN_CHARACTERS <= num_characters <= max_characters:
        raise ValueError(
            f"num_characters = {num_characters}, but there are names for "
            f"{MIN_CHARACTERS} to {max_characters} characters. "
            f"Try num_characters = {NUM_CHARACTERS}."
        )
    rng = item_random(seed, "world", num_characters)
    genders: list[Gender] = ["m"] * (num_characters // 2)
    genders += ["f"] * (num_characters - len(genders))
    people = [
        (name, gender, species)
        for gender in ("m", "f")
        for name, species in _named_species(words, gender, genders.count(gender), rng)
    ]
    rng.shuffle(people)
    dealt = {
        name: deal([_bare(value) for value in words[name + "s"]], num_characters, rng)
        for name in ("home", "food", "colour", "object")
    }
    hobbies = deal(words["hobbies"], num_characters, rng)
    fears = deal([_bare(fear) for fear, _ in words["fears"]], num_characters, rng)
    jobs = deal(words["jobs"], num_characters, rng)
    friends = _pair_up([name for name, _, _ in people], rng)
    characters = tuple(
        Character(
            name=name,
            gender="m" if gender == "m" else "f",
            species=species,
            job=jobs[i][0 if gender == "m" else 1],
            friend=friends[name],
            fear=fears[i],
            hobby=hobbies[i],
            **{attribute: values[i] for attribute, values in dealt.items()},
        )
        for i, (name, gender, species) in enumerate(people)
    )
    return World(seed=seed, characters=characters)


def _bare(noun: str) -> str:
    return noun.partition(":")[0]


def deal(values: Iterable[Item], count: int, rng: random.Random) -> list[Item]:
    """Return `count` values in random order, each as often as any other, or once more."""
    deck = list(values)
    rng.shuffle(deck)
    dealt = [deck[i % len(deck)] for i in range(count)]
    rng.shuffle(dealt)
    return dealt


def _named_species(
    words: dict[str, list[str]], gender: str, count: int, rng: random.Random
) -> list[tuple[str, str]]:
    names = rng.sample(words[f"names_{gender}"], count)
    species = [_bare(noun) for noun in words["species"] if noun.endswith(f":{gender}")]
    return list(zip(names, deal(species, count, rng), strict=True))


def _pair_up(names: list[str], rng: random.Random) -> dict[str, str]:
    """Return the best friend of each: pairs, and for an odd number one circle of three."""
    order = list(names)
    rng.shuffle(order)
    friends: dict[str, str] = {}
    for start in range(0, len(order) - 1, 2):
        circle = order[start:] if len(order) - start == 3 else order[start : start + 2]
        if len(circle) == 3:
            return friends | dict(zip(circle, circle[1:] + circle[:1], strict=True))
        friends |= {circle[0]: circle[1], circle[1]: circle[0]}
    return friends
