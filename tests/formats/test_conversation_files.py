from __future__ import annotations

from typing import Any

import pytest

from teenytinyllama.formats.conversation_files import Unusable, conversation_of, preference_of

USER = {"role": "user", "content": "Oi"}
ASSISTANT = {"role": "assistant", "content": "Olá!"}
SHAPES: list[dict[str, Any]] = [
    {"messages": [USER, ASSISTANT]},
    {"conversations": [{"from": "human", "value": "Oi"}, {"from": "gpt", "value": "Olá!"}]},
    {"conversations": [USER, ASSISTANT]},
    {"instruction": "Oi", "input": "", "output": "Olá!"},
    {"instruction": "Oi", "output": " Olá!\n"},
    {"prompt": "Oi", "completion": "Olá!"},
    {"prompt": [USER], "completion": [ASSISTANT]},
]


@pytest.mark.parametrize("fields", SHAPES)
def test_every_common_shape_is_the_same_conversation(fields: dict[str, Any]) -> None:
    assert conversation_of(fields) == [USER, ASSISTANT]


BROKEN = [
    ([ASSISTANT, USER], "message 0: assistant after nothing"),
    ([USER, USER, ASSISTANT], "message 1: user after user"),
    ([USER, {"role": "robot", "content": "x"}], "message 1: unknown role 'robot'"),
    (
        [USER, {"role": "system", "content": "x"}, ASSISTANT],
        "message 1: system message not in first place",
    ),
    ([USER, {"role": "assistant", "content": " \n"}], "message 1: empty assistant message"),
    ([USER, {"role": "assistant", "content": None}], "message 1: empty assistant message"),
    ([USER], "the last message is not the assistant's: nothing to learn"),
    ([], "no messages"),
    ("Oi", "its turns are no list but str"),
    ([USER, 3], "message 1: not an object but int"),
    ([USER, {"role": "assistant", "content": "\ud800"}], "holds half of a character"),
]


@pytest.mark.parametrize(("messages", "reason"), BROKEN)
def test_a_broken_conversation_says_why(messages: object, reason: str) -> None:
    with pytest.raises(Unusable, match=reason.replace("(", r"\(")):
        conversation_of({"messages": messages})


def test_an_unknown_shape_names_its_keys() -> None:
    with pytest.raises(Unusable, match=r"unknown shape \(answer, question\)"):
        conversation_of({"question": "x", "answer": "y"})


def test_preferences_share_their_prompt() -> None:
    worse = {"role": "assistant", "content": "Não."}
    pair = preference_of({"prompt": "Oi", "chosen": "Olá!", "rejected": "Não."})
    assert pair == ([USER, ASSISTANT], [USER, worse])
    # The same with the prompt repeated in both sides.
    whole = {"prompt": "Oi", "chosen": [USER, ASSISTANT], "rejected": [USER, worse]}
    assert preference_of(whole) == pair
    assert preference_of({k: whole[k] for k in ("chosen", "rejected")}) == pair
    with pytest.raises(Unusable, match="are equal"):
        preference_of({"prompt": "Oi", "chosen": "Olá!", "rejected": "Olá! "})
