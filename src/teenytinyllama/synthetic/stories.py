"""The documents: stories, descriptions, dialogues, questions, instructions and opinions.

Every kind states facts of the same world, each in many surface forms, so that a model trained on
enough documents knows the cast and can be asked about it. About 10 MB/s on one core.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from teenytinyllama.synthetic.grammar import capitalize
from teenytinyllama.synthetic.instructions import WORD_TASKS, Task, describe, tell
from teenytinyllama.synthetic.labelled_items import LABELS, review
from teenytinyllama.synthetic.lexicon import item_random, lexicon, pick
from teenytinyllama.synthetic.phrasing import (
    ask,
    long_answer,
    question_patterns,
    short_answer,
    state,
)
from teenytinyllama.synthetic.word_forms import Cast, Slots, cast_of
from teenytinyllama.synthetic.world import ATTRIBUTES, NUM_CHARACTERS

_FACTS = [attribute for attribute in ATTRIBUTES if attribute != "species"]


@dataclass(frozen=True)
class StoryDocument:
    """One generated text; `id` numbers it from 0 and `kind` is one of `KINDS`."""

    id: str
    text: str
    kind: str


def documents(
    *, seed: int = 0, num_documents: int, num_characters: int = NUM_CHARACTERS
) -> Iterator[StoryDocument]:
    """Yield documents about the world of this seed, as many as asked, some 600 bytes each.

    Document i is the same however many are asked for.
    """
    cast = cast_of(seed, num_characters)
    for index in range(num_documents):
        rng = item_random(seed, "document", index)
        kind = pick(rng, _kind_deck())
        yield StoryDocument(f"storybook-{index:07d}", _WRITERS[kind](rng, cast), kind)


def _two_names(rng: random.Random, cast: Cast, *, friends_fraction: float = 0.3) -> tuple[str, str]:
    """Return two different characters; in `friends_fraction` of the calls, two friends."""
    first = pick(rng, cast.characters)
    if rng.random() < friends_fraction:
        return first.name, first.friend
    second = pick(rng, cast.characters)
    while second.name in (first.name, first.friend):
        second = pick(rng, cast.characters)
    return first.name, second.name


def _some(rng: random.Random, least: int, most: int, *, after: str = "") -> list[str]:
    """Return between `least` and `most` attributes in random order, none that `after` states."""
    facts = [one for one in _FACTS if f"{one}}}" not in after] if after else _FACTS
    return rng.sample(facts, least + int(rng.random() * (most - least + 1)))


def _write_story(rng: random.Random, cast: Cast) -> str:
    """Return a story in paragraphs: who, what happened, who came, how it ended."""
    words = lexicon()["stories"]
    # The friend has parts of its own in the plots, so the second character is another one.
    name, other = _two_names(rng, cast, friends_fraction=0)
    slots = Slots(rng, cast.told[name, "bare", "imperfect"], cast.second[other])
    opening = pick(rng, words["opening"])
    first = [slots.fill(opening)]
    attributes = _some(rng, 2, 4, after=opening)
    first += state(rng, cast, name, attributes, is_past=True, is_known=True)
    paragraphs: list[list[str]] = [first]
    beats: list[list[str]] = [[]]
    for alternatives in pick(rng, words["plots"])["beats"]:
        if alternatives[0] == "@meeting":
            meeting = pick(rng, words["meeting"])
            beats[-1].append(slots.fill(meeting))
            beats[-1] += state(rng, cast, other, _some(rng, 0, 2, after=meeting), is_past=True)
            beats.append([])
        else:
            beats[-1].append(slots.fill(pick(rng, alternatives)))
    beats[-1].append(slots.fill(pick(rng, words["ending"])))
    paragraphs += beats
    if rng.random() < 0.3:
        return "\n".join(" ".join(p) for p in paragraphs)
    return "\n\n".join(" ".join(p) for p in paragraphs)


def _write_description(rng: random.Random, cast: Cast) -> str:
    """Return what is known of a character: running text about two friends, or a list."""
    name, other = _two_names(rng, cast)
    if rng.random() < 0.25:
        return "\n\n".join(_sheet(rng, cast, one) for one in (name, other))
    opening = Slots(rng, cast.told[name, "full", "present"])
    first = [opening.fill(pick(rng, lexicon()["facts"]["species"]))]
    first += state(rng, cast, name, _some(rng, 5, 8), is_past=False, is_known=True)
    second = state(rng, cast, other, ["species", *_some(rng, 2, 4)], is_past=False)
    if rng.random() < 0.4:
        both = Slots(rng, cast.told[name, "bare", "present"], cast.second[other])
        for attribute in _some(rng, 1, 2, after="{friend}"):
            if both[attribute] != both[f"q_{attribute}"]:
                second.append(both.fill(pick(rng, lexicon()["comparisons"][attribute])))
    return " ".join(first) + "\n\n" + " ".join(second)


def _sheet(rng: random.Random, cast: Cast, name: str) -> str:
    character = cast.world.character(name)
    lines = [f"Nome: {name}"]
    for attribute in ["species", *_some(rng, 4, 8)]:
        label = pick(rng, lexicon()["sheet"][attribute])
        answer = short_answer(cast, character, attribute)
        lines.append(f"{label}: {_lower(answer)}")
    return ".\n".join(lines) + "."


def _write_dialogue(rng: random.Random, cast: Cast) -> str:
    """Return two characters talking about each other and about a third."""
    words = lexicon()["dialogues"]
    name, other = _two_names(rng, cast)
    slots = Slots(rng, cast.told[name, "bare", "imperfect"], cast.second[other])
    lines = [slots.fill(pick(rng, words["greeting"]))]
    present = Slots(rng, cast.told[name, "bare", "present"])
    for attribute in _some(rng, 3, 5):
        question = pick(rng, lexicon()["questions_second"][attribute])
        slots["question"], slots["question_low"] = question, _lower(question)
        slots["answer"] = pick(rng, lexicon()["facts_first"][attribute]).format_map(present)
        slots["answer_open"] = slots["answer"].rstrip(".")
        lines += [slots.fill(pick(rng, words["ask"])), slots.fill(pick(rng, words["reply"]))]
    absent = pick(rng, cast.characters).name
    if absent not in (name, other):
        for attribute in _some(rng, 1, 2):
            pattern = pick(
                rng, question_patterns(attribute, absent, cast.world.seed, heldout=False)
            )
            slots["question"] = ask(rng, cast, absent, pattern)
            slots["question_low"] = _lower(slots["question"])
            slots["long_open"] = long_answer(rng, cast, absent, attribute).rstrip(".")
            lines.append(slots.fill(pick(rng, words["third"])))
    lines.append(slots.fill(pick(rng, words["goodbye"])))
    return "\n".join(lines)


def _write_questions(rng: random.Random, cast: Cast) -> str:
    """Return questions with their answers, about two or three characters."""
    asked = [(name, attribute) for name in _two_names(rng, cast) for attribute in _some(rng, 2, 4)]
    asked += [(pick(rng, cast.characters).name, "species") for _ in range(2)]
    rng.shuffle(asked)
    entries: dict[str, str] = {}
    for name, attribute in asked:
        pattern = pick(rng, question_patterns(attribute, name, cast.world.seed, heldout=False))
        answer = short_answer(cast, cast.world.character(name), attribute) + "."
        if rng.random() < 0.3:
            answer = long_answer(rng, cast, name, attribute)
        entries[ask(rng, cast, name, pattern)] = answer
    return "\n\n".join(f"Pergunta: {q}\nResposta: {a}" for q, a in entries.items())


def _write_instructions(rng: random.Random, cast: Cast) -> str:
    """Return small tasks with right answers; the last is about characters of the world."""
    tasks = [make(rng) for make in rng.sample(WORD_TASKS, 3)]
    name, other = _two_names(rng, cast)
    tasks.append(describe(rng, cast, name, _some(rng, 2, 3)))
    tasks.append(tell(rng, cast, other, _some(rng, 2, 3)))
    if rng.random() < 0.5:
        label = pick(rng, LABELS)
        text = review(rng, cast, label, split="train")
        tasks_text = f"Instrução: Diga se o comentário é positivo ou negativo: “{text}”"
        return "\n\n".join([*_as_lines(tasks), f"{tasks_text}\nResposta: {capitalize(label)}."])
    return "\n\n".join(_as_lines(tasks))


def _as_lines(tasks: list[Task]) -> list[str]:
    return [f"Instrução: {task.instruction}\nResposta: {task.answer}" for task in tasks]


def _write_opinions(rng: random.Random, cast: Cast) -> str:
    """Return what two characters thought of things in their world."""
    words = lexicon()["opinions"]
    name, other = _two_names(rng, cast)
    slots = Slots(rng, cast.told[name, "bare", "imperfect"])
    lines = [slots.fill(pick(rng, words["before"]))]
    lines[0] += " " + " ".join(state(rng, cast, name, _some(rng, 2, 3), is_past=False))
    for one in (name, other):
        said = Slots(rng, cast.told[one, "bare", "imperfect"])
        said["review"] = review(rng, cast, pick(rng, LABELS), split="train")
        while one in said["review"]:  # "Lila foi comigo" is not for Lila to say
            said["review"] = review(rng, cast, pick(rng, LABELS), split="train")
        facts = state(rng, cast, one, _some(rng, 1, 2), is_past=False, is_known=True)
        lines.append(" ".join([said.fill(pick(rng, words["said"])), *facts]))
    return "\n".join([*lines, slots.fill(pick(rng, words["after"]))])


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]


_WRITERS: dict[str, Callable[[random.Random, Cast], str]] = {
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
