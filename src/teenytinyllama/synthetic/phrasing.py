"""How a fact is stated, asked and answered, and which phrasings are held out from where.

Every (character, attribute) has question phrasings that never occur for it in the documents; the
multiple-choice questions use them for half of their items. The last two phrasings of each
attribute never occur in training conversations.
"""

import random
from functools import cache

from teenytinyllama.synthetic.grammar import Tense, capitalize
from teenytinyllama.synthetic.lexicon import fraction, lexicon, pick
from teenytinyllama.synthetic.word_forms import Cast, Naming, Slots
from teenytinyllama.synthetic.world import Character

NUM_CHAT_HELDOUT = 2
_DOCUMENT_HELDOUT_FRACTION = 0.4
_CONNECTORS = ("além disso, ", "todos sabem que ", "dizem que ")
_PAST_CONNECTORS = ("além disso, ", "todos sabiam que ", "diziam que ")


@cache
def question_patterns(attribute: str, name: str, seed: int, *, heldout: bool) -> tuple[str, ...]:
    """Return the question patterns the documents use for this fact, or those they never use."""
    patterns: list[str] = lexicon()["questions"][attribute]
    ranked = sorted(patterns, key=lambda pattern: fraction(seed, name, attribute, pattern))
    num_heldout = round(len(ranked) * _DOCUMENT_HELDOUT_FRACTION)
    return tuple(ranked[:num_heldout] if heldout else ranked[num_heldout:])


def ask(rng: random.Random, cast: Cast, name: str, pattern: str) -> str:
    """Return the question, with the character called by name and, half of the time, species."""
    naming: Naming = "full" if rng.random() < 0.5 else "bare"
    return pattern.format_map(cast.told[name, naming, "present"])


def short_answer(cast: Cast, character: Character, attribute: str) -> str:
    """Return the answer that fits every question about the attribute: "Na floresta"."""
    slots = cast.told[character.name, "bare", "present"]
    return capitalize(lexicon()["answers"][attribute].format_map(slots))


def long_answer(rng: random.Random, cast: Cast, name: str, attribute: str) -> str:
    """Return a whole sentence that answers: "A raposa Lila mora na floresta."."""
    naming: Naming = "full" if rng.random() < 0.5 else "bare"
    pattern = pick(rng, lexicon()["answers_long"][attribute])
    return capitalize(pattern.format_map(cast.told[name, naming, "present"]))


def expected_word(cast: Cast, name: str, attribute: str) -> str:
    """Return the words that a right answer contains: "bolo de cenoura"."""
    pattern: str = lexicon()["expected"][attribute]
    return pattern.format_map(cast.told[name, "bare", "present"])


def state(
    rng: random.Random,
    cast: Cast,
    name: str,
    attributes: list[str],
    *,
    is_past: bool,
    is_known: bool = False,
) -> list[str]:
    """Return one sentence per attribute, each with the character named, or a pronoun after that.

    `is_known` says that the sentence before already named the character.
    """
    facts = lexicon()["facts"]
    tense: Tense = "imperfect" if is_past else "present"
    connectors = _PAST_CONNECTORS if is_past else _CONNECTORS
    sentences: list[str] = []
    after_friend = has_connector = False
    for attribute in attributes:
        draw = rng.random()
        naming: Naming = "bare" if draw < 0.5 else "full" if draw < 0.65 else "pronoun"
        # After "Lila e Nina são amigas", "ela" would be either of them.
        if naming == "pronoun" and (after_friend or not (is_known or sentences)):
            naming = "full"
        after_friend = attribute == "friend"
        slots = Slots(rng, cast.told[name, naming, tense])
        sentence = pick(rng, facts[attribute]).format_map(slots)
        if sentences and not has_connector and rng.random() < 0.12:
            # "todos sabem que depois do trabalho, ela" would lack a comma.
            sentence = connectors[0 if "," in sentence else int(rng.random() * 3)] + sentence
            has_connector = True
        sentences.append(capitalize(sentence))
    return sentences
