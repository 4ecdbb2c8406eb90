"""Reading a request's JSON, field by field: every fault is a 400 that names the field.

A field that is null counts as not given, as OpenAI's clients mean it. A field that nobody knows
is refused, and so is one that would ask for what this server does not do: nothing is ignored in
silence.
"""

from __future__ import annotations

import difflib
import math
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from teenytinyllama.artifacts.conversations import Message, problem_with
from teenytinyllama.errors import UserError
from teenytinyllama.inference.chat_model import ChatModel
from teenytinyllama.inference.generation import Request, Sampling, TextStream
from teenytinyllama.serving.http_messages import Refusal

if TYPE_CHECKING:  # only where a GGUF file is served
    from teenytinyllama.inference.llama_cpp import GgufChatModel

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 200
DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

COMMON = {
    *("model", "max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty"),
    *("seed", "stop", "stream", "stream_options", "n", "user", "metadata"),
    *("presence_penalty", "frequency_penalty", "logprobs", "logit_bias"),
}
CHAT = frozenset(COMMON) | {
    *("messages", "max_completion_tokens", "top_logprobs", "tools", "tool_choice"),
    *("parallel_tool_calls", "functions", "function_call", "response_format", "store"),
    *("modalities", "service_tier"),
}
COMPLETION = frozenset(COMMON) | {"prompt", "echo", "suffix", "best_of"}
# What each may be where we do not do what it asks for.
WITHOUT_EFFECT: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "store": (False,),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
}


@dataclass(frozen=True)
class Ask:
    """What a request asks for, checked."""

    chat_model: ChatModel | GgufChatModel
    request: Request
    text: TextStream | None
    """None for a GGUF file: llama.cpp makes the text, and looks for the stops."""
    stops: Sequence[str]
    streams: bool
    include_usage: bool


class Fields:
    """A JSON object whose fields are asked for by name and kind."""

    def __init__(self, values: Mapping[str, Any], known: frozenset[str]) -> None:
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f'; did you mean "{near[0]}"?' if near else ""
                shown = _shown(name)
                raise bad(shown, f"the field {shown} is unknown{hint}", code="unknown-field")
        self._values = {name: value for name, value in values.items() if value is not None}
        for name, allowed in WITHOUT_EFFECT.items():
            given = self._values.get(name)
            if given is not None and not any(_same(given, value) for value in allowed):
                expected = " or ".join(map(repr, allowed))
                message = f"{name} = {_shown(given)} is not supported here; leave it out"
                raise bad(name, f"{message} (or {expected})", code="unsupported")

    def get(self, name: str) -> Any:
        """A field's value as it came, None where it is not given."""
        return self._values.get(name)

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """A finite number from `low` to `high`."""
        value = self._values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise bad(name, f"{name} = {_shown(value)}, expected a number")
        if not low <= value <= high or not math.isfinite(value):
            raise bad(name, f"{name} = {_shown(value)}, expected {low:g} to {high:g}")
        return float(value)

    def whole(self, name: str, default: int, low: int, high: int) -> int:
        """A whole number from `low` to `high`."""
        value = self._values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise bad(name, f"{name} = {_shown(value)}, expected a whole number")
        if not low <= value <= high:
            raise bad(name, f"{name} = {_shown(value)}, expected {low} to {high}")
        return value

    def flag(self, name: str) -> bool:
        """True or false; false where it is not given."""
        value = self._values.get(name, False)
        if not isinstance(value, bool):
            raise bad(name, f"{name} = {_shown(value)}, expected true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """Text that can be written as UTF-8."""
        return checked_text(self._values.get(name, default), name)


def bad(field: str, message: str, *, code: str = "invalid-value") -> Refusal:
    """A 400 that names the field."""
    return Refusal(400, code, message, field=field)


def checked_text(value: object, field: str) -> str:
    """`value` as text. Raises Refusal for another kind, and for half a surrogate pair."""
    if not isinstance(value, str):
        given = "missing" if value is None else f"{_shown(value)}, expected text"
        raise bad(field, f"{field} is {given}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        message = f"{field} holds half a character (a lone surrogate) at {error.start}"
        raise bad(field, message) from None
    return value


def chat_ask(
    values: Mapping[str, Any],
    chat_models: Mapping[str, ChatModel | GgufChatModel],
    *,
    max_messages: int,
) -> Ask:
    """A chat completion. Raises Refusal for what cannot be done."""
    fields = Fields(values, CHAT)
    chat_model = _chat_model(fields, chat_models)
    messages = _messages(fields.get("messages"), max_messages)
    if fault := problem_with(messages):
        where = re.match(r"message (\d+): ", fault)
        raise bad(f"messages[{where[1]}]" if where else "messages", fault)
    if messages[-1]["role"] != "user":
        place = f"messages[{len(messages) - 1}]"
        raise bad(place, "the last message is not the user's, so there is nothing to answer")
    name = "max_completion_tokens" if fields.get("max_completion_tokens") else "max_tokens"
    strip = chat_model.answers
    return _ask(fields, chat_model, chat_model.prompt_of(messages), (name, None, "messages"), strip)


def completion_ask(
    values: Mapping[str, Any], chat_models: Mapping[str, ChatModel | GgufChatModel]
) -> Ask:
    """A plain completion of text or ids. Raises Refusal for what cannot be done."""
    fields = Fields(values, COMPLETION)
    chat_model = _chat_model(fields, chat_models)
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, list):
        ids = _checked_ids(prompt, chat_model)
    else:
        text = checked_text(prompt, "prompt")
        ids = (
            [chat_model.encoder.bos_id, *chat_model.encoder.encode(text)]
            if isinstance(chat_model, ChatModel)
            else chat_model.spell(text)
        )
    names = ("max_tokens", DEFAULT_COMPLETION_TOKENS, "prompt")
    return _ask(fields, chat_model, ids, names, len(ids) == 1)


def _checked_ids(prompt: list[Any], chat_model: ChatModel | GgufChatModel) -> list[int]:
    if not isinstance(chat_model, ChatModel):
        raise bad("prompt", "prompt is a list; a GGUF file takes text")
    if not prompt or any(isinstance(id, bool) or not isinstance(id, int) for id in prompt):
        raise bad("prompt", "prompt is a list, expected text, one text in a list, or token ids")
    size = chat_model.decoder.vocab_size
    if min(prompt) < 0 or max(prompt) >= size:
        raise bad("prompt", f"prompt holds ids outside the vocabulary, 0 to {size - 1}")
    return prompt


def _chat_model(
    fields: Fields, chat_models: Mapping[str, ChatModel | GgufChatModel]
) -> ChatModel | GgufChatModel:
    name = fields.text("model")
    if name not in chat_models:
        known = ", ".join(chat_models)
        message = f"there is no model {_shown(name)}; this server has: {known}"
        raise Refusal(404, "model-not-found", message, field="model")
    return chat_models[name]


def _messages(value: object, max_messages: int) -> list[Message]:
    if not isinstance(value, list) or not value:
        given = "missing" if value is None else f"{_shown(value)}, expected a list of messages"
        raise bad("messages", f"messages is {given}")
    if len(value) > max_messages:
        raise bad("messages", f"{len(value)} messages, at most {max_messages} are allowed")
    messages: list[Message] = []
    for index, message in enumerate(value):
        place = f"messages[{index}]"
        if not isinstance(message, dict):
            raise bad(place, f"{place} is {_shown(message)}, expected an object")
        for name in message:
            if name not in ("role", "content", "name", "refusal"):
                shown = f"{place}.{_shown(name)}"
                raise bad(shown, f"the field {shown} is unknown", code="unknown-field")
        role = message.get("role")
        if not isinstance(role, str) or role not in ROLES:
            raise bad(f"{place}.role", f"{place}.role is {_shown(role)}, expected {_roles()}")
        content = _content(message.get("content"), f"{place}.content")
        messages.append({"role": ROLES[role], "content": content})  # type: ignore[typeddict-item]
    return messages


def _roles() -> str:
    return ", ".join(ROLES)


def _content(value: object, place: str) -> str:
    """A message's words: text, or a list of text parts."""
    if not isinstance(value, list):
        return checked_text(value, place)
    words = []
    for index, part in enumerate(value):
        name = f"{place}[{index}]"
        if not isinstance(part, dict) or part.get("type") != "text":
            raise bad(name, f'{name} is {_shown(part)}, expected {{"type": "text", "text": ...}}')
        words.append(checked_text(part.get("text"), f"{name}.text"))
    return "".join(words)


def _ask(
    fields: Fields,
    chat_model: ChatModel | GgufChatModel,
    prompt: Sequence[int],
    names: tuple[str, int | None, str],
    strips_first_space: bool,
) -> Ask:
    limit_name, default_tokens, prompt_name = names
    stage = chat_model.max_positions - len(prompt)
    if stage < 1:
        context = chat_model.max_positions
        message = f"{prompt_name} has {len(prompt)} tokens; the model's context is {context}"
        raise bad(prompt_name, message, code="context-exceeded")
    fields.text("user", "")
    if not isinstance(fields.get("metadata") or {}, dict):
        raise bad("metadata", "metadata is no object")
    max_new_tokens = fields.whole(limit_name, min(stage, default_tokens or stage), 1, 2**31)
    if max_new_tokens > stage:
        message = (
            f"{prompt_name} has {len(prompt)} tokens and {limit_name} is {max_new_tokens}; "
            f"the model's context is {chat_model.max_positions}: at most {stage} here"
        )
        raise bad(limit_name, message, code="context-exceeded")
    streams = fields.flag("stream")
    stops = _stops(fields.get("stop"))
    text, stop_ids = None, frozenset[int]()
    if isinstance(chat_model, ChatModel):
        strips = strips_first_space and chat_model.encoder.adds_space
        text = TextStream(chat_model.vocabulary, stops, strip_first_space=strips)
        stop_ids = frozenset({chat_model.encoder.eos_id})
    return Ask(
        chat_model=chat_model,
        request=Request(prompt, max_new_tokens, _sampling(fields), stop_ids),
        text=text,
        stops=stops,
        streams=streams,
        include_usage=_include_usage(fields.get("stream_options"), streams),
    )


def _sampling(fields: Fields) -> Sampling:
    """The sampling that is asked for. Without a seed every answer is another one."""
    seed = fields.get("seed")
    if seed is not None:
        seed = fields.whole("seed", 0, -(2**63), 2**63 - 1) % 2**63
    top_p = fields.number("top_p", 1.0, 0.0, 1.0)
    penalty = fields.number("repetition_penalty", 1.0, 0.01, 100.0)
    if top_p == 0:
        raise bad("top_p", "top_p = 0, expected above 0, at most 1")
    values: dict[str, Callable[[], Any]] = {
        "temperature": lambda: fields.number("temperature", 1.0, 0.0, 2.0),
        "top_k": lambda: fields.whole("top_k", 0, 0, 2**31),
        "min_p": lambda: fields.number("min_p", 0.0, 0.0, 1.0),
    }
    try:
        return Sampling(
            **{name: read() for name, read in values.items()},
            top_p=top_p,
            repetition_penalty=penalty,
            seed=secrets.randbits(62) if seed is None else seed,
        )
    except UserError as error:
        raise bad(error.where, f"{error.where}: {error.what}") from error


def _stops(value: object) -> list[str]:
    stops: list[Any] = value if isinstance(value, list) else [] if value is None else [value]
    if len(stops) > MAX_STOPS:
        raise bad("stop", f"stop holds {len(stops)} texts, at most {MAX_STOPS} are allowed")
    for index, stop in enumerate(stops):
        name = f"stop[{index}]" if isinstance(value, list) else "stop"
        if not 0 < len(checked_text(stop, name)) <= MAX_STOP_CHARACTERS:
            raise bad(name, f"{name} is empty or longer than {MAX_STOP_CHARACTERS} characters")
    return stops


def _include_usage(value: object, streams: bool) -> bool:
    if value is None:
        return False
    if not streams:
        raise bad("stream_options", "stream_options is only for stream = true")
    if not isinstance(value, dict):
        raise bad("stream_options", f"stream_options is {_shown(value)}, expected an object")
    fields = Fields(value, frozenset({"include_usage", "include_obfuscation"}))
    fields.flag("include_obfuscation")
    return fields.flag("include_usage")


def _same(given: object, value: object) -> bool:
    """Equal, and of the same kind: 1 is not true, 1.0 is 1."""
    return isinstance(given, bool) == isinstance(value, bool) and given == value


def _shown(value: object) -> str:
    """A value for a message: short, in ASCII, no control characters."""
    try:
        text = ascii(value)
    except RecursionError:
        return "a deeply nested value"
    return text if len(text) <= 60 else f"{text[:57]}..."
