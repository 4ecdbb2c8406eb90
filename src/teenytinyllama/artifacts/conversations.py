"""Conversations: the one shape that chat training, chat and the server share.

A conversation is a list of messages `{"role": "system" | "user" | "assistant", "content": text}`.
Rendered, every turn is a role's special token, the words, and an end mark:

    <s><|user|>Quem mora na floresta?</s><|assistant|>A raposa Lila.</s>

The role tokens are control pieces of the tokenizer, made with it: no text can spell them, so a
user cannot forge a turn. The end mark is EOS, which the base model has already seen close every
document.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

BOS, EOS, UNK, PAD = "<s>", "</s>", "<unk>", "<pad>"
ROLE_TOKENS: dict[str, str] = {
    "system": "<|system|>",
    "user": "<|user|>",
    "assistant": "<|assistant|>",
}
# In the order of their ids, which are the same in every tokenizer this project trains.
SPECIAL_TOKENS: tuple[str, ...] = (UNK, BOS, EOS, PAD, *ROLE_TOKENS.values())
IDS: dict[str, int] = {token: index for index, token in enumerate(SPECIAL_TOKENS)}

# `{% generation %}` marks what is learnt: the assistant's words and the end mark after them.
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
    """One turn."""

    role: Literal["system", "user", "assistant"]
    content: str


def fault_of(messages: Sequence[Message]) -> str | None:
    """Why a conversation cannot be used, or None where it can.

    Allowed: an optional system message first, then user and assistant in turn, no empty turn.

    >>> fault_of([{"role": "user", "content": "Oi"}, {"role": "user", "content": "Oi?"}])
    'message 1: user after user'
    """
    if not messages:
        return "no messages"
    previous = ""
    for index, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if role not in ROLE_TOKENS:
            return f"message {index}: unknown role {role!r}"
        if not isinstance(content, str) or not content.strip():
            return f"message {index}: empty {role} message"
        if role == "system" and index:
            return f"message {index}: system message not in first place"
        if role == previous or (role == "assistant" and previous != "user"):
            return f"message {index}: {role} after {previous or 'nothing'}"
        previous = role
    return None
