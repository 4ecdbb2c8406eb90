"""Documents for pretraining: stories, descriptions, dialogues, questions, instructions, opinions.

Every kind states facts of the same world in many surface forms, so that a model trained on enough
documents knows the characters. About 10 MB/s on one core.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from teenytinyllama.synthetic.grammar import capitalize, item_random, lexicon, pick
from teenytinyllama.synthetic.instructions import WORD_TASKS, Instruction, describe, tell
from teenytinyllama.synthetic.labelled_items import LABELS, review
from teenytinyllama.synthetic.phrasing import (
    ask,
    long_answer,
    question_patterns,
    short_answer,
    state,
)
from teenytinyllama.synthetic.word_forms import Slots, WordForms, word_forms
from teenytinyllama.synthetic.world import ATTRIBUTES, NUM_CHARACTERS

_FACTS = [attribute for attribute in ATTRIBUTES if attribute != "species"]


@dataclass(frozen=True)
class StoryDocument:
    """One generated text; `id` numbers it from 0 and `kind` is one of `KINDS`."""

    id: str
    text: str
    kind: str


def documents(*, seed: int = 0, num_documents: int) -> Iterator[StoryDocument]:
    """Yield documents about the world of this seed, about 600 bytes each.

    Document i is the same for any `num_documents`.
    """
    forms = word_forms(seed, NUM_CHARACTERS)
    for index in range(num_documents):
        rng = item_random(seed, "document", index)
        kind = pick(rng, _kind_deck())
        yield StoryDocument(f"storybook-{index:07d}", _WRITERS[kind](rng, forms), kind)


def _two_names(
    rng: random.Random, forms: WordForms, *, friends_fraction: float = 0.3
) -> tuple[str, str]:
    """Return two different characters; in `friends_fraction` of the calls, two friends."""
    first = pick(rng, forms.characters)
    if rng.random() < friends_fraction:
        return first.name, first.friend
    second = pick(rng, forms.characters)
    while second.name in (first.name, first.friend):
        second = pick(rng, forms.characters)
    return first.name, second.name


def _some(rng: random.Random, least: int, most: int, *, after: str = "") -> list[str]:
    """Return between `least` and `most` attributes in random order, none that `after` states."""
    facts = [one for one in _FACTS if f"{one}}}" not in after] if after else _FACTS
    return rng.sample(facts, least + int(rng.random() * (most - least + 1)))


def _write_story(rng: random.Random, forms: WordForms) -> str:
    """Return a story in paragraphs: the character, the plot, a meeting, the ending."""
    words = lexicon()["stories"]
    # The plots have parts for the friend, so the second character is another one.
    name, other = _two_names(rng, forms, friends_fraction=0)
    slots = Slots(rng, forms.first_role[name, "bare", "imperfect"], forms.second_role[other])
    opening = pick(rng, words["opening"])
    first = [slots.fill(opening)]
    attributes = _some(rng, 2, 4, after=opening)
    first += state(rng, forms, name, attributes, is_past=True, is_known=True)
    paragraphs: list[list[str]] = [first]
    beats: list[list[str]] = [[]]
    for alternatives in pick(rng, words["plots"])["beats"]:
        if alternatives[0] == "@meeting":
            meeting = pick(rng, words["meeting"])
            beats[-1].append(slots.fill(meeting))
            beats[-1] += state(rng, forms, other, _some(rng, 0, 2, after=meeting), is_past=True)
            beats.append([])
        else:
            beats[-1].append(slots.fill(pick(rng, alternatives)))
    beats[-1].append(slots.fill(pick(rng, words["ending"])))
    paragraphs += beats
    if rng.random() < 0.3:
        return "\n".join(" ".join(p) for p in paragraphs)
    return "\n\n".join(" ".join(p) for p in paragraphs)


def _write_description(rng: random.Random, forms: WordForms) -> str:
    """Return facts about two characters, as running text or as lists."""
    name, other = _two_names(rng, forms)
    if rng.random() < 0.25:
        return "\n\n".join(_sheet(rng, forms, one) for one in (name, other))
    opening = Slots(rng, forms.first_role[name, "full", "present"])
    first = [opening.fill(pick(rng, lexicon()["facts"]["species"]))]
    first += state(rng, forms, name, _some(rng, 5, 8), is_past=False, is_known=True)
    second = state(rng, forms, other, ["species", *_some(rng, 2, 4)], is_past=False)
    if rng.random() < 0.4:
        both = Slots(rng, forms.first_role[name, "bare", "present"], forms.second_role[other])
        for attribute in _some(rng, 1, 2, after="{friend}"):
            if both[attribute] != both[f"q_{attribute}"]:
                second.append(both.fill(pick(rng, lexicon()["comparisons"][attribute])))
    return " ".join(first) + "\n\n" + " ".join(second)


def _sheet(rng: random.Random, forms: WordForms, name: str) -> str:
    character = forms.world.character(name)
    lines = [f"Nome: {name}"]
    for attribute in ["species", *_some(rng, 4, 8)]:
        label = pick(rng, lexicon()["sheet"][attribute])
        answer = short_answer(forms, character, attribute)
        lines.append(f"{label}: {_lower(answer)}")
    return ".\n".join(lines) + "."


def _write_dialogue(rng: random.Random, forms: WordForms) -> str:
    """Return a dialogue of two characters about themselves and a third."""
    words = lexicon()["dialogues"]
    name, other = _two_names(rng, forms)
    slots = Slots(rng, forms.first_role[name, "bare", "imperfect"], forms.second_role[other])
    lines = [slots.fill(pick(rng, words["greeting"]))]
    present = Slots(rng, forms.first_role[name, "bare", "present"])
    for attribute in _some(rng, 3, 5):
        question = pick(rng, lexicon()["questions_second"][attribute])
        slots["question"], slots["question_low"] = question, _lower(question)
        slots["answer"] = pick(rng, lexicon()["facts_first"][attribute]).format_map(present)
        slots["answer_open"] = slots["answer"].rstrip(".")
        lines += [slots.fill(pick(rng, words["ask"])), slots.fill(pick(rng, words["reply"]))]
    absent = pick(rng, forms.characters).name
    if absent not in (name, other):
        for attribute in _some(rng, 1, 2):
            pattern = pick(
                rng, question_patterns(attribute, absent, forms.world.seed, heldout=False)
            )
            slots["question"] = ask(rng, forms, absent, pattern)
            slots["question_low"] = _lower(slots["question"])
            slots["long_open"] = long_answer(rng, forms, absent, attribute).rstrip(".")
            lines.append(slots.fill(pick(rng, words["third"])))
    lines.append(slots.fill(pick(rng, words["goodbye"])))
    return "\n".join(lines)


def _write_questions(rng: random.Random, forms: WordForms) -> str:
    """Return questions with their answers, about two or three characters."""
    asked = [(name, attribute) for name in _two_names(rng, forms) for attribute in _some(rng, 2, 4)]
    asked += [(pick(rng, forms.characters).name, "species") for _ in range(2)]
    rng.shuffle(asked)
    entries: dict[str, str] = {}
    for name, attribute in asked:
        pattern = pick(rng, question_patterns(attribute, name, forms.world.seed, heldout=False))
        answer = short_answer(forms, forms.world.character(name), attribute) + "."
        if rng.random() < 0.3:
            answer = long_answer(rng, forms, name, attribute)
        entries[ask(rng, forms, name, pattern)] = answer
    return "\n\n".join(f"Pergunta: {q}\nResposta: {a}" for q, a in entries.items())


def _write_instructions(rng: random.Random, forms: WordForms) -> str:
    """Return small tasks with right answers; the last is about characters of the world."""
    tasks = [make(rng) for make in rng.sample(WORD_TASKS, 3)]
    name, other = _two_names(rng, forms)
    tasks.append(describe(rng, forms, name, _some(rng, 2, 3)))
    tasks.append(tell(rng, forms, other, _some(rng, 2, 3)))
    if rng.random() < 0.5:
        label = pick(rng, LABELS)
        text = review(rng, forms, label, split="train")
        tasks_text = f"Instrução: Diga se o comentário é positivo ou negativo: “{text}”"
        return "\n\n".join([*_as_lines(tasks), f"{tasks_text}\nResposta: {capitalize(label)}."])
    return "\n\n".join(_as_lines(tasks))


def _as_lines(tasks: list[Instruction]) -> list[str]:
    return [f"Instrução: {task.text}\nResposta: {task.answer}" for task in tasks]


def _write_opinions(rng: random.Random, forms: WordForms) -> str:
    """Return reviews by two characters of things in their world."""
    words = lexicon()["opinions"]
    name, other = _two_names(rng, forms)
    slots = Slots(rng, forms.first_role[name, "bare", "imperfect"])
    lines = [slots.fill(pick(rng, words["before"]))]
    lines[0] += " " + " ".join(state(rng, forms, name, _some(rng, 2, 3), is_past=False))
    for one in (name, other):
        said = Slots(rng, forms.first_role[one, "bare", "imperfect"])
        said["review"] = review(rng, forms, pick(rng, LABELS), split="train")
        while one in said["review"]:  # Lila does not say "Lila foi comigo"
            said["review"] = review(rng, forms, pick(rng, LABELS), split="train")
        facts = state(rng, forms, one, _some(rng, 1, 2), is_past=False, is_known=True)
        lines.append(" ".join([said.fill(pick(rng, words["said"])), *facts]))
    return "\n".join([*lines, slots.fill(pick(rng, words["after"]))])


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]


_WRITERS: dict[str, Callable[[random.Random, WordForms], str]] = {
    "story": _write_story,
    "description": _write_description,
    "dialogue": _write_dialogue,
    "questions": _write_questions,
    "instructions": _write_instructions,
    "opinion": _write_opinions,
}
KINDS = tuple(_WRITERS)
"""The kinds of documents."""
_SHARES = {
    "story": 5,
    "description": 5,
    "dialogue": 3,
    "questions": 4,
    "instructions": 2,
    "opinion": 1,
}


@cache
def _kind_deck() -> tuple[str, ...]:
    return tuple(kind for kind, share in _SHARES.items() for _ in range(share))
