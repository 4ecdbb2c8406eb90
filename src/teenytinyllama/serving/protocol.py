"""Parsing OpenAI's requests: every error is a 400 that names the field.

A field that is null counts as not given, as OpenAI's clients mean it. Unknown fields, and values
that this server does not support, are errors: nothing is silently ignored.
"""

from __future__ import annotations

import difflib
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from teenytinyllama.artifacts.conversations import Message, problem_with
from teenytinyllama.errors import UserError
from teenytinyllama.inference.chat_model import AnyChatModel, ChatModel
from teenytinyllama.inference.generation import SequenceState
from teenytinyllama.inference.sampling import Sampling
from teenytinyllama.serving.generation_request import GenerationRequest
from teenytinyllama.serving.http_messages import HTTPError

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 200
DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's
MESSAGE_FIELDS = ("role", "content", "name")
# Fields of OpenAI's own answers, which clients send back: accepted where they are empty.
UNUSED_MESSAGE_FIELDS = ("refusal", "tool_calls", "function_call", "audio", "annotations")
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

COMMON_FIELDS = {
    *("model", "max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty"),
    *("seed", "stop", "stream", "stream_options", "n", "user", "metadata"),
    *("presence_penalty", "frequency_penalty", "logprobs", "logit_bias"),
}
CHAT_FIELDS = frozenset(COMMON_FIELDS) | {
    *("messages", "max_completion_tokens", "top_logprobs", "tools", "tool_choice"),
    *("parallel_tool_calls", "functions", "function_call", "response_format", "store"),
    *("modalities", "service_tier", "reasoning_effort", "verbosity", "prediction", "audio"),
    *("web_search_options", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
}
COMPLETION_FIELDS = frozenset(COMMON_FIELDS) | {"prompt", "echo", "suffix", "best_of"}
# Fields that are not supported, with the values that need no support.
NEUTRAL_VALUES: Mapping[str, tuple[Any, ...]] = {
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
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "prediction": (),
    "audio": (),
    "web_search_options": (),
    "service_tier": ("auto", "default"),
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
}


class RequestFields:
    """A request's JSON object, read by field and type. Raises HTTPError for a wrong field."""

    def __init__(self, values: Mapping[str, Any], known: frozenset[str]) -> None:
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f'; did you mean "{near[0]}"?' if near else ""
                shown = _shown(name)
                raise invalid_field(
                    shown, f"the field {shown} is unknown{hint}", code="unknown-field"
                )
        self._values = {name: value for name, value in values.items() if value is not None}
        for name, allowed in NEUTRAL_VALUES.items():
            given = self._values.get(name)
            if given is not None and not any(_same(given, value) for value in allowed):
                expected = f" (or {' or '.join(map(repr, allowed))})" if allowed else ""
                message = f"{name} = {_shown(given)} is not supported here; leave it out{expected}"
                raise invalid_field(name, message, code="unsupported")

    def get(self, name: str) -> Any:
        """A field's value as received, None where it is missing."""
        return self._values.get(name)

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """A finite number from `low` to `high`."""
        value = self._values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise invalid_field(name, f"{name} = {_shown(value)}, expected a number")
        if not low <= value <= high or not math.isfinite(value):
            raise invalid_field(name, f"{name} = {_shown(value)}, expected {low:g} to {high:g}")
        return float(value)

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        """A whole number from `low` to `high`."""
        value = self._values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise invalid_field(name, f"{name} = {_shown(value)}, expected a whole number")
        if not low <= value <= high:
            raise invalid_field(name, f"{name} = {_shown(value)}, expected {low} to {high}")
        return value

    def boolean(self, name: str) -> bool:
        """True or false; false where it is missing."""
        value = self._values.get(name, False)
        if not isinstance(value, bool):
            raise invalid_field(name, f"{name} = {_shown(value)}, expected true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """Text that can be encoded as UTF-8."""
        return checked_text(self._values.get(name, default), name)


def invalid_field(field: str, message: str, *, code: str = "invalid-value") -> HTTPError:
    """A 400 that names the field."""
    return HTTPError(400, code, message, field=field)


def checked_text(value: object, field: str) -> str:
    """`value` as text. Raises HTTPError for another type, and for a lone surrogate."""
    if not isinstance(value, str):
        given = "missing" if value is None else f"{_shown(value)}, expected text"
        raise invalid_field(field, f"{field} is {given}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        message = f"{field} holds half a character (a lone surrogate) at {error.start}"
        raise invalid_field(field, message) from None
    return value


def read_chat_request(
    values: Mapping[str, Any],
    chat_models: Mapping[str, AnyChatModel],
    *,
    max_messages: int,
) -> GenerationRequest:
    """Check a chat completion. Raises HTTPError for a request that cannot be served."""
    fields = RequestFields(values, CHAT_FIELDS)
    chat_model = _chat_model(fields, chat_models)
    messages, places = _joined(_messages(fields.get("messages"), max_messages))
    if problem := problem_with(messages, may_be_empty=("assistant",)):
        number, _, reason = problem.removeprefix("message ").partition(": ")
        place = places[int(number)]
        raise invalid_field(f"messages[{place}]", f"message {place}: {reason}")
    if messages[-1]["role"] != "user":
        message = "the last message is not the user's, so there is nothing to answer"
        raise invalid_field(f"messages[{places[-1]}]", message)
    names_newer = fields.get("max_completion_tokens") is not None
    name = "max_completion_tokens" if names_newer else "max_tokens"
    prompt = chat_model.encode_prompt(messages)
    names = (name, None, "messages")
    return _generation(fields, chat_model, prompt, names, is_continuation=not chat_model.answers)


def read_completion_request(
    values: Mapping[str, Any], chat_models: Mapping[str, AnyChatModel]
) -> GenerationRequest:
    """Check a completion of text or ids. Raises HTTPError for one that cannot be served."""
    fields = RequestFields(values, COMPLETION_FIELDS)
    chat_model = _chat_model(fields, chat_models)
    prompt = fields.get("prompt")
    if prompt is None and "prompt" in values:
        prompt = ""  # OpenAI: the beginning of a document
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, list):
        ids = _check_ids(prompt, chat_model)
    else:
        ids = chat_model.encode(checked_text(prompt, "prompt"))
    names = ("max_tokens", DEFAULT_COMPLETION_TOKENS, "prompt")
    return _generation(fields, chat_model, ids, names, is_continuation=len(ids) > 1)


def _check_ids(prompt: list[Any], chat_model: AnyChatModel) -> list[int]:
    if not isinstance(chat_model, ChatModel):
        raise invalid_field("prompt", "prompt is a list; a GGUF file takes text")
    if not prompt or any(isinstance(id, bool) or not isinstance(id, int) for id in prompt):
        raise invalid_field(
            "prompt", "prompt is a list, expected text, one text in a list, or token ids"
        )
    size = chat_model.decoder.vocab_size
    if min(prompt) < 0 or max(prompt) >= size:
        raise invalid_field("prompt", f"prompt holds ids outside the vocabulary, 0 to {size - 1}")
    return prompt


def _chat_model(fields: RequestFields, chat_models: Mapping[str, AnyChatModel]) -> AnyChatModel:
    return find_model(fields.text("model"), chat_models)


def find_model(name: str, chat_models: Mapping[str, AnyChatModel]) -> AnyChatModel:
    """The model of a name. Raises HTTPError (404) where there is none."""
    if name not in chat_models:
        known = ", ".join(chat_models)
        message = f"there is no model {_shown(name)}; this server has: {known}"
        raise HTTPError(404, "model-not-found", message, field="model")
    return chat_models[name]


def _messages(value: object, max_messages: int) -> list[Message]:
    if not isinstance(value, list) or not value:
        given = "missing" if value is None else f"{_shown(value)}, expected a list of messages"
        raise invalid_field("messages", f"messages is {given}")
    if len(value) > max_messages:
        raise invalid_field(
            "messages", f"{len(value)} messages, at most {max_messages} are allowed"
        )
    messages: list[Message] = []
    for index, message in enumerate(value):
        place = f"messages[{index}]"
        if not isinstance(message, dict):
            raise invalid_field(place, f"{place} is {_shown(message)}, expected an object")
        for name in message:
            shown = f"{place}.{_shown(name)}"
            if name not in (*MESSAGE_FIELDS, *UNUSED_MESSAGE_FIELDS):
                raise invalid_field(shown, f"the field {shown} is unknown", code="unknown-field")
            if name in UNUSED_MESSAGE_FIELDS and message[name]:
                what = f"{shown} is not supported here; leave it out"
                raise invalid_field(shown, what, code="unsupported")
        role = message.get("role")
        if not isinstance(role, str) or role not in ROLES:
            message = f"{place}.role is {_shown(role)}, expected {', '.join(ROLES)}"
            raise invalid_field(f"{place}.role", message)
        content = message.get("content")
        if content is None and role == "assistant" and "content" in message:
            content = ""  # OpenAI's own answers with tool calls or a refusal say null
        content = _content(content, f"{place}.content")
        messages.append({"role": ROLES[role], "content": content})  # type: ignore[typeddict-item]
    return messages


def _joined(messages: Sequence[Message]) -> tuple[list[Message], list[int]]:
    """Messages of one role in a row as one, a blank line between them; where each begins.

    The chat template knows turns only.
    """
    joined: list[Message] = []
    places: list[int] = []
    for place, message in enumerate(messages):
        if joined and joined[-1]["role"] == message["role"]:
            texts = (joined[-1]["content"], message["content"])
            joined[-1] = {**message, "content": "\n\n".join(text for text in texts if text)}
        else:
            joined.append(message)
            places.append(place)
    return joined, places


def _content(value: object, place: str) -> str:
    """A message's text, given as text or as a list of text parts."""
    if not isinstance(value, list):
        return checked_text(value, place)
    texts = []
    for index, part in enumerate(value):
        name = f"{place}[{index}]"
        if not isinstance(part, dict) or part.get("type") != "text":
            raise invalid_field(
                name, f'{name} is {_shown(part)}, expected {{"type": "text", "text": ...}}'
            )
        texts.append(checked_text(part.get("text"), f"{name}.text"))
    return "".join(texts)


def _generation(
    fields: RequestFields,
    chat_model: AnyChatModel,
    prompt: Sequence[int],
    names: tuple[str, int | None, str],
    *,
    is_continuation: bool,
) -> GenerationRequest:
    """`names`: the field of the token limit, its default, and the field of the prompt."""
    limit_name, default_tokens, prompt_name = names
    space = chat_model.max_positions - len(prompt)
    if space < 1:
        context = chat_model.max_positions
        message = f"{prompt_name} has {len(prompt)} tokens; the model's context is {context}"
        raise invalid_field(prompt_name, message, code="context-exceeded")
    for name in ("user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"):
        fields.text(name, "")
    if not isinstance(fields.get("metadata") or {}, dict):
        raise invalid_field("metadata", "metadata is not an object")
    max_new_tokens = fields.integer(limit_name, min(space, default_tokens or space), 1, 2**31)
    if max_new_tokens > space:
        message = (
            f"{prompt_name} has {len(prompt)} tokens and {limit_name} is {max_new_tokens}; "
            f"the model's context is {chat_model.max_positions}: at most {space} here"
        )
        raise invalid_field(limit_name, message, code="context-exceeded")
    streams = fields.boolean("stream")
    stop = _stop_strings(fields.get("stop"))
    sampling = _sampling(fields)
    if isinstance(chat_model, ChatModel):
        sequence = chat_model.new_sequence(prompt, max_new_tokens, sampling)
        text = chat_model.text_stream(stop, is_continuation=is_continuation)
    else:
        sequence, text = SequenceState(prompt, max_new_tokens, sampling), None
    return GenerationRequest(
        chat_model.name,
        sequence,
        text,
        stop,
        streams=streams,
        include_usage=_include_usage(fields.get("stream_options"), streams),
    )


def _sampling(fields: RequestFields) -> Sampling:
    """The sampling of a request. Without a seed every answer is different."""
    seed = fields.get("seed")
    if seed is not None:
        seed = fields.integer("seed", 0, -(2**63), 2**63 - 1) % 2**63
    top_p = fields.number("top_p", 1.0, 0.0, 1.0)
    penalty = fields.number("repetition_penalty", 1.0, 0.01, 100.0)
    if top_p == 0:
        raise invalid_field("top_p", "top_p = 0, expected above 0, at most 1")
    values: dict[str, Callable[[], Any]] = {
        "temperature": lambda: fields.number("temperature", 1.0, 0.0, 2.0),
        "top_k": lambda: fields.integer("top_k", 0, 0, 2**31),
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
        raise invalid_field(error.where, f"{error.where}: {error.what}") from error


def _stop_strings(value: object) -> list[str]:
    stops: list[Any] = value if isinstance(value, list) else [] if value is None else [value]
    if len(stops) > MAX_STOPS:
        raise invalid_field(
            "stop", f"stop holds {len(stops)} texts, at most {MAX_STOPS} are allowed"
        )
    for index, stop in enumerate(stops):
        name = f"stop[{index}]" if isinstance(value, list) else "stop"
        if not 0 < len(checked_text(stop, name)) <= MAX_STOP_CHARACTERS:
            raise invalid_field(
                name, f"{name} is empty or longer than {MAX_STOP_CHARACTERS} characters"
            )
    return stops


def _include_usage(value: object, streams: bool) -> bool:
    if value is None:
        return False
    if not streams:
        raise invalid_field("stream_options", "stream_options is only for stream = true")
    if not isinstance(value, dict):
        raise invalid_field(
            "stream_options", f"stream_options is {_shown(value)}, expected an object"
        )
    fields = RequestFields(value, frozenset({"include_usage", "include_obfuscation"}))
    fields.boolean("include_obfuscation")
    return fields.boolean("include_usage")


def _same(given: object, value: object) -> bool:
    """Equal, and both or neither boolean: 1 is not true, 1.0 is 1."""
    return isinstance(given, bool) == isinstance(value, bool) and given == value


def _shown(value: object) -> str:
    """A value for a message: short, in ASCII, no control characters."""
    try:
        text = ascii(value)
    except RecursionError:
        return "a deeply nested value"
    return text if len(text) <= 60 else f"{text[:57]}..."
