"""A smaller invented world for other languages, from data alone.

Portuguese has a grammar in code (`grammar.py`); here every word form is written by hand in
`languages/<code>/storybook.toml`, and a sentence is a pattern with slots. A new language needs no
code, only someone who speaks it. Every item depends on the seed and its own number alone.
"""

import random
import tomllib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from teenytinyllama.errors import UserError
from teenytinyllama.synthetic.dialogues import ConversationSplit, SyntheticConversation
from teenytinyllama.synthetic.grammar import capitalize, fraction, item_random, pick
from teenytinyllama.synthetic.labelled_items import NUM_CHOICES, QuestionItem
from teenytinyllama.synthetic.stories import StoryDocument
from teenytinyllama.synthetic.world import deal

ATTRIBUTES = ("species", "home", "food", "colour", "job", "friend", "hobby")
"""Attributes of a character of these worlds."""
HELDOUT_FRACTION = 0.18
"""Share of the facts that no training conversation asks for, as in Portuguese."""
NUM_SHARED_PHRASINGS = 2
"""Documents use the first phrasings of a question, held-out items use all of them."""
_SHARES = {"story": 4, "description": 4, "dialogue": 3, "questions": 3}
_DECK = tuple(kind for kind, share in _SHARES.items() for _ in range(share))
_ROWS_OF = {"home": "homes", "food": "foods", "colour": "colours", "hobby": "hobbies"}

SlotValues = Mapping[str, str]


@dataclass(frozen=True)
class SmallWorld:
    """The world of one language and seed: its words, and each character's slots by name."""

    language: str
    seed: int
    words: dict[str, Any]
    people: dict[str, dict[str, str]]

    @property
    def names(self) -> tuple[str, ...]:
        """The characters, in the order of the data."""
        return tuple(self.people)

    def state(self, rng: random.Random, name: str, attribute: str) -> str:
        """One sentence that states a fact."""
        return _fill(pick(rng, self.words["facts"][attribute]), self.people[name])

    def ask(self, rng: random.Random, name: str, attribute: str, *, shared: bool) -> str:
        """A question for a fact; `shared`: in a phrasing that documents use."""
        patterns = self.words["questions"][attribute]
        chosen = patterns[:NUM_SHARED_PHRASINGS] if shared else patterns
        return _fill(pick(rng, chosen), self.people[name])

    def answer(self, name: str, attribute: str) -> str:
        """The short answer, which fits every phrasing of the question."""
        return _fill(self.words["answers"][attribute], self.people[name])

    def long_answer(self, rng: random.Random, name: str, attribute: str) -> str:
        """The answer as a sentence."""
        return _fill(pick(rng, self.words["answers_long"][attribute]), self.people[name])

    def expected(self, name: str, attribute: str) -> str:
        """The word that a right answer contains."""
        pattern: str = self.words["expected"][attribute]
        return pattern.format_map(self.people[name])

    def is_heldout(self, name: str, attribute: str) -> bool:
        """Whether a fact is asked only in held-out conversations."""
        return fraction("tales", self.language, self.seed, name, attribute) < HELDOUT_FRACTION


@cache
def small_world(language: str, seed: int = 0) -> SmallWorld:
    """The world of a language. Raises UserError where its folder has no storybook.toml."""
    path = resources.files("teenytinyllama.languages").joinpath(language, "storybook.toml")
    if not path.is_file():
        raise UserError(
            "storybook-language",
            f"languages/{language}/storybook.toml",
            f'there is no storybook in the language "{language}"',
            'give text of your own: kind = "files"',
        )
    # Bengali letters with a dot below have two encodings; the corpus stage keeps NFC.
    text = unicodedata.normalize("NFC", path.read_text(encoding="utf-8"))
    words = tomllib.loads(text)
    return SmallWorld(
        language, seed, words, _characters(words, item_random(seed, f"tales-{language}", 0))
    )


def _characters(words: dict[str, Any], rng: random.Random) -> dict[str, dict[str, str]]:
    """Every character's slots: values are dealt evenly, and friends are pairs."""
    people: dict[str, dict[str, str]] = {}
    for group in words["groups"]:
        rows = {kind: deal(group[kind], len(group["names"]), rng) for kind in ("species", "jobs")}
        for place, name in enumerate(group["names"]):
            slots = dict(group["slots"]) | _forms(words, "names", name)
            for kind, dealt in rows.items():
                slots |= _forms(words, kind, dealt[place])
            people[slots["name"]] = slots
    for kind in _ROWS_OF.values():
        dealt = deal(words["values"][kind], len(people), rng)
        for slots, row in zip(people.values(), dealt, strict=True):
            slots |= _forms(words, kind, row)
    order = list(people)
    rng.shuffle(order)
    assert len(order) % 2 == 0, "friends are pairs"
    own = {name: dict(slots) for name, slots in people.items()}
    for first, second in zip(order[::2], order[1::2], strict=True):
        people[first] |= _prefixed("f_", own[second])
        people[second] |= _prefixed("f_", own[first])
    return people


def _forms(words: dict[str, Any], kind: str, row: Sequence[str]) -> dict[str, str]:
    return dict(zip(words["forms"][kind], row, strict=True))


def _prefixed(prefix: str, slots: SlotValues) -> dict[str, str]:
    return {prefix + key: value for key, value in slots.items()}


def _fill(pattern: str, slots: SlotValues) -> str:
    """The pattern with its slots filled, and a capital where the script has capitals."""
    return capitalize(pattern.format_map(slots))


def _scene(rng: random.Random, world: SmallWorld, name: str, other: str) -> dict[str, str]:
    """Slots of a text about two characters, with one place, thing and time."""
    slots = world.people[name] | _prefixed("q_", world.people[other])
    for kind, rows in world.words["scenery"].items():
        slots |= _forms(world.words, kind, pick(rng, rows))
    return slots | {"Time": capitalize(slots["time"])}


def documents(*, language: str, seed: int = 0, num_documents: int) -> Iterator[StoryDocument]:
    """Yield texts about the world; document i is the same for any `num_documents`."""
    world = small_world(language, seed)
    for index in range(num_documents):
        rng = item_random(seed, f"tales-{language}-document", index)
        kind = pick(rng, _DECK)
        yield StoryDocument(f"storybook-{index:07d}", _WRITERS[kind](rng, world), kind)


def _two(rng: random.Random, world: SmallWorld) -> tuple[str, str]:
    first, second = rng.sample(world.names, 2)
    return first, second


def _some(rng: random.Random, least: int, most: int) -> list[str]:
    return rng.sample(ATTRIBUTES, rng.randint(least, most))


def _story(rng: random.Random, world: SmallWorld) -> str:
    name, other = _two(rng, world)
    slots = _scene(rng, world, name, other)
    words = world.words["stories"]
    opening = [_fill(pick(rng, words["openings"]), slots)]
    opening += [world.state(rng, name, attribute) for attribute in _some(rng, 2, 4)]
    beats = [_fill(pick(rng, beat), slots) for beat in pick(rng, words["plots"])["beats"]]
    beats.append(_fill(pick(rng, words["endings"]), slots))
    half = len(beats) // 2
    return "\n\n".join(" ".join(part) for part in (opening, beats[:half], beats[half:]))


def _description(rng: random.Random, world: SmallWorld) -> str:
    parts = []
    for name in _two(rng, world):
        attributes = ["species", *(one for one in _some(rng, 4, 6) if one != "species")]
        parts.append(" ".join(world.state(rng, name, attribute) for attribute in attributes))
    return "\n\n".join(parts)


def _dialogue(rng: random.Random, world: SmallWorld) -> str:
    name, other = _two(rng, world)
    slots = _scene(rng, world, name, other)
    words = world.words["dialogues"]
    lines = [_fill(pick(rng, words["greeting"]), slots)]
    for _ in range(rng.randint(3, 5)):
        absent = pick(rng, [one for one in world.names if one not in (name, other)])
        attribute = pick(rng, ATTRIBUTES)
        question = world.ask(rng, absent, attribute, shared=True)
        answer = world.long_answer(rng, absent, attribute)
        said = {
            "question": question,
            "question_low": question[0].lower() + question[1:],
            "answer": answer,
            "answer_open": answer.rstrip("."),
        }
        lines.append(_fill(pick(rng, words["exchange"]), slots | said))
    lines.append(_fill(pick(rng, words["goodbye"]), slots))
    return "\n".join(lines)


def _questions(rng: random.Random, world: SmallWorld) -> str:
    entries: dict[str, str] = {}
    for name in _two(rng, world):
        for attribute in _some(rng, 3, 4):
            question = world.ask(rng, name, attribute, shared=True)
            entries[question] = capitalize(world.answer(name, attribute))
    pattern: str = world.words["lines"]["question"]
    return "\n\n".join(pattern.format(question=q, answer=a) for q, a in entries.items())


_WRITERS = {
    "story": _story,
    "description": _description,
    "dialogue": _dialogue,
    "questions": _questions,
}


def conversations(
    *, language: str, seed: int = 0, num_conversations: int, split: ConversationSplit
) -> Iterator[SyntheticConversation]:
    """Yield conversations; `heldout` asks only for facts that `train` never asks for."""
    world = small_world(language, seed)
    for index in range(num_conversations):
        rng = item_random(seed, f"tales-{language}-conversation-{split}", index)
        yield _converse(rng, world, split)


def _converse(
    rng: random.Random, world: SmallWorld, split: ConversationSplit
) -> SyntheticConversation:
    turns: list[tuple[str, str, str]] = []
    if split == "train" and rng.random() < 0.25:
        turns.append(_small_talk(rng, world))
    wanted = split == "heldout"
    askable = [
        (name, attribute)
        for name in world.names
        for attribute in ATTRIBUTES
        if world.is_heldout(name, attribute) == wanted
    ]
    for name, attribute in rng.sample(askable, 1 if rng.random() < 0.7 else 2):
        question = world.ask(rng, name, attribute, shared=split == "train")
        answer = world.long_answer(rng, name, attribute)
        turns.append((question, answer, world.expected(name, attribute)))
    messages: list[dict[str, str]] = []
    for question, answer, _ in turns:
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer})
    return {"messages": messages, "expected": [turns[-1][2]]}


def _small_talk(rng: random.Random, world: SmallWorld) -> tuple[str, str, str]:
    words = world.words["chat"]
    kind = pick(rng, ("greetings", "identity", "thanks", "story"))
    if kind != "story":
        said, answer = pick(rng, words[kind])
        return said, answer, answer
    name, other = _two(rng, world)
    slots = _scene(rng, world, name, other)
    known = [one for one in ATTRIBUTES if not world.is_heldout(name, one)]
    facts = [world.state(rng, name, one) for one in rng.sample(known, min(2, len(known)))]
    story = [_fill(pick(rng, world.words["stories"]["openings"]), slots), *facts]
    return _fill(pick(rng, words["story_requests"]), slots), " ".join(story), name


def questions(*, language: str, seed: int = 0, num_items: int) -> Iterator[QuestionItem]:
    """Yield multiple-choice questions; the wrong choices are true of other characters."""
    world = small_world(language, seed)
    for index in range(num_items):
        rng = item_random(seed, f"tales-{language}-question", index)
        name, attribute = pick(rng, world.names), pick(rng, ATTRIBUTES)
        right = world.answer(name, attribute)
        others = sorted(_alike(world, name, attribute) - {right, name})
        choices = [*rng.sample(others, NUM_CHOICES - 1), right]
        rng.shuffle(choices)
        yield {
            "id": f"{language}-{index:06d}",
            "question": world.ask(rng, name, attribute, shared=index % 2 == 0),
            "choices": choices,
            "answer": choices.index(right),
        }


def _alike(world: SmallWorld, name: str, attribute: str) -> set[str]:
    """Answers true of a character; of the same group where the word form shows the group."""
    shows = attribute in ("species", "job")
    group = next(
        group
        for group in world.words["groups"]
        if name in {row[0] for row in group["names"]} or not shows
    )
    names = [row[0] for row in group["names"]] if shows else world.names
    return {world.answer(one, attribute) for one in names}
