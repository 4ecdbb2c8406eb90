"""Talk to a model in the terminal, or to several side by side.

On a terminal: answers stream, Ctrl-C stops an answer and not the program, `/help` lists the
commands. With piped input: one line in, one line out, so that scripts and tests can use it.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO
from unicodedata import category

from teenytinyllama.artifacts.conversations import Message
from teenytinyllama.errors import UserError, did_you_mean
from teenytinyllama.inference.chat_model import ChatModel, load_any
from teenytinyllama.inference.generation import Sampling

logger = logging.getLogger(__name__)


if TYPE_CHECKING:
    from teenytinyllama.inference.llama_cpp import GgufChatModel

HELP = """\
/help                 this list
/system TEXT          say who the assistant is, and begin anew; without TEXT: no system message
/reset                begin anew
/undo                 forget the last question and its answer
/retry                another answer to the last question
/set NAME=VALUE       change a setting; /set alone shows them
/save FILE            write the conversation as one JSON line (appends)
/quit                 leave (Ctrl-D does, too)
Ctrl-C stops an answer. A line that ends with \\ goes on in the next one."""


@dataclass(frozen=True)
class ChatOptions:
    """What `/set` changes and `--set` begins with."""

    max_new_tokens: int = 512
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.7, top_p=0.95))
    stop: str = ""
    """An answer ends before these words, in quotes where spaces count; empty: only at its end."""

    def changed(self, assignment: str) -> ChatOptions:
        """These options with `name=value` applied. Raises UserError for what does not fit.

        >>> ChatOptions().changed("temperature=0").sampling.temperature
        0.0
        """
        name, equals, value = (part.strip() for part in assignment.partition("="))
        known = self.shown()
        if not equals or name not in known:
            what = f'got "{assignment}", expected name=value'
            raise UserError("chat-setting", name, what, did_you_mean(name, known))
        if name == "stop":
            quoted = len(value) > 1 and value[0] == value[-1] == '"'
            return dataclasses.replace(self, stop=value[1:-1] if quoted else value)
        kind = type(known[name])
        try:
            number = kind(value)
        except ValueError as error:
            what = f'got "{value}", expected a number'
            raise UserError("chat-setting", name, what, f"/set {name}={known[name]}") from error
        if name == "max_new_tokens":
            if number < 1:
                raise UserError("chat-setting", name, f"got {value}", "at least 1")
            return dataclasses.replace(self, max_new_tokens=int(number))
        changes: dict[str, Any] = {name: number}
        return dataclasses.replace(self, sampling=dataclasses.replace(self.sampling, **changes))

    def shown(self) -> dict[str, Any]:
        """Every setting with its value."""
        sampling = dataclasses.asdict(self.sampling)
        return {"max_new_tokens": self.max_new_tokens, **sampling, "stop": self.stop}


@dataclass
class Conversation:
    """One model and what has been said to it and by it."""

    chat_model: ChatModel | GgufChatModel
    messages: list[Message] = field(default_factory=list)

    def prompt(self, max_new_tokens: int) -> list[int]:
        """The ids to go on from; oldest turns are dropped where the context is too short.

        Raises UserError where the last question alone does not fit.
        """
        messages = list(self.messages)
        context = self.chat_model.max_positions
        while True:
            ids = self.chat_model.prompt_of(messages)
            if len(ids) + min(max_new_tokens, context // 4) <= context:
                break
            first = 1 if messages[0]["role"] == "system" else 0
            if len(messages) - first < 3:
                break
            del messages[first : first + 2]
        if len(messages) < len(self.messages):
            num_dropped = len(self.messages) - len(messages)
            logger.info(
                f"(the context of {context} tokens is full: the oldest {num_dropped} are forgotten)"
            )
        return ids

    def answer(self, options: ChatOptions) -> Iterator[str]:
        """The answer to the last message as it comes; it becomes part of the conversation."""
        said: list[str] = []
        try:
            prompt = self.prompt(options.max_new_tokens)
            stage = min(options.max_new_tokens, self.chat_model.max_positions - len(prompt))
            pieces = self.chat_model.answer(prompt, stage, options.sampling, [options.stop])
            with closing(pieces):
                for piece in pieces:
                    said.append(piece)
                    yield piece
        finally:
            words = "".join(said)
            if words.strip():
                self.messages.append({"role": "assistant", "content": words})
            else:  # a turn without words cannot be shown to the model again
                self.messages.pop()


class Chat:
    """The commands and the conversations: all that a terminal or a pipe needs."""

    def __init__(
        self,
        chat_models: Sequence[ChatModel | GgufChatModel],
        options: ChatOptions,
        system: str = "",
    ) -> None:
        self.conversations = [Conversation(chat_model) for chat_model in chat_models]
        self.options = options
        self.system = system
        self.num_answers = 0
        self.done = False
        self.reset()

    def reset(self) -> None:
        """Forget all that was said but the system message."""
        for conversation in self.conversations:
            start: list[Message] = []
            if self.system:
                start.append({"role": "system", "content": self.system})
            conversation.messages = start

    def ask(self, text: str) -> Iterator[tuple[Conversation, Iterator[str]]]:
        """One question to every model in turn: each model's answer, streaming.

        Every answer draws from another seed, counted from the one that was set, so that asking
        again may answer otherwise and the whole session repeats for the same seed.
        """
        sampling = self.options.sampling
        seed = (sampling.seed + self.num_answers) % 2**63
        options = dataclasses.replace(
            self.options, sampling=dataclasses.replace(sampling, seed=seed)
        )
        self.num_answers += 1
        for conversation in self.conversations:
            conversation.messages.append({"role": "user", "content": text})
            yield conversation, conversation.answer(options)

    def undo(self, command: str = "/undo") -> str:
        """Forget the last question and its answers, as `command` asks; gives the question.

        Raises UserError where nothing was asked yet.
        """
        question = ""
        for conversation in self.conversations:
            messages = conversation.messages
            while messages and messages[-1]["role"] != "system":
                message = messages.pop()
                if message["role"] == "user":
                    question = message["content"]
                    break
        if not question:
            raise UserError("chat-command", command, "nothing was asked yet", "ask something")
        return question

    def command(self, line: str) -> str:
        """Do what a line that begins with `/` says; gives what to tell the user.

        Raises UserError for an unknown command or a wrong value.
        """
        name, _, rest = line[1:].strip().partition(" ")
        rest = rest.strip()
        commands: dict[str, Callable[[str], str]] = {
            "help": lambda _: HELP,
            "system": self._system,
            "reset": lambda _: self._reset_and_say(),
            "undo": lambda _: f"forgotten: {self.undo()}",
            "set": self._set,
            "save": self._save,
            "quit": lambda _: self._quit(),
            "exit": lambda _: self._quit(),
        }
        if name not in commands:
            fix = did_you_mean(name, [*commands, "retry"])
            raise UserError("chat-command", f"/{name}", "no such command", fix)
        return commands[name](rest)

    def _reset_and_say(self) -> str:
        self.reset()
        return "begun anew"

    def _system(self, text: str) -> str:
        self.system = text
        self.reset()
        return "begun anew with this system message" if text else "begun anew, no system message"

    def _set(self, assignment: str) -> str:
        if assignment:
            self.options = self.options.changed(assignment)
        return " ".join(f"{name}={value}" for name, value in self.options.shown().items())

    def _save(self, name: str) -> str:
        if not name:
            raise UserError("chat-save", "/save", "no file named", "/save conversa.jsonl")
        path = Path(name).expanduser()
        try:
            with path.open("a", encoding="utf-8") as file:
                for conversation in self.conversations:
                    row = {
                        "model": conversation.chat_model.name,
                        "messages": conversation.messages,
                        "settings": self.options.shown(),
                    }
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
        except OSError as error:
            what = f"cannot be written ({error.strerror})"
            raise UserError("chat-save", str(path), what, "name another file") from error
        return f"saved to {path}"

    def _quit(self) -> str:
        self.done = True
        return ""


def run(
    *,
    models: Sequence[Path],
    system: str = "",
    assignments: Sequence[str] = (),
    stdin: TextIO | None = None,
    stdout: TextIO | None = None,
) -> None:
    """Load the models and talk until the input ends or the user quits."""
    stdin, stdout = stdin or sys.stdin, stdout or sys.stdout
    options = ChatOptions()
    for assignment in assignments:
        options = options.changed(assignment)
    names = [path.resolve().name for path in models]
    if len(set(names)) < len(names):
        names = [str(path) for path in models]
    chat_models = [load_any(path, name=name) for path, name in zip(models, names, strict=True)]
    chat = Chat(chat_models, options, system)
    if stdin.isatty() and stdout.isatty():
        _talk_at_terminal(chat, stdout)
    else:
        _answer_lines(chat, stdin, stdout)


def _answer_lines(chat: Chat, stdin: TextIO, stdout: TextIO) -> None:
    r"""One line in, one line out per model; line ends inside an answer are written as `\n`.

    Answers to commands go to standard error. An error ends the program.
    """
    for line in stdin:
        text = line.strip()
        if text == "/retry":
            text = chat.undo(text)
        if not text:
            continue
        if text.startswith("/"):
            if told := chat.command(text):
                logger.info(told)
            if chat.done:
                return
            continue
        for _, pieces in chat.ask(text):
            answer = "".join(pieces).replace("\\", "\\\\").replace("\n", "\\n")
            stdout.write(_without_control(answer) + "\n")
            stdout.flush()


def _talk_at_terminal(chat: Chat, stdout: TextIO) -> None:
    with suppress(ImportError):
        import readline  # noqa: F401 (input() then has arrow keys and a history)
    for conversation in chat.conversations:
        kind = (
            "answers" if conversation.chat_model.answers else "a base model: it goes on with text"
        )
        logger.info(f"{conversation.chat_model.name}: {conversation.chat_model.folder} ({kind})")
    logger.info("/help lists the commands, /quit leaves.")
    while not chat.done:
        try:
            _take_turn(chat, stdout)
        except EOFError:
            stdout.write("\n")
            return
        except KeyboardInterrupt:
            logger.info("\n(/quit leaves)")
        except UserError as error:
            logger.info(str(error))


def _take_turn(chat: Chat, stdout: TextIO) -> None:
    text = _read_line()
    if text == "/retry":
        text = chat.undo(text)
    if text.startswith("/"):
        logger.info(chat.command(text))
    elif text:
        _show_answers(chat, text, stdout)


def _read_line() -> str:
    text = input("> ")
    while text.endswith("\\"):
        text = text[:-1] + "\n" + input(". ")
    return text.strip()


def _show_answers(chat: Chat, text: str, stdout: TextIO) -> None:
    """Write each answer as it comes; Ctrl-C ends it and goes on to the next model."""
    for conversation, pieces in chat.ask(text):
        if len(chat.conversations) > 1:
            stdout.write(f"\033[2m{conversation.chat_model.name}:\033[0m ")
        started, num_pieces = time.monotonic(), 0
        try:
            for piece in pieces:
                num_pieces += 1
                stdout.write(_without_control(piece))
                stdout.flush()
        except KeyboardInterrupt:
            pieces.close()  # type: ignore[attr-defined]
            stdout.write(" (stopped)")
        seconds = time.monotonic() - started
        stdout.write(f"\n\033[2m{num_pieces / max(seconds, 1e-9):.0f} tokens/s\033[0m\n")
        stdout.flush()


def _without_control(text: str) -> str:
    r"""Text that cannot move a terminal's cursor or change its title: a model may write anything.

    >>> _without_control("a\x1b]0;b\nc")
    'a�]0;b\nc'
    """
    return "".join(
        "\ufffd" if category(character) == "Cc" and character not in "\n\t" else character
        for character in text
    )
