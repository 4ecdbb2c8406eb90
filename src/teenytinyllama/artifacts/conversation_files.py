"""Conversations out of records of every common shape.

    messages:       [{"role": "user", "content": ...}, ...]          OpenAI, TRL
    conversations:  [{"from": "human", "value": ...}, ...]           ShareGPT (roles also work)
    instruction, input, output                                       Alpaca
    instruction, context, response                                   Dolly
    prompt, completion                                               texts or lists of messages
    prompt or question, response or answer                           the same; not beside choices
    prompt, chosen, rejected                                         preferences, for DPO

Where the turns do not name a system message, a field `system` or `system_prompt` is it. What fits
none of these, or breaks the order of turns, is a fault with its reason, never a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from teenytinyllama.artifacts.conversations import Message, fault_of
from teenytinyllama.settings.datasets import Source

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
Conversation = list[Message]


class Unusable(ValueError):  # noqa: N818 (a reason, not a fault of ours)
    """A record that is no conversation; the message is the reason."""


class Preference(NamedTuple):
    """The same conversation with a better and a worse last answer."""

    chosen: Conversation
    rejected: Conversation


def is_preference(fields: Mapping[str, Any]) -> bool:
    """Whether a record holds a better and a worse answer: data for DPO."""
    return "chosen" in fields and "rejected" in fields


def conversation_of(fields: Mapping[str, Any]) -> Conversation:
    r"""The conversation in a record, whatever its shape. Raises Unusable with the reason.

    >>> conversation_of({"instruction": "Some", "input": "1 e 2", "output": "3"})
    [{'role': 'user', 'content': 'Some\n\n1 e 2'}, {'role': 'assistant', 'content': '3'}]
    """
    if "messages" in fields:
        messages = _turns(fields["messages"])
    elif "conversations" in fields or "conversation" in fields:
        messages = _turns(fields.get("conversations", fields.get("conversation")))
    elif "instruction" in fields and ("output" in fields or "response" in fields):
        messages = _alpaca(fields)
    else:
        asked, answered = _question_and_answer(fields)
        messages = [*_side(fields[asked], "user"), *_side(fields[answered], "assistant")]
    return _checked([*_system(fields, messages), *messages])


def conversation_from(fields: Mapping[str, Any], source: Source) -> Conversation:
    """The same by the names of fields that the source gives. Raises Unusable with the reason."""
    if not source.answer_key:
        return conversation_of(fields)
    try:
        answer = fields.get(source.answer_key.format_map(fields))
    except KeyError as error:
        raise Unusable(f"no field {error}") from error
    asked = [fields.get(key) for key in (source.question_key, source.context_key) if key]
    prompt = "\n\n".join(part for part in asked if isinstance(part, str) and part.strip())
    completion = answer if isinstance(answer, str) else ""
    return conversation_of({"prompt": prompt, "completion": completion})


def preference_of(fields: Mapping[str, Any]) -> Preference:
    """Both conversations of a preference record. Raises Unusable with the reason."""
    prompt = _side(fields["prompt"], "user") if "prompt" in fields else []
    sides = []
    for name in ("chosen", "rejected"):
        whole = _side(fields[name], "assistant")
        # Some files repeat the prompt at the head of both sides.
        sides.append(_checked(whole if whole[: len(prompt)] == prompt else [*prompt, *whole]))
    chosen, rejected = sides
    if chosen[:-1] != rejected[:-1]:
        raise Unusable("chosen and rejected do not share their prompt")
    if chosen == rejected:
        raise Unusable("chosen and rejected are equal")
    return Preference(chosen, rejected)


def _checked(messages: Conversation) -> Conversation:
    fault = fault_of(messages)
    if fault is None and messages[-1]["role"] != "assistant":
        fault = "the last message is not the assistant's: nothing to learn"
    if fault:
        raise Unusable(fault)
    return messages


def _turns(value: object) -> Conversation:
    if not isinstance(value, list):
        raise Unusable(f"its turns are no list but {type(value).__name__}")
    return [_message(turn, index) for index, turn in enumerate(value)]


def _message(turn: object, index: int) -> Message:
    if not isinstance(turn, Mapping):
        raise Unusable(f"message {index}: not an object but {type(turn).__name__}")
    role = turn.get("role", turn.get("from"))
    content = turn.get("content", turn.get("value"))
    if not isinstance(role, str) or role.lower() not in ROLE_NAMES:
        raise Unusable(f"message {index}: unknown role {role!r}")
    name = ROLE_NAMES[role.lower()]
    if not isinstance(content, str):
        raise Unusable(f"message {index}: empty {name} message")
    return cast(Message, {"role": name, "content": _clean(content)})


def _clean(text: str) -> str:
    """Without outer blanks and without what UTF-8 cannot spell."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Unusable("holds half of a character (lone surrogate)") from error
    return text.strip()


def _alpaca(fields: Mapping[str, Any]) -> Conversation:
    answer = fields.get("output", fields.get("response"))
    given = fields.get("input") or fields.get("context") or ""
    parts = [fields["instruction"], given, answer]
    if not all(isinstance(part, str) for part in parts):
        raise Unusable("instruction, input and output must be texts")
    instruction, given, output = (_clean(part) for part in parts)
    asked = f"{instruction}\n\n{given}" if given else instruction
    return [*_side(asked, "user"), *_side(output, "assistant")]


def _question_and_answer(fields: Mapping[str, Any]) -> tuple[str, str]:
    """Names of the two fields. An answer beside choices is a letter or a number, no reply."""
    pairs = [("prompt", "completion"), ("prompt", "response"), ("question", "response")]
    if "choices" not in fields and "options" not in fields:
        pairs.append(("question", "answer"))
    for pair in pairs:
        if fields.keys() >= set(pair):
            return pair
    names = ", ".join(sorted(fields)[:8]) or "no field"
    raise Unusable(f"unknown shape ({names}); known: {KNOWN_SHAPES}")


def _system(fields: Mapping[str, Any], messages: Conversation) -> Conversation:
    """The system message that stands beside the turns, where they do not name one themselves."""
    if messages and messages[0]["role"] == "system":
        return []
    for name in ("system", "system_prompt"):
        text = fields.get(name)
        if isinstance(text, str) and text.strip():
            return _side(text, "system")
    return []


def _side(value: object, role: str) -> Conversation:
    if isinstance(value, str):
        return [cast(Message, {"role": role, "content": _clean(value)})]
    return _turns(value)
