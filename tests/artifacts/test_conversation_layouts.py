from __future__ import annotations

from typing import Any

import pytest
from support.chat_layouts import CONVERSATIONS, PREFERENCES, UNUSED

from teenytinyllama.artifacts.conversation_layouts import (
    ConversationError,
    is_preference,
    parse_conversation,
    parse_preference,
    read_conversation,
    unused_fields,
)
from teenytinyllama.settings.datasets import Source

USER = {"role": "user", "content": "Oi"}
ASSISTANT = {"role": "assistant", "content": "Olá!"}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_every_documented_layout_gives_its_conversation(name: str) -> None:
    fields, expected = CONVERSATIONS[name]
    found = parse_conversation(fields)
    assert found == expected
    assert unused_fields(fields, found) == UNUSED.get(name, [])


@pytest.mark.parametrize("name", PREFERENCES)
def test_every_documented_layout_gives_its_preference(name: str) -> None:
    fields, expected = PREFERENCES[name]
    assert is_preference(fields)
    found = parse_preference(fields)
    assert found == expected
    assert unused_fields(fields, [*found.chosen, *found.rejected]) == []


def test_empty_and_null_fields_are_absent_as_a_table_has_them() -> None:
    row = {"messages": None, "conversations": [], "prompt": "Oi", "completion": "Olá!"}
    assert parse_conversation(row) == [USER, ASSISTANT]
    turn = {"role": None, "from": "human", "content": None, "value": "Oi", "weight": None}
    assert parse_conversation({"messages": [turn, ASSISTANT]}) == [USER, ASSISTANT]
    # As older versions of `datasets` give a list of messages.
    columns = {"role": ["user", "assistant"], "content": ["Oi", "Olá!"]}
    assert parse_conversation({"messages": columns}) == [USER, ASSISTANT]


def test_text_that_is_in_no_message_is_named() -> None:
    thinking = {**ASSISTANT, "thinking": "Cumprimentar."}
    fields = {
        "messages": [USER, thinking],
        "tools": [{"function": {"name": "luz"}}],
        "system": "Outra.",
        "prompt": "Oi",  # is in the messages
        "id": "a-7",
        "score": 3,
        "LANG": "pt",
    }
    messages = parse_conversation({**fields, "system": ""})
    assert unused_fields(fields, messages, ["LANG"]) == ["messages[].thinking", "system", "tools"]


REFUSED = [
    ({"prompt": "a", "completion": "b", "label": False}, "label is false: an answer that must not"),
    ({"instruction": "a", "output": "b", "kto_tag": "False"}, "kto_tag is false"),
    ({"instruction": "a", "output": "b", "images": ["x.jpg"]}, "it has images"),
    ({"instruction": "a", "question": "b", "output": "c"}, "two fields may be the question"),
    ({"prompt": "a", "output": "b", "answer": "c"}, "two fields may be the answer"),
    ({"question": "a", "answer": {"text": "b"}}, "answer is a dict, not a text"),
    ({"input_ids": [1], "labels": [1]}, "its text is tokens already"),
    ({"segments": [{"label": True, "text": "a"}]}, "segments are laid out"),
    ({"prompt": "a", "completions": ["b"], "labels": [True]}, "step-by-step"),
    ({"instruction": "a", "answer": "b", "critiques": "c"}, "a critique"),
    ({"article": "a", "unanswerable_question": "b"}, "a question without an answer"),
    ({"text": "a"}, "a text without turns: for corpus.sources, without shape"),
    ({"instruction": "a", "output": "b", "history": "c"}, "history is a str"),
    ({"instruction": "a", "output": "b", "history": [["c"]]}, "not a list of pairs"),
    ({"instruction": "a", "output": "b", "history": [["c", ""]]}, "message 1: empty assistant"),
    ({"messages": [USER, {**ASSISTANT, "weight": 0}]}, "all have weight 0"),
    ({"messages": [USER, {**ASSISTANT, "weight": 0.5}]}, "message 1: weight 0.5, expected 0 or 1"),
    (
        {"messages": [USER, {**ASSISTANT, "train_detail": [{"begin_offset": 0, "train": False}]}]},
        "train_detail leaves out a part",
    ),
    ({"instruction": "a", "output": ["b", "c"]}, "output is a list of 2 texts, several for one"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, r"not text \(image_url"),
    ({"messages": [USER, {"role": "assistant", "tool_calls": [{}]}]}, "a call of a tool"),
    ({"messages": [USER, {"from": "observation", "value": "x"}]}, "a call of a tool"),
    (
        {"messages": [USER, {"role": "assistant", "content": None, "refusal": "Não."}]},
        r"message 1: empty assistant message \(beside it refusal\)",
    ),
]


@pytest.mark.parametrize(("fields", "reason"), REFUSED)
def test_what_is_not_a_text_conversation_has_a_reason(fields: Any, reason: str) -> None:
    with pytest.raises(ConversationError, match=reason):
        parse_conversation(fields)


def test_keys_of_a_source_keep_system_and_history() -> None:
    source = Source(kind="files", path="x", question_key="Q", context_key="C", answer_key="R")
    fields = {"Q": "Oi", "C": "", "R": 7, "system": "Seja breve.", "history": [["a", "b"]]}
    roles = [message["role"] for message in read_conversation(fields, source)]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    assert read_conversation(fields, source)[-1]["content"] == "7"
    with pytest.raises(ConversationError, match="no field 'Q'"):
        read_conversation({"R": "a"}, source)


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
    ([], "messages holds no messages"),
    ("Oi", "its messages are a str, not a list"),
    ("[{'role': 'user', 'content': 'Oi'}]", "a str, not a list nor JSON of one"),
    ([["user", "Oi"]], "message 0: not an object but list"),
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


def test_answers_that_are_several_or_none_are_named() -> None:
    with pytest.raises(ConversationError, match="rejected is a list of 2 texts, several for one"):
        parse_preference({"prompt": "a", "chosen": "b", "rejected": ["c", "d"]})
    with pytest.raises(ConversationError, match=r"no chosen and rejected answer \(a, b\)"):
        parse_preference({"a": "1", "b": "2"})


def test_messages_as_columns_of_any_documented_names() -> None:
    columns = {"from": ["human", "gpt"], "value": ["Oi", "Olá!"]}
    assert parse_conversation({"conversations": columns}) == [USER, ASSISTANT]


@pytest.mark.parametrize("flag", ["loss", "masked"])
def test_a_flag_of_a_message_that_is_not_understood_is_named(flag: str) -> None:
    row = {"messages": [USER, {**ASSISTANT, flag: False}]}
    assert unused_fields(row, parse_conversation(row)) == [f"messages[].{flag}"]


@pytest.mark.parametrize("value", [0, "0", 0.0, "False"])
def test_a_completion_that_a_table_marks_as_bad_is_not_learnt(value: object) -> None:
    with pytest.raises(ConversationError, match="label is false"):
        parse_conversation({"prompt": "Oi", "completion": "Olá!", "label": value})
    # A number beside a question and an answer may be their class.
    assert parse_conversation({"question": "Oi", "answer": "Olá!", "label": 0})


def test_a_weight_that_a_table_lacks_is_none() -> None:
    row = {"messages": [USER, {**ASSISTANT, "weight": float("nan")}]}
    assert parse_conversation(row) == [USER, ASSISTANT]


def test_a_system_message_of_text_parts() -> None:
    row = {"system": [{"type": "text", "text": "Seja breve."}], "messages": [USER, ASSISTANT]}
    assert parse_conversation(row)[0] == {"role": "system", "content": "Seja breve."}


def test_a_prompt_of_marked_turns_is_its_turns() -> None:
    """As in Nectar, and in HH-RLHF with the prompt apart."""
    prompt = "\n\nHuman: Oi\n\nAssistant: Olá!\n\nHuman: Quem é?\n\nAssistant:"
    row = {"prompt": prompt, "chosen": " A Lila.", "rejected": " Ninguém."}
    found = parse_preference(row)
    assert found.chosen == [
        USER,
        ASSISTANT,
        {"role": "user", "content": "Quem é?"},
        {"role": "assistant", "content": "A Lila."},
    ]
    assert unused_fields(row, [*found.chosen, *found.rejected]) == []
    said = {"prompt": "Escreva Human: e\n\nAssistant:", "completion": "Olá!"}
    assert parse_conversation(said)[0]["content"] == "Escreva Human: e\n\nAssistant:"
