"""Conversations for chat training: one to three questions or requests with their answers.

`train` and `heldout` divide the facts: a (character, attribute) pair that is asked in one is never
asked in the other. The documents state all facts, so a held-out question measures what the model
knows from pretraining, not from chat training.
"""

import random
from collections.abc import Iterator
from typing import Literal, TypedDict

from teenytinyllama.synthetic.grammar import fraction, item_random, lexicon, pick
from teenytinyllama.synthetic.instructions import WORD_TASKS, Instruction, describe, tell
from teenytinyllama.synthetic.phrasing import NUM_CHAT_HELDOUT, ask, expected_word, long_answer
from teenytinyllama.synthetic.word_forms import WordForms, word_forms
from teenytinyllama.synthetic.world import ATTRIBUTES, NUM_CHARACTERS, Character

ConversationSplit = Literal["train", "heldout"]

HELDOUT_FRACTION = 0.18
"""Share of the (character, attribute) pairs that no training conversation touches."""


class SyntheticConversation(TypedDict):
    """A conversation; a right last answer contains one of `expected`, in upper or lower case."""

    messages: list[dict[str, str]]
    expected: list[str]


def is_heldout(seed: int, character: Character, attribute: str) -> bool:
    """Whether a fact is asked only in held-out conversations.

    A friendship is one fact of both. The species is never held out: "a raposa Lila" states it.
    """
    if attribute == "species":
        return False
    name = character.name
    if attribute == "friend":
        name = min(name, character.friend)
    return fraction("conversation", seed, name, attribute) < HELDOUT_FRACTION


def conversations(
    *, seed: int = 0, num_conversations: int, split: ConversationSplit
) -> Iterator[SyntheticConversation]:
    """Yield conversations; those of `heldout` ask only for facts, half in new phrasings."""
    if split not in ("train", "heldout"):
        raise ValueError(f"split = {split!r}; expected train or heldout.")
    forms = word_forms(seed, NUM_CHARACTERS)
    for index in range(num_conversations):
        rng = item_random(seed, f"conversation-{split}", index)
        yield _converse(rng, forms, split)


def _converse(
    rng: random.Random, forms: WordForms, split: ConversationSplit
) -> SyntheticConversation:
    messages: list[dict[str, str]] = []
    if rng.random() < 0.08:
        messages.append({"role": "system", "content": pick(rng, lexicon()["tasks"]["systems"])})
    turns = _requests(rng, forms, split)
    for task in turns:
        messages.append({"role": "user", "content": task.text})
        messages.append({"role": "assistant", "content": task.answer})
    return {"messages": messages, "expected": list(turns[-1].expected)}


def _requests(rng: random.Random, forms: WordForms, split: ConversationSplit) -> list[Instruction]:
    """Return one to three requests; all questions are about one character."""
    draw = rng.random()
    num_turns = 1 if draw < 0.7 else 2 if draw < 0.9 else 3
    if split == "train" and rng.random() < 0.3:
        return _small_talk(rng, forms, num_turns)
    while True:
        character = pick(rng, forms.characters)
        attributes = _askable(forms, character, split)
        if len(attributes) >= num_turns:
            break
        num_turns = max(1, num_turns - 1)
    chosen = rng.sample(attributes, num_turns)
    turns = [_question(rng, forms, character, attribute, split) for attribute in chosen]
    if split == "train" and rng.random() < 0.08:
        turns = [*turns[:2], _fixed_reply(rng, "thanks")]
    return turns


def _askable(forms: WordForms, character: Character, split: ConversationSplit) -> list[str]:
    seed, wanted = forms.world.seed, split == "heldout"
    return [name for name in ATTRIBUTES if is_heldout(seed, character, name) == wanted]


def _question(
    rng: random.Random,
    forms: WordForms,
    character: Character,
    attribute: str,
    split: ConversationSplit,
) -> Instruction:
    """Ask for one fact. Half of the held-out questions have new phrasings."""
    words = lexicon()
    patterns, wrappers = (
        words["questions"][attribute][:-NUM_CHAT_HELDOUT],
        words["tasks"]["wrappers"],
    )
    if split == "heldout" and rng.random() < 0.5:
        patterns = words["questions"][attribute][-NUM_CHAT_HELDOUT:]
        if rng.random() < 0.3:
            wrappers = words["tasks"]["wrappers_heldout"]
    question = ask(rng, forms, character.name, pick(rng, patterns))
    low = question[0].lower() + question[1:]
    asked = pick(rng, wrappers).format(q=question, q_low=low)
    answer = long_answer(rng, forms, character.name, attribute)
    return Instruction(asked, answer, (expected_word(forms, character.name, attribute),))


def _small_talk(rng: random.Random, forms: WordForms, num_turns: int) -> list[Instruction]:
    """Return requests that ask for no single fact: greetings, tasks, short stories."""
    turns: list[Instruction] = []
    for _ in range(num_turns):
        draw = rng.random()
        if draw < 0.12 and not turns:
            turns.append(_fixed_reply(rng, "greetings"))
        elif draw < 0.25:
            turns.append(_fixed_reply(rng, "identity"))
        elif draw < 0.65:
            turns.append(pick(rng, WORD_TASKS)(rng))
        else:
            character = pick(rng, forms.characters)
            known = [a for a in _askable(forms, character, "train") if a != "species"]
            make = tell if draw < 0.85 else describe
            turns.append(make(rng, forms, character.name, rng.sample(known, min(2, len(known)))))
    return turns


_KEY_WORDS = {
    "greetings": ("olá", "oi", "bom dia", "boa tarde", "boa noite"),
    "identity": ("Pitanga",),
    "thanks": ("de nada", "tchau", "até"),
}


def _fixed_reply(rng: random.Random, kind: str) -> Instruction:
    said, answer = pick(rng, lexicon()["tasks"][kind])
    return Instruction(said, answer, _KEY_WORDS[kind])
