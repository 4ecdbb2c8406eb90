"""Labelled sets: sentiment reviews for classifiers, multiple-choice questions about the facts.

Surface features solve neither: in the reviews a negation or a concession reverses the label; the
choices of a question have the same grammar and are equally frequent.
"""

import random
from collections.abc import Iterator
from functools import cache
from typing import Literal, TypedDict

from teenytinyllama.synthetic.grammar import (
    Gender,
    adjective,
    capitalize,
    fraction,
    item_random,
    lexicon,
    pick,
)
from teenytinyllama.synthetic.phrasing import ask, question_patterns, short_answer
from teenytinyllama.synthetic.word_forms import Entry, Slots, WordForms, noun_slots, word_forms
from teenytinyllama.synthetic.world import ATTRIBUTES, NUM_CHARACTERS, Character

LabelledSplit = Literal["train", "validation", "test"]

NUM_CHOICES = 4
LABELS = ("positivo", "negativo")
_SPLIT_BOUNDS: dict[LabelledSplit, tuple[float, float]] = {
    "train": (0.0, 0.7),
    "validation": (0.7, 0.85),
    "test": (0.85, 1.0),
}
_HELDOUT_FAMILY_SHARE = 0.25
"""Share of the test reviews from sentence families that train and validation never use."""


class SentimentItem(TypedDict):
    """A short review and its label, one of `LABELS`."""

    text: str
    label: str


class QuestionItem(TypedDict):
    """A question with four choices; `answer` is the index of the right one."""

    id: str
    question: str
    choices: list[str]
    answer: int


def sentiment(*, seed: int = 0, num_items: int, split: LabelledSplit) -> Iterator[SentimentItem]:
    """Yield labelled reviews: of items 2k and 2k+1, one is positive and one negative.

    No sentence with an opinion occurs in two splits, for any seeds. A quarter of the test items
    come from sentence families that the other splits never use.
    """
    if split not in _SPLIT_BOUNDS:
        raise ValueError(f"split = {split!r}; expected one of {', '.join(_SPLIT_BOUNDS)}.")
    forms = word_forms(seed, NUM_CHARACTERS)
    for index in range(num_items):
        rng = item_random(seed, f"sentiment-{split}", index)
        is_swapped = fraction(seed, "sentiment", split, index // 2) < 0.5
        label = LABELS[(index + is_swapped) % 2]
        yield {"text": review(rng, forms, label, split=split), "label": label}


def review(rng: random.Random, forms: WordForms, label: str, *, split: LabelledSplit) -> str:
    """Return one review of this label: an opinion, often with a neutral sentence."""
    words = lexicon()["sentiment"]
    name = pick(rng, forms.characters).name
    person = forms.first_role[name, "full", "imperfect"]
    low, high = _SPLIT_BOUNDS[split]
    use_heldout = split == "test" and rng.random() < _HELDOUT_FAMILY_SHARE
    while True:
        pattern = pick(rng, pick(rng, _families(label, is_heldout=use_heldout)))
        opinion = _fill_opinion(rng, pattern, person)
        if low <= fraction("sentiment", opinion) < high:
            break
    sentences = [opinion]
    if rng.random() < 0.6:
        neutral = Slots(rng, person).fill(pick(rng, words["neutral"]))
        sentences.insert(int(rng.random() * 2), neutral)
    return " ".join(sentences)


@cache
def _families(label: str, *, is_heldout: bool) -> tuple[tuple[str, ...], ...]:
    key = "positive" if label == "positivo" else "negative"
    families = lexicon()["sentiment"]["families"]
    return tuple(tuple(f[key]) for f in families if f["heldout"] == is_heldout)


@cache
def _things() -> tuple[tuple[dict[str, str], Gender], ...]:
    """Return the reviewed things with their slots: "o bolo da padaria", "da festa da vila"."""
    things: list[tuple[dict[str, str], Gender]] = []
    for entry in lexicon()["sentiment"]["things"]:
        noun, _, letter = entry.partition(":")
        gender: Gender = "m" if letter == "m" else "f"
        things.append((noun_slots("thing", noun, gender), gender))
    return tuple(things)


def _fill_opinion(rng: random.Random, pattern: str, person: Entry) -> str:
    words = lexicon()["sentiment"]
    thing, gender = pick(rng, _things())
    good, bad = pick(rng, words["good"]), pick(rng, words["bad"])
    slots = thing | {
        "name": person["name"],
        "good": adjective(good, gender),
        "bad": adjective(bad, gender),
        "good_m": good,
        "bad_m": bad,
        "good_f": adjective(good, "f"),
        "bad_f": adjective(bad, "f"),
    }
    slots |= {key: pick(rng, words[key]) for key in ("very", "liked", "hated", "flaw", "merit")}
    return capitalize(pattern.format_map(slots))


def questions(*, seed: int = 0, num_items: int) -> Iterator[QuestionItem]:
    """Yield multiple-choice questions about the facts of the world; chance is one in four.

    Half of the items have a phrasing that the documents never use for this fact. The wrong choices
    are true of other characters and, where gender shows, have that of the right one.
    """
    forms = word_forms(seed, NUM_CHARACTERS)
    pairs = [(one, attribute) for one in forms.characters for attribute in ATTRIBUTES]
    for index in range(num_items):
        rng = item_random(seed, "question", index)
        character, attribute = pick(rng, pairs)
        is_new = rng.random() < 0.5
        patterns = question_patterns(attribute, character.name, seed, heldout=is_new)
        question = ask(rng, forms, character.name, pick(rng, patterns))
        answer = short_answer(forms, character, attribute)
        choices = _distractors(rng, forms, character, attribute)
        position = int(rng.random() * NUM_CHOICES)
        choices.insert(position, answer)
        yield {
            "id": f"question-{index:07d}",
            "question": f"Pergunta: {question}\nResposta:",
            "choices": choices,
            "answer": position,
        }


def _distractors(
    rng: random.Random, forms: WordForms, character: Character, attribute: str
) -> list[str]:
    """Return three wrong answers, other values of the attribute in this world."""
    right = short_answer(forms, character, attribute)
    gender = _shown_gender(forms, character, attribute)
    pool = _answers_of(forms.world.seed, attribute, gender)
    # "O gato Tico" would be too easy a wrong choice for a question about the friend of Tico.
    itself = capitalize(forms.first_role[character.name, "full", "present"]["p"])
    wrong = [answer for answer in pool if answer not in (right, itself)]
    return rng.sample(wrong, NUM_CHOICES - 1)


def _shown_gender(forms: WordForms, character: Character, attribute: str) -> Gender | None:
    """Return the gender that the answer shows, or None where it shows none."""
    if attribute in ("species", "job"):
        return character.gender
    if attribute == "friend":
        return forms.world.character(character.friend).gender
    return None


@cache
def _answers_of(seed: int, attribute: str, gender: Gender | None) -> tuple[str, ...]:
    """Return the possible choices: answers true of a character whose gender fits."""
    forms = word_forms(seed, NUM_CHARACTERS)
    answers = {
        short_answer(forms, one, attribute)
        for one in forms.characters
        if gender in (None, _shown_gender(forms, one, attribute))
    }
    return tuple(sorted(answers))
