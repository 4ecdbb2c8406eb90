"""How a fact is stated, asked and answered, and which phrasings are held out.

Each (character, attribute) has question phrasings that the documents never use for it; half of the
multiple-choice questions use those. Training conversations never use the last two phrasings of an
attribute.
"""

import random
from functools import cache

from teenytinyllama.synthetic.grammar import Tense, capitalize, fraction, lexicon, pick
from teenytinyllama.synthetic.word_forms import Naming, Slots, WordForms
from teenytinyllama.synthetic.world import Character

NUM_CHAT_HELDOUT = 2
_DOCUMENT_HELDOUT_FRACTION = 0.4
_CONNECTORS = ("além disso, ", "todos sabem que ", "dizem que ")
_PAST_CONNECTORS = ("além disso, ", "todos sabiam que ", "diziam que ")


@cache
def question_patterns(attribute: str, name: str, seed: int, *, heldout: bool) -> tuple[str, ...]:
    """Return the question patterns that documents use for this fact, or those they never use."""
    patterns: list[str] = lexicon()["questions"][attribute]
    ranked = sorted(patterns, key=lambda pattern: fraction(seed, name, attribute, pattern))
    num_heldout = round(len(ranked) * _DOCUMENT_HELDOUT_FRACTION)
    return tuple(ranked[:num_heldout] if heldout else ranked[num_heldout:])


def ask(rng: random.Random, forms: WordForms, name: str, pattern: str) -> str:
    """Return the question, with the character's name and, half of the time, species."""
    naming: Naming = "full" if rng.random() < 0.5 else "bare"
    return pattern.format_map(forms.first_role[name, naming, "present"])


def short_answer(forms: WordForms, character: Character, attribute: str) -> str:
    """Return the answer that fits every question about the attribute: "Na floresta"."""
    slots = forms.first_role[character.name, "bare", "present"]
    return capitalize(lexicon()["answers"][attribute].format_map(slots))


def long_answer(rng: random.Random, forms: WordForms, name: str, attribute: str) -> str:
    """Return the answer as a sentence: "A raposa Lila mora na floresta."."""
    naming: Naming = "full" if rng.random() < 0.5 else "bare"
    pattern = pick(rng, lexicon()["answers_long"][attribute])
    return capitalize(pattern.format_map(forms.first_role[name, naming, "present"]))


def expected_word(forms: WordForms, name: str, attribute: str) -> str:
    """Return the words that a right answer contains: "bolo de cenoura"."""
    pattern: str = lexicon()["expected"][attribute]
    return pattern.format_map(forms.first_role[name, "bare", "present"])


def state(
    rng: random.Random,
    forms: WordForms,
    name: str,
    attributes: list[str],
    *,
    is_past: bool,
    is_known: bool = False,
) -> list[str]:
    """Return one sentence per attribute; after the first, a pronoun may stand for the name.

    `is_known`: the sentence before already named the character.
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
        slots = Slots(rng, forms.first_role[name, naming, tense])
        sentence = pick(rng, facts[attribute]).format_map(slots)
        if sentences and not has_connector and rng.random() < 0.12:
            # "todos sabem que depois do trabalho, ela" would lack a comma.
            sentence = connectors[0 if "," in sentence else int(rng.random() * 3)] + sentence
            has_connector = True
        sentences.append(capitalize(sentence))
    return sentences
