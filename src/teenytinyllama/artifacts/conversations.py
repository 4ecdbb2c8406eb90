"""Conversations: their one shape, the chat template, and the record layouts they are read from.

A conversation is a list of messages `{"role": "system" | "user" | "assistant", "content": text}`.
Rendered, each message is its role's special token, its text and an end mark:

    <s><|user|>Quem mora na floresta?</s><|assistant|>A raposa Lila.</s>

Role tokens are control tokens of the vocabulary: no text encodes to one, so a user cannot forge a
message of another role. The end mark is EOS, which the base model has seen after every document.

Record layouts that are recognised:

    messages:       [{"role": "user", "content": ...}, ...]          OpenAI, TRL
    conversations:  [{"from": "human", "value": ...}, ...]           ShareGPT (roles also work)
    instruction, input, output                                       Alpaca
    instruction, context, response                                   Dolly
    prompt, completion                                               texts or lists of messages
    prompt or question, response or answer                           the same; not beside choices
    prompt, chosen, rejected                                         preferences, for DPO

A field `system` or `system_prompt` is the system message where the messages have none. A record
in no known layout, or with messages out of order, raises ConversationError: no guessing.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypedDict, cast

from teenytinyllama.errors import UserError
from teenytinyllama.settings.datasets import Source

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

ROLE_NAMES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
KNOWN_SHAPES = (
    "messages, conversations, instruction and output, prompt and completion, question and answer;"
    " for others set question_key and answer_key of the source"
)


class Message(TypedDict):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


Conversation = list[Message]


class Preference(NamedTuple):
    """One prompt with a preferred and a rejected answer, as two conversations."""

    chosen: Conversation
    rejected: Conversation


class ConversationError(ValueError):
    """A record is not a usable conversation; the message is the reason."""


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


def is_preference(fields: Mapping[str, Any]) -> bool:
    """Whether a record holds a preferred and a rejected answer (data for DPO)."""
    return "chosen" in fields and "rejected" in fields


def parse_conversation(fields: Mapping[str, Any]) -> Conversation:
    r"""The conversation in a record of any known layout. Raises ConversationError.

    >>> parse_conversation({"instruction": "Some", "input": "1 e 2", "output": "3"})
    [{'role': 'user', 'content': 'Some\n\n1 e 2'}, {'role': 'assistant', 'content': '3'}]
    """
    if "messages" in fields:
        messages = _message_list(fields["messages"])
    elif "conversations" in fields or "conversation" in fields:
        messages = _message_list(fields.get("conversations", fields.get("conversation")))
    elif "instruction" in fields and ("output" in fields or "response" in fields):
        messages = _alpaca(fields)
    else:
        asked, answered = _question_and_answer(fields)
        messages = [*_messages(fields[asked], "user"), *_messages(fields[answered], "assistant")]
    return _checked([*_system(fields, messages), *messages])


def read_conversation(fields: Mapping[str, Any], source: Source) -> Conversation:
    """As `parse_conversation`, from the fields that the source's settings name, if any."""
    if not source.answer_key:
        return parse_conversation(fields)
    try:
        answer = fields.get(source.answer_key.format_map(fields))
    except KeyError as error:
        raise ConversationError(f"no field {error}") from error
    asked = [fields.get(key) for key in (source.question_key, source.context_key) if key]
    prompt = "\n\n".join(part for part in asked if isinstance(part, str) and part.strip())
    completion = answer if isinstance(answer, str) else ""
    return parse_conversation({"prompt": prompt, "completion": completion})


def parse_preference(fields: Mapping[str, Any]) -> Preference:
    """Both conversations of a preference record. Raises ConversationError."""
    prompt = _messages(fields["prompt"], "user") if "prompt" in fields else []
    sides = []
    for name in ("chosen", "rejected"):
        whole = _messages(fields[name], "assistant")
        # Some files repeat the prompt at the head of both sides.
        sides.append(_checked(whole if whole[: len(prompt)] == prompt else [*prompt, *whole]))
    chosen, rejected = sides
    if chosen[:-1] != rejected[:-1]:
        raise ConversationError("chosen and rejected do not share their prompt")
    if chosen == rejected:
        raise ConversationError("chosen and rejected are equal")
    return Preference(chosen, rejected)


def _checked(messages: Conversation) -> Conversation:
    problem = problem_with(messages)
    if problem is None and messages[-1]["role"] != "assistant":
        problem = "the last message is not the assistant's: nothing to learn"
    if problem:
        raise ConversationError(problem)
    return messages


def _message_list(value: object) -> Conversation:
    if not isinstance(value, list):
        raise ConversationError(f"its messages are a {type(value).__name__}, not a list")
    return [_message(turn, index) for index, turn in enumerate(value)]


def _message(turn: object, index: int) -> Message:
    if not isinstance(turn, Mapping):
        raise ConversationError(f"message {index}: not an object but {type(turn).__name__}")
    role = turn.get("role", turn.get("from"))
    content = turn.get("content", turn.get("value"))
    if not isinstance(role, str) or role.lower() not in ROLE_NAMES:
        raise ConversationError(f"message {index}: unknown role {role!r}")
    name = ROLE_NAMES[role.lower()]
    if not isinstance(content, str):
        raise ConversationError(f"message {index}: empty {name} message")
    return cast(Message, {"role": name, "content": _clean(content)})


def _clean(text: str) -> str:
    """The text stripped. Raises ConversationError where it cannot be written as UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConversationError("holds half of a character (lone surrogate)") from error
    return text.strip()


def _alpaca(fields: Mapping[str, Any]) -> Conversation:
    answer = fields.get("output", fields.get("response"))
    given = fields.get("input") or fields.get("context") or ""
    parts = [fields["instruction"], given, answer]
    if not all(isinstance(part, str) for part in parts):
        raise ConversationError("instruction, input and output must be texts")
    instruction, given, output = (_clean(part) for part in parts)
    asked = f"{instruction}\n\n{given}" if given else instruction
    return [*_messages(asked, "user"), *_messages(output, "assistant")]


def _question_and_answer(fields: Mapping[str, Any]) -> tuple[str, str]:
    """Names of the two fields. An answer beside choices is a letter or number, not a reply."""
    pairs = [("prompt", "completion"), ("prompt", "response"), ("question", "response")]
    if "choices" not in fields and "options" not in fields:
        pairs.append(("question", "answer"))
    for pair in pairs:
        if fields.keys() >= set(pair):
            return pair
    names = ", ".join(sorted(fields)[:8]) or "no field"
    raise ConversationError(f"unknown shape ({names}); known: {KNOWN_SHAPES}")


def _system(fields: Mapping[str, Any], messages: Conversation) -> Conversation:
    """The system message of a separate field, where the messages have none of their own."""
    if messages and messages[0]["role"] == "system":
        return []
    for name in ("system", "system_prompt"):
        text = fields.get(name)
        if isinstance(text, str) and text.strip():
            return _messages(text, "system")
    return []


def _messages(value: object, role: str) -> Conversation:
    if isinstance(value, str):
        return [cast(Message, {"role": role, "content": _clean(value)})]
    return _message_list(value)
