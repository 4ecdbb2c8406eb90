"""The chat data: short conversations of one to three turns, whose answers end.

`train` and `heldout` divide the facts: a (character, attribute) pair that is asked in one is never
asked in the other. The documents state all of them, so a held-out question measures whether the
chat model knows what it read, not what it was taught to answer.
"""

import random
from collections.abc import Iterator
from typing import Literal, TypedDict

from teenytinyllama.synthetic.instructions import WORD_TASKS, Task, describe, tell
from teenytinyllama.synthetic.lexicon import fraction, item_random, lexicon, pick
from teenytinyllama.synthetic.phrasing import NUM_CHAT_HELDOUT, ask, expected_word, long_answer
from teenytinyllama.synthetic.word_forms import Cast, cast_of
from teenytinyllama.synthetic.world import ATTRIBUTES, NUM_CHARACTERS, Character

ConversationSplit = Literal["train", "heldout"]

HELDOUT_FRACTION = 0.18
"""Share of the (character, attribute) pairs that no training conversation touches."""


class Message(TypedDict):
    """One turn; `role` is system, user or assistant."""

    role: str
    content: str


class Conversation(TypedDict):
    """A conversation; a right last answer contains at least one of `expected`, in any case."""

    messages: list[Message]
    expected: list[str]


def is_heldout(seed: int, character: Character, attribute: str) -> bool:
    """Tell whether a fact is asked only in held-out conversations.

    A friendship counts once. The species is never held out: "a raposa Lila" gives it away.
    """
    if attribute == "species":
        return False
    name = character.name
    if attribute == "friend":
        name = min(name, character.friend)
    return fraction("conversation", seed, name, attribute) < HELDOUT_FRACTION


def conversations(
    *,
    seed: int = 0,
    num_conversations: int,
    split: ConversationSplit,
    num_characters: int = NUM_CHARACTERS,
) -> Iterator[Conversation]:
    """Yield conversations; `heldout` asks only for facts, in known and in new phrasings."""
    if split not in ("train", "heldout"):
        raise ValueError(f"split = {split!r}; expected train or heldout.")
    cast = cast_of(seed, num_characters)
    for index in range(num_conversations):
        rng = item_random(seed, f"conversation-{split}", index)
        yield _converse(rng, cast, split)


def _converse(rng: random.Random, cast: Cast, split: ConversationSplit) -> Conversation:
    messages: list[Message] = []
    if rng.random() < 0.08:
        messages.append({"role": "system", "content": pick(rng, lexicon()["tasks"]["systems"])})
    turns = _turns(rng, cast, split)
    for task in turns:
        messages.append({"role": "user", "content": task.instruction})
        messages.append({"role": "assistant", "content": task.answer})
    return {"messages": messages, "expected": list(turns[-1].expected)}


def _turns(rng: random.Random, cast: Cast, split: ConversationSplit) -> list[Task]:
    """Return one to three turns; several questions in a row are about one character."""
    draw = rng.random()
    num_turns = 1 if draw < 0.7 else 2 if draw < 0.9 else 3
    if split == "train" and rng.random() < 0.3:
        return _small_talk(rng, cast, num_turns)
    while True:
        character = pick(rng, cast.characters)
        attributes = _askable(cast, character, split)
        if len(attributes) >= num_turns:
            break
        num_turns = max(1, num_turns - 1)
    chosen = rng.sample(attributes, num_turns)
    turns = [_question(rng, cast, character, attribute, split) for attribute in chosen]
    if split == "train" and rng.random() < 0.08:
        turns = [*turns[:2], _exchange(rng, "thanks")]
    return turns


def _askable(cast: Cast, character: Character, split: ConversationSplit) -> list[str]:
    seed, wanted = cast.world.seed, split == "heldout"
    return [name for name in ATTRIBUTES if is_heldout(seed, character, name) == wanted]


def _question(
    rng: random.Random,
    cast: Cast,
    character: Character,
    attribute: str,
    split: ConversationSplit,
) -> Task:
    """Ask for one fact. Held-out questions use new phrasings half of the time."""
    words = lexicon()
    patterns, wrappers = (
        words["questions"][attribute][:-NUM_CHAT_HELDOUT],
        words["tasks"]["wrappers"],
    )
    if split == "heldout" and rng.random() < 0.5:
        patterns = words["questions"][attribute][-NUM_CHAT_HELDOUT:]
        if rng.random() < 0.3:
            wrappers = words["tasks"]["wrappers_heldout"]
    question = ask(rng, cast, character.name, pick(rng, patterns))
    low = question[0].lower() + question[1:]
    asked = pick(rng, wrappers).format(q=question, q_low=low)
    answer = long_answer(rng, cast, character.name, attribute)
    return Task(asked, answer, (expected_word(cast, character.name, attribute),))


def _small_talk(rng: random.Random, cast: Cast, num_turns: int) -> list[Task]:
    """Return turns that are no single question: greetings, tasks, short stories."""
    turns: list[Task] = []
    for _ in range(num_turns):
        draw = rng.random()
        if draw < 0.12 and not turns:
            turns.append(_exchange(rng, "greetings"))
        elif draw < 0.25:
            turns.append(_exchange(rng, "identity"))
        elif draw < 0.65:
            turns.append(pick(rng, WORD_TASKS)(rng))
        else:
            character = pick(rng, cast.characters)
            known = [a for a in _askable(cast, character, "train") if a != "species"]
            make = tell if draw < 0.85 else describe
            turns.append(make(rng, cast, character.name, rng.sample(known, min(2, len(known)))))
    return turns


_KEY_WORDS = {
    "greetings": ("olá", "oi", "bom dia", "boa tarde", "boa noite"),
    "identity": ("Pitanga",),
    "thanks": ("de nada", "tchau", "até"),
}


def _exchange(rng: random.Random, kind: str) -> Task:
    said, answer = pick(rng, lexicon()["tasks"][kind])
    return Task(said, answer, _KEY_WORDS[kind])
