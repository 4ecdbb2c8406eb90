"""Conversations: their one shape and the chat template.

A conversation is a list of messages `{"role": "system" | "user" | "assistant", "content": text}`.
Rendered, each message is its role's special token, its text and an end mark:

    <s><|user|>Quem mora na floresta?</s><|assistant|>A raposa Lila.</s>

Role tokens are control tokens of the vocabulary: no text encodes to one, so a user cannot forge a
message of another role. The end mark is EOS, which the base model has seen after every document.

The record layouts that conversations are read from are in `conversation_layouts`.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Literal, NotRequired, TypedDict

from teenytinyllama.errors import UserError

BOS, EOS, UNK, PAD = "<s>", "</s>", "<unk>", "<pad>"
ROLE_TOKENS: dict[str, str] = {
    "system": "<|system|>",
    "user": "<|user|>",
    "assistant": "<|assistant|>",
}
# In the order of their ids, which are equal in every tokenizer that this package trains.
SPECIAL_TOKENS: tuple[str, ...] = (UNK, BOS, EOS, PAD, *ROLE_TOKENS.values())
SPECIAL_IDS: dict[str, int] = {token: index for index, token in enumerate(SPECIAL_TOKENS)}

# `{% generation %}` marks the trained tokens: the assistant's text and the end mark after it.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "<|assistant|>{% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}"
    "{% elif message['role'] in ('user', 'system') %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}{{ eos_token }}"
    "{% else %}{{ raise_exception('unknown role ' + message['role']) }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class Message(TypedDict):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str
    weight: NotRequired[Literal[0, 1]]
    """0: an answer that is read and not learnt."""


Conversation = list[Message]


def problem_with(messages: Sequence[Message], *, may_be_empty: Container[str] = ()) -> str | None:
    """Why a conversation cannot be used, or None where it can.

    Allowed: an optional system message first, then user and assistant in turn, no empty turn but
    of the roles in `may_be_empty`.

    >>> problem_with([{"role": "user", "content": "Oi"}, {"role": "user", "content": "Oi?"}])
    'message 1: user after user'
    """
    if not messages:
        return "no messages"
    previous = ""
    for index, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if role not in ROLE_TOKENS:
            return f"message {index}: unknown role {role!r}"
        is_empty = not isinstance(content, str) or not content.strip()
        if is_empty and role not in may_be_empty:
            return f"message {index}: empty {role} message"
        if role == "system" and index:
            return f"message {index}: system message not in first place"
        if role == previous or (role == "assistant" and previous != "user"):
            return f"message {index}: {role} after {previous or 'nothing'}"
        previous = role
    return None


def check_prompt(messages: Sequence[Message]) -> None:
    """Raise UserError for a conversation that does not end with a question to answer.

    Earlier answers may be empty: that is what a model may have said.
    """
    problem = problem_with(messages, may_be_empty=("assistant",))
    if problem is None and messages[-1]["role"] != "user":
        problem = "the last message is not the user's"
    if problem:
        raise UserError("conversation", "messages", problem, "correct the messages")
