r"""Conversations and preferences in records, in every text layout that other tools document.

OpenAI, TRL, LLaMA-Factory and axolotl: the table is in `docs/chat-data.md`. Names of fields are
read in any case; a field that is empty or null is absent. A record in no known layout, with two
fields for one thing, or with what is not text (tool calls, images) raises ConversationError: no
guessing. `unused_fields` names fields whose text is in no message, so that nothing is lost unsaid.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

from teenytinyllama.artifacts.conversations import Conversation, Message, problem_with
from teenytinyllama.settings.datasets import Source

ROLE_NAMES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model", "bing", "bard"), "assistant"),
}
TOOL_ROLES = frozenset(
    ("tool", "function", "function_call", "tool_call", "tool_response", "observation", "ipython")
)
TOOL_KEYS = ("tool_calls", "function_call")
LIST_KEYS = ("messages", "conversations", "conversation")
QUESTION_KEYS = ("instruction", "prompt", "question", "query", "message_1")
CONTEXT_KEYS = ("input", "context", "article")
ANSWER_KEYS = ("output", "response", "completion", "answer", "generation", "message_2")
PAIR_KEYS = (("input", "output"), ("human", "assistant"), ("user", "assistant"))
"""Names of a question and its answer in a list of such pairs."""
SYSTEM_KEYS = ("system", "system_prompt")
SIDE_KEYS = (
    ("chosen", "rejected"),
    ("chosen_response", "rejected_response"),
    ("preferred_output", "non_preferred_output"),
    ("preferred_completion", "non_preferred_completion"),
)
TRAIN_KEYS = ("train", "training")
"""axolotl's names of what OpenAI calls `weight`."""
IGNORED_KEYS = frozenset(("id", "license", "url", "source"))
"""Of a record: where it comes from."""
IGNORED_TURN_KEYS = frozenset(("role", "from", "type", "weight", *TRAIN_KEYS, "train_detail"))
KNOWN_SHAPES = (
    "messages, conversations, instruction and output, prompt and completion, question and answer;"
    " for others set question_key and answer_key of the source"
)
OTHER_KINDS = {
    "input_ids": "its text is tokens already: give messages",
    "segments": "segments are laid out for another template: give messages",
    "completions": "completions with labels are step-by-step supervision, which is not read",
    "critiques": "a critique of an answer, which is not read",
    "unanswerable_question": "a question without an answer",
}
MARKERS = re.compile(r"(?:^|\n\n)\s*(Human|Assistant):")
ASKED = re.compile(r"\s*Human:.*\n\n\s*Assistant:\s*\Z", re.DOTALL)
"""A prompt of marked turns that the answer follows."""
CHOICE_KEYS = ("choices", "options")
MEDIA_KEYS = ("images", "image", "videos", "audios")


class ConversationError(ValueError):
    """A record is not a usable conversation; the message is the reason."""


class Preference(NamedTuple):
    """One prompt with a preferred and a rejected answer, as two conversations."""

    chosen: Conversation
    rejected: Conversation


def parse_conversation(fields: Mapping[str, Any]) -> Conversation:
    r"""The conversation in a record of any known layout. Raises ConversationError.

    >>> parse_conversation({"instruction": "Some", "input": "1 e 2", "output": "3"})
    [{'role': 'user', 'content': 'Some\n\n1 e 2'}, {'role': 'assistant', 'content': '3'}]
    """
    given = _given(fields)
    _refuse_other_kinds(given)
    if (messages := _listed(given)) is None:
        messages = _asked_and_answered(given, fields)
    messages = [*_system(given, messages), *messages]
    problem = problem_with(messages)
    if problem is None and messages[-1]["role"] != "assistant":
        problem = "the last message is not the assistant's: nothing to learn"
    if problem is None and not any(is_learnt(message) for message in messages):
        problem = "no answer to learn: all have weight 0"
    if problem:
        raise ConversationError(problem)
    return messages


def is_learnt(message: Message) -> bool:
    """Whether a message is trained on: an answer without weight 0."""
    return message["role"] == "assistant" and message.get("weight", 1) != 0


def read_conversation(fields: Mapping[str, Any], source: Source) -> Conversation:
    """As `parse_conversation`, from the fields that the source's settings name, if any."""
    if not source.answer_key:
        return parse_conversation(fields)
    try:
        keys = [source.question_key, source.answer_key.format_map(fields)]
    except KeyError as error:
        raise ConversationError(f"no field {error}") from error
    for key in filter(None, keys):
        if key not in fields:
            raise ConversationError(f"no field '{key}'")
    asked = [_text(fields.get(key), key) for key in (keys[0], source.context_key) if key]
    named = {*keys, source.context_key}
    others = {key: fields[key] for key in (*SYSTEM_KEYS, "history") if key in fields.keys() - named}
    prompt = "\n\n".join(filter(None, asked))
    answer = _text(fields[keys[1]], keys[1])
    return parse_conversation({**others, "prompt": prompt, "completion": answer})


def is_preference(fields: Mapping[str, Any]) -> bool:
    """Whether a record holds a preferred and a rejected answer (data for DPO)."""
    given, names = _given(fields), {str(name).lower() for name in fields}
    pairs = any(names.issuperset(pair) and given.keys() & set(pair) for pair in SIDE_KEYS)
    return pairs or _sides(given) is not None


def parse_preference(fields: Mapping[str, Any]) -> Preference:
    """Both conversations of a preference record. Raises ConversationError."""
    given = _given(fields)
    _refuse_other_kinds(given)
    sides = _sides(given)
    if sides is None:
        if not is_preference(fields):
            names = ", ".join(sorted(map(str, fields))[:8]) or "no field"
            raise ConversationError(f"no chosen and rejected answer ({names})")
        raise ConversationError("the preferred or the rejected answer is empty")
    head = _prompt_of(given)
    if not head and all(isinstance(side, str) for side in sides):
        sides = _split_texts(*sides)
    both = [
        _whole(head, _turns(side, "assistant", name), given, name)
        for side, name in zip(sides, ("chosen", "rejected"), strict=True)
    ]
    chosen, rejected = both
    if chosen[:-1] != rejected[:-1]:
        raise ConversationError("chosen and rejected do not share their prompt")
    if chosen == rejected:
        raise ConversationError("chosen and rejected are equal")
    return Preference(chosen, rejected)


def unused_fields(
    fields: Mapping[str, Any], messages: Sequence[Message], ignored: Sequence[str] = ()
) -> list[str]:
    """Names of fields with text that is in no message, sorted.

    Where a record is from, and the fields named in `ignored`, are left out.

    >>> row = {"id": "7", "question": "Oi?", "answer": "Olá", "category": "saudações", "score": 3}
    >>> unused_fields(row, parse_conversation(row))
    ['category']
    """
    contents = {message["content"] for message in messages}
    joined = "\n\n".join(message["content"] for message in messages)
    return sorted(
        {
            name
            for name, text in _texts_of(fields, {*IGNORED_KEYS, *ignored})
            if not (text in contents or text in joined or _is_made_of(text, contents))
        }
    )


def _is_made_of(text: str, contents: set[str]) -> bool:
    """Whether a text is messages laid end to end, as in two texts that hold their prompt."""
    for content in sorted(contents, key=len, reverse=True):
        text = text.replace(content, " ")
    return not MARKERS.sub("", text).strip()


def _texts_of(fields: Mapping[str, Any], ignored: set[str]) -> Iterator[tuple[str, str]]:
    """Every text in a record, with the name of its field; inside messages, `messages[].name`."""
    for name, value in fields.items():
        value = _decoded(value, str(name).lower())
        if name.lower() in ignored or name in ignored:
            continue
        if isinstance(value, list) and any(_is_turn(one) for one in value):
            for one in value:
                for key, inner in one.items() if isinstance(one, Mapping) else ():
                    if str(key).lower() not in IGNORED_TURN_KEYS:
                        is_text = key in ("content", "value")
                        label = name if is_text else f"{name}[].{key}"
                        yield from ((label, text) for text in _leaves(inner))
                        if isinstance(inner, bool):  # it may say what not to learn
                            yield label, f"{key} = {inner}"
        else:
            yield from ((name, text) for text in _leaves(value))


def _leaves(value: object) -> Iterator[str]:
    if isinstance(value, str):
        text = value.strip()
        # A table has numbers and booleans as text.
        if any(map(str.isalpha, text)) and text.lower() not in ("true", "false", "null", "nan"):
            yield text
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if str(key).lower() not in IGNORED_TURN_KEYS:
                yield from _leaves(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(inner)


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are not empty, by their names in lower case; cells of JSON are decoded."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if not _is_empty(value):
            name = str(name).lower()
            found.setdefault(name, _decoded(value, name))
    return found


def _is_empty(value: object) -> bool:
    if isinstance(value, str):
        return not value.strip()
    # A number that is not equal to itself is a table's missing value.
    return value is None or value != value or (isinstance(value, list | dict) and not value)


def _decoded(value: object, name: str) -> Any:
    """Messages, turns or choices that a table's cell holds as JSON; lists by key as messages."""
    is_choices = name in CHOICE_KEYS and isinstance(value, str) and value.startswith("[")
    if isinstance(value, str) and (is_choices or value.lstrip()[:2] in ("[{", "[[", '{"')):
        try:
            decoded = json.loads(value)
        except (ValueError, RecursionError):
            return value
        rows = decoded if isinstance(decoded, list) else [decoded]
        is_structure = is_choices or all(
            _is_turn(row)
            or _pair_in(row)
            or isinstance(row, list)
            or (isinstance(row, Mapping) and ("messages" in row or _is_ranked(row)))
            for row in rows
        )
        return decoded if is_structure else value
    if isinstance(value, Mapping) and any(
        pair <= value.keys() for pair in ({"role", "content"}, {"from", "value"})
    ):
        columns = list(value.values())
        are_columns = all(isinstance(column, list) for column in columns)
        if are_columns and len({len(column) for column in columns}) == 1:
            return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
    return value


def _is_turn(value: object) -> bool:
    return isinstance(value, Mapping) and any(str(key).lower() in ("role", "from") for key in value)


def _is_ranked(value: object) -> bool:
    return isinstance(value, Mapping) and {"answer", "rank"} <= value.keys()


def _refuse_other_kinds(given: Mapping[str, Any]) -> None:
    for name in MEDIA_KEYS:
        if name in given:
            raise ConversationError(f"it has {name}, and only text is read")
    for name in ("label", "kto_tag"):
        value = str(given.get(name)).lower()
        # Beside a prompt and its completion (TRL) a number is no class: tables have 0 for false.
        is_flag = name == "kto_tag" or {"prompt", "completion"} <= given.keys()
        if value == "false" or (is_flag and value in ("0", "0.0")):
            raise ConversationError(f"{name} is false: an answer that must not be learnt")
    if "critiques" in given:
        raise ConversationError(OTHER_KINDS["critiques"])


def _listed(given: Mapping[str, Any]) -> Conversation | None:
    """The conversation of a list of messages, None where the record has no such field."""
    return next((_message_list(given[key]) for key in LIST_KEYS if key in given), None)


def _message_list(value: object) -> Conversation:
    if not isinstance(value, list):
        json_either = " nor JSON of one" if isinstance(value, str) else ""
        kind = type(value).__name__
        raise ConversationError(f"its messages are a {kind}, not a list{json_either}")
    return [message for index, turn in enumerate(value) for message in _messages(turn, index)]


def _messages(turn: object, index: int) -> Conversation:
    """One message, or two where a turn is a question with its answer."""
    return [
        message
        for (key, value), role in zip(_pair_in(turn), ("user", "assistant"), strict=False)
        for message in _turns(value, role, key)
    ] or [_message(turn, index)]


def _pair_in(turn: object) -> list[tuple[str, Any]]:
    """A question and its answer, each with its key, where a turn is both; else empty."""
    if isinstance(turn, Mapping) and not _is_turn(turn):
        for keys in PAIR_KEYS:
            if turn.keys() >= set(keys):
                return [(key, turn[key]) for key in keys]
    return []


def _message(turn: object, index: int) -> Message:
    if not isinstance(turn, Mapping):
        raise ConversationError(f"message {index}: not an object but {type(turn).__name__}")
    turn = {str(key).lower(): value for key, value in turn.items()}
    role = _first(turn, ("role", "from"))
    name = str(role).lower()
    if name in TOOL_ROLES or any(turn.get(key) for key in TOOL_KEYS):
        raise ConversationError(f"message {index}: a call of a tool, which is not read")
    if not isinstance(role, str) or name not in ROLE_NAMES:
        raise ConversationError(f"message {index}: unknown role {role!r}")
    name = ROLE_NAMES[name]
    content = _content(_first(turn, ("content", "value")), index)
    if not content:
        others = sorted(
            {key for key in turn if key != "role" and any(_leaves(turn[key]))} - {"from"}
        )
        beside = f" (beside it {', '.join(map(str, others))})" if others else ""
        raise ConversationError(f"message {index}: empty {name} message{beside}")
    message = cast(Message, {"role": name, "content": content})
    if name == "assistant" and _weight(turn, index) == 0:
        message["weight"] = 0
    return message


def _first(turn: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The first of some fields that is not null, as a table has where rows differ in keys."""
    return next((turn[name] for name in names if turn.get(name) is not None), None)


def _content(value: object, index: int) -> str:
    """The text of a message: a text, or a list of text parts, joined as the server joins them."""
    if value is None:
        return ""
    if isinstance(value, str):
        return _clean(value)
    parts = value if isinstance(value, list) else [value]
    texts = []
    for part in parts:
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        text = part.get("text") if isinstance(part, Mapping) else part
        if kind not in ("text", "input_text", "output_text") or not isinstance(text, str):
            shown = kind if kind != "text" else type(text).__name__
            raise ConversationError(f"message {index}: a part that is not text ({shown})")
        texts.append(text)
    return _clean("".join(texts))


def _weight(turn: Mapping[str, Any], index: int) -> int:
    """0 where an answer must not be learnt: OpenAI's `weight`, axolotl's `train`."""
    for name in ("weight", *TRAIN_KEYS):
        value = turn.get(name)
        if _is_empty(value):
            continue
        if value not in (0, 1):
            raise ConversationError(f"message {index}: {name} {value!r}, expected 0 or 1")
        if not value:
            return 0
    for part in turn.get("train_detail") or ():
        if not (isinstance(part, Mapping) and part.get("train")):
            raise ConversationError(
                f"message {index}: train_detail leaves out a part of an answer, which is not read"
            )
    return 1


def _clean(text: str) -> str:
    """The text stripped. Raises ConversationError where it cannot be written as UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConversationError("holds half of a character (lone surrogate)") from error
    return text.strip()


def _text(value: object, name: str) -> str:
    """The text of a field; a whole number is its digits."""
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if _is_empty(value):
        return ""
    raise ConversationError(f"{name} is a {type(value).__name__}, not a text")


def _only_one(names: Sequence[str], given: Mapping[str, Any], of: str) -> str:
    """The one field that is there of some names, "" without any."""
    found = [name for name in names if name in given]
    texts = {str(given[name]).strip() for name in found}
    if len(texts) > 1:
        raise ConversationError(
            f"two fields may be the {of} ({', '.join(found)}): set question_key, context_key and "
            "answer_key of the source"
        )
    return found[0] if found else ""


def _asked_and_answered(given: Mapping[str, Any], fields: Mapping[str, Any]) -> Conversation:
    """The turns of a record with fields for question and answer."""
    lower = {str(name).lower() for name in fields}
    question, answer = _keys_of(given), _answer_key(given)
    if not answer:  # one that is empty has a better reason than none
        answer = next((name for name in ANSWER_KEYS if name in lower), "")
    if not question:
        question = next((name for name in (*QUESTION_KEYS, "input") if name in lower), "")
    if not question or not answer or (_has_choices(given) and answer == "answer"):
        if empty := [key for key in LIST_KEYS if key in lower]:
            raise ConversationError(f"{empty[0]} holds no messages")
        for name, reason in OTHER_KINDS.items():
            if name in given:
                raise ConversationError(reason)
        if given.keys() & {"text"}:
            raise ConversationError("a text without turns: for corpus.sources, without shape")
        names = ", ".join(sorted(map(str, fields))[:8]) or "no field"
        raise ConversationError(f"unknown shape ({names}); known: {KNOWN_SHAPES}")
    answered = _turns(given.get(answer, ""), "assistant", answer)
    if given.keys() >= {"output", "reflection", "corrected"}:  # axolotl's `reflection`
        parts = [_text(given[name], name) for name in ("output", "reflection", "corrected")]
        answered = _turns("\n\n".join(parts), "assistant")
    return [*_history(given), *_question(given, question), *answered]


def _keys_of(given: Mapping[str, Any]) -> str:
    """The field of the question, "" without any."""
    question = _only_one(QUESTION_KEYS, given, "question")
    if not question and "summary" in given and "article" in given:
        return "article"
    return question or ("input" if "input" in given else "")


def _answer_key(given: Mapping[str, Any]) -> str:
    if _has_choices(given):
        return next((name for name in ("solution", "explanation") if name in given), "answer")
    if "revision" in given and "instruction" in given:
        return "revision"
    if "article" in given and "summary" in given and not given.keys() & set(ANSWER_KEYS):
        return "summary"
    return _only_one(ANSWER_KEYS, given, "answer")


def _has_choices(given: Mapping[str, Any]) -> bool:
    """An answer beside choices is a letter or number, not a reply."""
    return "choices" in given or "options" in given


def _question(given: Mapping[str, Any], key: str) -> Conversation:
    """The user's message: the question, then what it is about; or a list of messages."""
    value = given.get(key, "")
    contexts = [name for name in CONTEXT_KEYS if name in given and name != key]
    if not isinstance(value, str | int):
        return _turns(value, "user", key)
    if isinstance(value, str) and ASKED.match(value):
        return _marked_turns(value)
    parts = [_text(value, key), *(_text(given[name], name) for name in contexts)]
    choices = given.get("choices", given.get("options"))
    if isinstance(choices, str):
        parts.append(_clean(choices))
    elif isinstance(choices, Mapping) and isinstance(choices.get("text"), list):  # as in ARC
        choices = choices["text"]
    if isinstance(choices, list):
        parts.append("\n".join(f"- {_text(choice, 'choices')}" for choice in choices))
    return _turns("\n\n".join(filter(None, parts)), "user")


def _history(given: Mapping[str, Any]) -> Conversation:
    """Earlier turns: LLaMA-Factory's pairs of question and answer, or messages."""
    turns: Conversation = []
    history = given.get("history", [])
    if not isinstance(history, list):
        raise ConversationError(f"history is a {type(history).__name__}, not a list of pairs")
    if history and all(_is_turn(one) for one in history):
        return _message_list(history)
    for pair in history:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ConversationError("history is not a list of pairs: question, answer")
        texts = [_text(part, "history") for part in pair]
        if any(texts):
            turns += [*_turns(texts[0], "user"), *_turns(texts[1], "assistant")]
    return turns


def _system(given: Mapping[str, Any], messages: Conversation) -> Conversation:
    """The system message of a separate field, where the messages have none of their own."""
    if messages and messages[0]["role"] == "system":
        return []
    for name in SYSTEM_KEYS:
        if name in given:
            return _turns(given[name], "system", name)
    return []


def _turns(value: object, role: str, name: str = "message") -> Conversation:
    """A field as messages: a text of one role, one message, a list of them or of text parts."""
    if isinstance(value, Mapping) and _is_turn(value):
        return [_message(value, 0)]
    if isinstance(value, list):
        if value and all(isinstance(one, str) for one in value):
            raise ConversationError(f"{name} is a list of {len(value)} texts, several for one")
        if value and all(isinstance(one, Mapping) and not _is_turn(one) for one in value):
            return [cast(Message, {"role": role, "content": _content(value, 0)})]
        return _message_list(value)
    return [cast(Message, {"role": role, "content": _text(value, name)})]


def _sides(given: Mapping[str, Any]) -> tuple[Any, Any] | None:
    """The preferred and the rejected answer as they stand there."""
    for chosen, rejected in SIDE_KEYS:
        if chosen in given and rejected in given:
            return given[chosen], given[rejected]
    ranked = given.get("answers")
    if isinstance(ranked, list) and len(ranked) > 1 and all(_is_ranked(one) for one in ranked):
        ranked = sorted(ranked, key=lambda one: float(one["rank"]))
        return ranked[0]["answer"], ranked[-1]["answer"]
    return None


def _prompt_of(given: Mapping[str, Any]) -> Conversation:
    """The messages before both answers; empty where each side repeats them."""
    asked = given.get("input")
    if isinstance(asked, Mapping) and isinstance(asked.get("messages"), list):  # OpenAI
        return _message_list(asked["messages"])
    if question := _keys_of(given):
        return [*_history(given), *_question(given, question)]
    listed = _listed(given)
    return [*_history(given), *(listed or [])]


def _whole(
    head: Conversation, side: Conversation, given: Mapping[str, Any], name: str
) -> Conversation:
    """One side with the prompt before it; some files repeat the prompt in both sides."""
    if side and side[0]["role"] != "assistant":
        asked = [message for message in side if message["role"] != "system"]
        wanted = [message for message in head if message["role"] != "system"]
        if asked[: len(wanted)] != wanted:
            raise ConversationError(f"{name} does not begin with the prompt")
        head = [message for message in head if message["role"] == "system"]
        if side[0]["role"] == "system":
            head = []
    messages = [*_system(given, [*head, *side]), *head, *side]
    problem = problem_with(messages)
    if problem is None and messages[-1]["role"] != "assistant":
        problem = f"the last message of {name} is not the assistant's"
    if problem:
        raise ConversationError(problem)
    return [cast(Message, {"role": m["role"], "content": m["content"]}) for m in messages]


def _split_texts(chosen: str, rejected: str) -> tuple[Conversation, Conversation]:
    """Two texts that hold their prompt: turns of `Human:` and `Assistant:`, or a common start."""
    if all(re.match(r"\s*Human:", text) for text in (chosen, rejected)):
        return _marked_turns(chosen), _marked_turns(rejected)
    size = next(
        (at for at, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b),
        min(len(chosen), len(rejected)),
    )
    prompt = chosen[: chosen.rfind(" ", 0, size) + 1]  # whole words
    if not prompt.strip():
        raise ConversationError("no prompt, and chosen and rejected have no common start")
    asked = _turns(prompt, "user")
    return (
        [*asked, *_turns(chosen[len(prompt) :], "assistant")],
        [*asked, *_turns(rejected[len(prompt) :], "assistant")],
    )


def _marked_turns(text: str) -> Conversation:
    _, *parts = MARKERS.split(text)
    if not parts[-1].strip():
        parts = parts[:-2]
    roles = {"Human": "user", "Assistant": "assistant"}
    return [
        _turns(content, roles[name])[0]
        for name, content in zip(parts[::2], parts[1::2], strict=True)
    ]
