"""Conversations are well formed, and held-out facts are never asked in training."""

import re
from itertools import islice

import pytest

from teenytinyllama.synthetic import dataset as synthetic
from teenytinyllama.synthetic.dialogues import is_heldout
from teenytinyllama.synthetic.grammar import lexicon
from teenytinyllama.synthetic.world import ATTRIBUTES, world


def _as_regex(pattern: str) -> str:
    friend = re.sub(r"\{o_(best|great)_friend\}", "[oa] (melhor|grande) amig[oa]", pattern)
    return re.sub(r"\{\w+\}", ".{1,40}?", friend).replace("?", r"\?").replace(r"}\?", "}?")


def facts_asked(split: str, count: int) -> set[tuple[str, str]]:
    """Return the (name, attribute) pairs that the user asks for, found by the question patterns."""
    names = "|".join(one.name for one in world().characters)
    patterns = [
        (attribute, re.compile(_as_regex(p), re.IGNORECASE))
        for attribute, questions in lexicon()["questions"].items()
        for p in questions
    ]
    pairs = set()
    for item in synthetic.conversations(num_conversations=count, split=split):
        for message in item["messages"]:
            asked = message["content"]
            if message["role"] == "user" and "?" in asked and (name := re.search(names, asked)):
                pairs |= {(name[0], a) for a, pattern in patterns if pattern.search(asked)}
    return pairs


def test_the_last_answer_has_an_expected_word() -> None:
    for split in ("train", "heldout"):
        for item in synthetic.conversations(num_conversations=800, split=split):
            roles = [message["role"] for message in item["messages"]]
            turns = roles[1:] if roles[0] == "system" else roles
            assert turns == ["user", "assistant"] * (len(turns) // 2)
            assert 1 <= len(turns) // 2 <= 3
            answer = item["messages"][-1]["content"]
            assert any(word.lower() in answer.lower() for word in item["expected"]), item
            assert answer[-1] in ".!?"
            assert answer[0].isupper()


def test_heldout_facts_are_never_asked_in_training() -> None:
    train, heldout = facts_asked("train", 1500), facts_asked("heldout", 500)
    assert not train & heldout
    pairs = [
        is_heldout(0, one, attribute) for one in world().characters for attribute in ATTRIBUTES
    ]
    assert 0.12 <= sum(pairs) / len(pairs) <= 0.22
    assert len(heldout) >= 0.95 * sum(pairs)


def test_conversations_have_a_stable_prefix() -> None:
    longer = synthetic.conversations(num_conversations=100, split="train")
    assert list(islice(longer, 20)) == list(
        synthetic.conversations(num_conversations=20, split="train")
    )


def test_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="expected train or heldout"):
        next(synthetic.conversations(num_conversations=1, split="test"))
