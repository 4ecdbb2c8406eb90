"""OpenAI's requests: their fields, and what they ask to generate.

Every error is a 400 that names the field. A field that is null counts as not given, as OpenAI's
clients mean it. Unknown fields, and values that this server does not support, are errors: nothing
is silently ignored.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    create_model,
    field_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError, from_json

from teenytinyllama.artifacts.conversations import Message, problem_with
from teenytinyllama.errors import UserError, did_you_mean
from teenytinyllama.inference.chat_model import AnyChatModel, ChatModel
from teenytinyllama.inference.generation import SEED_STRIDE, SequenceState
from teenytinyllama.inference.sampling import Sampling
from teenytinyllama.serving.generation_request import Completion, GenerationRequest, TextDelta
from teenytinyllama.serving.http_messages import HTTPError, invalid_field

MAX_CHOICES = 64
MAX_EMBEDDINGS = 256
DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's
PYDANTIC_SHOULD = re.compile(r"\w+ should (be|have) ")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Fields that are not supported, each with the values that need no support. In a message they are
# fields of OpenAI's own answers, which clients send back.
UNSUPPORTED: Mapping[str, tuple[JsonValue, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
}
UNSUPPORTED_IN_COMPLETION = {**UNSUPPORTED, "echo": (False,), "suffix": ("",), "best_of": (1,)}
UNSUPPORTED_IN_CHAT: Mapping[str, tuple[JsonValue, ...]] = {
    **UNSUPPORTED,
    "top_logprobs": (0,),
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
}
UNSUPPORTED_IN_MESSAGE: Mapping[str, tuple[JsonValue, ...]] = {
    name: ("", [], {})
    for name in ("refusal", "tool_calls", "function_call", "audio", "annotations")
}


def _whole(value: object) -> object:
    """3.0 is an integer for JSON Schema; `value` as it is where it is none."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]
Ids = Annotated[list[int], Field(min_length=1)]
StopString = Annotated[str, Field(min_length=1, max_length=200)]


class RequestBody(BaseModel):
    """A JSON object from a client."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


Body = TypeVar("Body", bound=RequestBody)


def _also(fields: Mapping[str, tuple[JsonValue, ...]]) -> Callable[[type[Body]], type[Body]]:
    """The model with fields that take no values but these."""

    def only(allowed: tuple[JsonValue, ...]) -> Any:
        def check(value: JsonValue) -> JsonValue:
            if value is None or any(_same(value, one) for one in allowed):
                return value
            hint = f" (or {' or '.join(map(repr, allowed))})" if allowed else ""
            message = f"is not supported here; leave it out{hint}".replace("{", "{{")
            raise PydanticCustomError("unsupported", cast("Any", message.replace("}", "}}")))

        schema: dict[str, Any] = {"enum": [None, *allowed]}
        return Annotated[JsonValue, AfterValidator(check), WithJsonSchema(schema)]

    def extend(model: type[Body]) -> type[Body]:
        added: dict[str, Any] = {name: (only(allowed), None) for name, allowed in fields.items()}
        whole = create_model(model.__name__, __base__=model, __module__=model.__module__, **added)
        whole.__doc__ = model.__doc__
        return whole

    return extend


class TextPart(RequestBody):
    """A part of a message: only text is understood."""

    type: Literal["text"]
    text: str


@_also(UNSUPPORTED_IN_MESSAGE)
class ChatMessage(RequestBody):
    """One message of the conversation; an earlier answer may be empty."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None
    name: str | None = None

    @field_validator("content")
    @classmethod
    def _check_content(cls, content: object, info: ValidationInfo) -> object:
        # OpenAI's own answers with tool calls or a refusal say null
        if content is None and info.data.get("role") != "assistant":
            raise PydanticCustomError("missing", "is missing")
        return content

    @property
    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class StreamOptions(RequestBody):
    """What a stream holds beside the text."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class GenerationFields(RequestBody):
    """The fields of both kinds of completion."""

    model: str
    max_tokens: Annotated[Whole, Field(ge=1, le=2**31)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[Whole, Field(ge=0, le=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    seed: Annotated[Whole, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=16)] | None = None
    n: Annotated[Whole, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    metadata: dict[str, JsonValue] | None = None

    def sampling(self) -> Sampling:
        """How to choose tokens. Without a seed every answer is different."""
        names = {"temperature", "top_p", "top_k", "min_p", "repetition_penalty"}
        given = self.model_dump(include=names, exclude_none=True)
        seed = secrets.randbits(62) if self.seed is None else self.seed % 2**63
        try:
            return Sampling(**{"temperature": 1.0, "seed": seed, **given})
        except UserError as error:
            raise invalid_field(error.where, f"{error.where}: {error.what}") from error


@_also(UNSUPPORTED_IN_CHAT)
class ChatRequest(GenerationFields):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[Whole, Field(ge=1, le=2**31)] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None


@_also(UNSUPPORTED_IN_COMPLETION)
class CompletionRequest(GenerationFields):
    """`POST /v1/completions`: continues a text, or ids; null is the beginning of a document."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1)]
        | Ids
        | Annotated[list[Ids], Field(min_length=1)]
        | None
    )


@_also({"dimensions": ()})
class EmbeddingRequest(RequestBody):
    """`POST /v1/embeddings`: the mean of each text's last hidden states, of length 1."""

    model: str
    input: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MAX_EMBEDDINGS)]
        | Ids
        | Annotated[list[Ids], Field(min_length=1, max_length=MAX_EMBEDDINGS)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None


class ExamplesRequest(RequestBody):
    """`POST /api/examples`: a page of the examples that match a query, or of all of them."""

    query: Annotated[str, Field(max_length=2000)] | None = None
    offset: Annotated[Whole, Field(ge=0, le=10**9)] | None = None
    limit: Annotated[Whole, Field(ge=1, le=50)] | None = None


class AttributionRequest(RequestBody):
    """`POST /api/attribution`: which words of a text are in the chat data."""

    text: str


def parse_body(model: type[Body], body: bytes) -> Body:
    """The body as a request. Raises HTTPError (400) that names the first wrong field."""
    try:
        value = from_json(body.removeprefix(BYTE_ORDER_MARK), allow_inf_nan=False)
    except ValueError as error:
        message = f"the body is not JSON in UTF-8: {error}"
        raise HTTPError(400, "json", message, field="body") from None
    if not isinstance(value, dict):
        message = f"the body is {_shown(value)}, expected a JSON object"
        raise HTTPError(400, "json", message, field="body")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _first_error(error.errors(include_url=False), model, value) from None


def _first_error(errors: list[ErrorDetails], model: type[RequestBody], value: Any) -> HTTPError:
    """An unknown field first: it may be why another is missing. Of a union, the nearest branch."""

    def nearness(error: ErrorDetails) -> tuple[bool, int]:
        return not error["type"].endswith("_type"), len(_steps(error, value))

    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    if first["type"] != "extra_forbidden":
        same = (one for one in errors if one["loc"][0] == first["loc"][0])
        first = max(same, key=nearness)
    return _as_http_error(first, "".join(_steps(first, value)).lstrip("."), model)


def _as_http_error(error: ErrorDetails, place: str, model: type[RequestBody]) -> HTTPError:
    kind, message, given = error["type"], error["msg"], f"{place} = {_shown(error['input'])}"
    if kind == "extra_forbidden":
        word = str(error["loc"][-1])
        near = did_you_mean(word, model.model_fields) if len(error["loc"]) == 1 else ""
        hint = f"; {near}" if near.startswith("did") else ""
        return invalid_field(place, f"the field {place} is unknown{hint}", code="unknown-field")
    if kind == "missing" or error["input"] is None:
        return invalid_field(place, f"{place} is missing")
    if kind == "unsupported":
        return invalid_field(place, f"{given} {message}", code="unsupported")
    expected = PYDANTIC_SHOULD.sub("expected ", message).partition(" or instance of")[0]
    return invalid_field(place, f"{given}, {expected}")


def _steps(error: ErrorDetails, value: Any) -> list[str]:
    """Where in the body an error is, without the names of a union's branches."""
    steps = []
    for step in error["loc"]:
        if isinstance(step, int):
            steps.append(f"[{step}]")
            value = value[step]
        elif isinstance(value, dict) and (step in value or error["type"] == "missing"):
            plain = step.isidentifier() and step.isascii()
            steps.append(f".{step}" if plain else f".{_shown(step)}")
            value = value.get(step)
    return steps


def read_chat_request(
    body: bytes, chat_models: Mapping[str, AnyChatModel], *, max_messages: int
) -> Completion:
    """Check a chat completion. Raises HTTPError for a request that cannot be served."""
    fields = parse_body(ChatRequest, body)
    chat_model = find_model(fields.model, chat_models)
    if len(fields.messages) > max_messages:
        message = f"{len(fields.messages)} messages, at most {max_messages} are allowed"
        raise invalid_field("messages", message)
    messages, places = _joined(fields.messages)
    if problem := problem_with(messages, may_be_empty=("assistant",)):
        number, _, reason = problem.removeprefix("message ").partition(": ")
        place = places[int(number)]
        raise invalid_field(f"messages[{place}]", f"message {place}: {reason}")
    if messages[-1]["role"] != "user":
        message = "the last message is not the user's, so there is nothing to answer"
        raise invalid_field(f"messages[{places[-1]}]", message)
    return _completion(fields, chat_model, [chat_model.encode_prompt(messages)])


def _joined(given: Sequence[ChatMessage]) -> tuple[list[Message], list[int]]:
    """Messages of one role in a row as one, a blank line between them; where each begins.

    The chat template knows turns only.
    """
    joined: list[Message] = []
    places: list[int] = []
    for place, message in enumerate(given):
        role = "system" if message.role == "developer" else message.role
        if joined and joined[-1]["role"] == role:
            texts = (joined[-1]["content"], message.text)
            joined[-1]["content"] = "\n\n".join(text for text in texts if text)
        else:
            joined.append({"role": role, "content": message.text})
            places.append(place)
    return joined, places


def read_completion_request(body: bytes, chat_models: Mapping[str, AnyChatModel]) -> Completion:
    """Check a completion of text or ids. Raises HTTPError for one that cannot be served."""
    fields = parse_body(CompletionRequest, body)
    chat_model = find_model(fields.model, chat_models)
    return _completion(fields, chat_model, _prompts(fields.prompt or "", chat_model, "prompt"))


def read_embedding_request(
    body: bytes, chat_models: Mapping[str, AnyChatModel]
) -> tuple[EmbeddingRequest, ChatModel, list[list[int]]]:
    """Check texts to embed: the fields, the model and each text's ids. Raises HTTPError."""
    fields = parse_body(EmbeddingRequest, body)
    chat_model = find_model(fields.model, chat_models)
    if not isinstance(chat_model, ChatModel):
        raise invalid_field(
            "model", "a GGUF file gives no embeddings; name a run", code="unsupported"
        )
    texts = _prompts(fields.input, chat_model, "input")
    for ids in texts:
        if len(ids) > chat_model.max_positions:
            raise _too_long("input", ids, chat_model)
    return fields, chat_model, texts


def _prompts(
    given: str | Sequence[str] | Sequence[int] | Sequence[list[int]],
    chat_model: AnyChatModel,
    field: str,
) -> list[list[int]]:
    """The ids of one or several texts; a list of ids is one text."""
    several = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    prompts = []
    for one in cast("Sequence[str | list[int]]", several):
        if isinstance(one, str):
            prompts.append(chat_model.encode(one))
            continue
        if not isinstance(chat_model, ChatModel):
            raise invalid_field(field, f"{field} is a list; a GGUF file takes text")
        size = chat_model.decoder.vocab_size
        if min(one) < 0 or max(one) >= size:
            message = f"{field} holds ids outside the vocabulary, 0 to {size - 1}"
            raise invalid_field(field, message)
        prompts.append(one)
    return prompts


def find_model(name: str, chat_models: Mapping[str, AnyChatModel]) -> AnyChatModel:
    """The model of a name. Raises HTTPError (404) where there is none."""
    if name not in chat_models:
        message = f"there is no model {_shown(name)}; this server has: {', '.join(chat_models)}"
        raise HTTPError(404, "model-not-found", message, field="model")
    return chat_models[name]


def _completion(
    fields: GenerationFields, chat_model: AnyChatModel, prompts: Sequence[list[int]]
) -> Completion:
    """What to generate: `n` choices for each prompt, each from a random stream of its own."""
    if fields.stream_options is not None and not fields.stream:
        raise invalid_field("stream_options", "stream_options is only for stream = true")
    rows = [prompt for prompt in prompts for _ in range(fields.n or 1)]
    if len(rows) > MAX_CHOICES:
        raise invalid_field("n", f"{len(rows)} choices, at most {MAX_CHOICES} are allowed")
    stop = [fields.stop] if isinstance(fields.stop, str) else fields.stop or []
    sampling = fields.sampling()
    deltas: asyncio.Queue[tuple[int, TextDelta]] = asyncio.Queue()
    choices = []
    for index, prompt in enumerate(rows):
        own = replace(sampling, seed=(sampling.seed + index * SEED_STRIDE) % 2**63)
        limit = _max_new_tokens(fields, chat_model, prompt)
        if isinstance(chat_model, ChatModel):
            is_chat = isinstance(fields, ChatRequest)
            continues = not chat_model.answers if is_chat else len(prompt) > 1
            sequence = chat_model.new_sequence(prompt, limit, own)
            text = chat_model.text_stream(stop, is_continuation=continues)
        else:
            sequence, text = SequenceState(prompt, limit, own), None
        choices.append(
            GenerationRequest(
                chat_model.name, sequence, text, stop, bool(fields.stream), index, deltas
            )
        )
    options = fields.stream_options or StreamOptions()
    return Completion(choices, sum(map(len, prompts)), bool(options.include_usage))


def _max_new_tokens(
    fields: GenerationFields, chat_model: AnyChatModel, prompt: Sequence[int]
) -> int:
    """The limit of an answer's tokens: the request's, else what the context has space for."""
    space = chat_model.max_positions - len(prompt)
    name, prompt_name, default = "max_tokens", "prompt", min(space, DEFAULT_COMPLETION_TOKENS)
    if isinstance(fields, ChatRequest):
        prompt_name, default = "messages", space
        if fields.max_completion_tokens is not None:
            name = "max_completion_tokens"
    if space < 1:
        raise _too_long(prompt_name, prompt, chat_model)
    limit: int | None = getattr(fields, name)
    if limit is not None and limit > space:
        message = (
            f"{prompt_name} has {len(prompt)} tokens and {name} is {limit}; "
            f"the model's context is {chat_model.max_positions}: at most {space} here"
        )
        raise invalid_field(name, message, code="context-exceeded")
    return limit or default


def _too_long(field: str, ids: Sequence[int], chat_model: AnyChatModel) -> HTTPError:
    message = f"{field} has {len(ids)} tokens; the model's context is {chat_model.max_positions}"
    return invalid_field(field, message, code="context-exceeded")


def _same(given: object, value: object) -> bool:
    """Equal, and both or neither boolean: 1 is not true, 1.0 is 1."""
    return isinstance(given, bool) == isinstance(value, bool) and given == value


def _shown(value: object) -> str:
    """A value for a message: short, in ASCII, no control characters."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
