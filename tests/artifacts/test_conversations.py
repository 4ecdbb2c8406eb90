from __future__ import annotations

from typing import Any

import pytest

from teenytinyllama.artifacts.conversations import (
    ConversationError,
    parse_conversation,
    parse_preference,
)

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
    {"prompt": "Oi", "response": "Olá!"},
    {"question": "Oi", "answer": "Olá!"},
    {"question": "Oi", "response": "Olá!", "system_prompt": " "},
]


@pytest.mark.parametrize("fields", SHAPES)
def test_all_known_layouts_give_the_same_conversation(fields: dict[str, Any]) -> None:
    assert parse_conversation(fields) == [USER, ASSISTANT]


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
    ("Oi", "its messages are a str, not a list"),
    ([USER, 3], "message 1: not an object but int"),
    ([USER, {"role": "assistant", "content": "\ud800"}], "holds half of a character"),
]


@pytest.mark.parametrize(("messages", "reason"), BROKEN)
def test_a_broken_conversation_has_a_reason(messages: object, reason: str) -> None:
    with pytest.raises(ConversationError, match=reason.replace("(", r"\(")):
        parse_conversation({"messages": messages})


def test_a_context_is_appended_to_the_question() -> None:
    fields = {"instruction": "Quem?", "context": "Rina mora ali.", "response": "Rina."}
    assert parse_conversation(fields)[0]["content"] == "Quem?\n\nRina mora ali."


@pytest.mark.parametrize("name", ["system", "system_prompt"])
def test_a_system_message_may_be_a_separate_field(name: str) -> None:
    system = {"role": "system", "content": "Seja breve."}
    whole = [system, USER, ASSISTANT]
    assert parse_conversation({name: "Seja breve.", "question": "Oi", "response": "Olá!"}) == whole
    assert parse_conversation({name: "Outra.", "messages": whole}) == whole


def test_an_unknown_layout_names_its_keys_and_the_known_ones() -> None:
    with pytest.raises(
        ConversationError, match=r"unknown shape \(turns\); known: messages, conversations,"
    ):
        parse_conversation({"turns": ["x", "y"]})
    with pytest.raises(ConversationError, match="unknown shape"):  # the answer is a letter
        parse_conversation({"question": "x", "choices": ["y", "z"], "answer": "A"})


def test_preferences_share_their_prompt() -> None:
    worse = {"role": "assistant", "content": "Não."}
    pair = parse_preference({"prompt": "Oi", "chosen": "Olá!", "rejected": "Não."})
    assert pair == ([USER, ASSISTANT], [USER, worse])
    # The same with the prompt repeated in both sides.
    whole = {"prompt": "Oi", "chosen": [USER, ASSISTANT], "rejected": [USER, worse]}
    assert parse_preference(whole) == pair
    assert parse_preference({k: whole[k] for k in ("chosen", "rejected")}) == pair
    with pytest.raises(ConversationError, match="are equal"):
        parse_preference({"prompt": "Oi", "chosen": "Olá!", "rejected": "Olá! "})
