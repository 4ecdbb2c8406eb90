"""`ttl chat`: chat with a model in the terminal, or with several side by side.

On a terminal, answers stream, Ctrl-C stops an answer and not the program, and `/help` lists the
commands. With piped input, each line gets one line per model, for scripts and tests.
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
from typing import Any, TextIO
from unicodedata import category

from teenytinyllama.artifacts.conversations import Message
from teenytinyllama.errors import UserError, did_you_mean
from teenytinyllama.inference.chat_model import AnyChatModel, describe, load_any, model_names
from teenytinyllama.inference.sampling import Sampling
from teenytinyllama.regular_files import user_path
from teenytinyllama.signals import ctrl_c_interrupts

logger = logging.getLogger(__name__)

HELP = """\
/help                 this list
/system TEXT          set the system message and start again; without TEXT: none
/reset                start again
/undo                 remove the last question and its answer
/retry                another answer to the last question
/set NAME=VALUE       change a setting; /set alone shows them
/save FILE            write the conversation as one JSON line (appends)
/quit                 leave (also Ctrl-D)
Ctrl-C stops an answer. A line that ends with \\ continues on the next one."""


@dataclass(frozen=True)
class ChatOptions:
    """The settings that `--set` and `/set` change."""

    max_new_tokens: int = 512
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.7, top_p=0.95))
    stop: str = ""
    """An answer ends before this text (quoted where spaces count); empty: no such text."""

    def changed(self, assignment: str) -> ChatOptions:
        """These options with `name=value` applied. Raises UserError for a wrong name or value.

        >>> ChatOptions().changed("temperature=0").sampling.temperature
        0.0
        """
        name, equals, value = (part.strip() for part in assignment.partition("="))
        known = self.as_dict()
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

    def as_dict(self) -> dict[str, Any]:
        """Every setting with its value."""
        sampling = dataclasses.asdict(self.sampling)
        return {"max_new_tokens": self.max_new_tokens, **sampling, "stop": self.stop}


@dataclass
class ModelHistory:
    """One model and the messages of its conversation."""

    chat_model: AnyChatModel
    messages: list[Message] = field(default_factory=list)

    def prompt(self, max_new_tokens: int) -> list[int]:
        """Prompt ids; the oldest turns are left out where the context is too short.

        Raises UserError where the last question alone does not fit.
        """
        messages = list(self.messages)
        context = self.chat_model.max_positions
        while True:
            ids = self.chat_model.encode_prompt(messages)
            if len(ids) + min(max_new_tokens, context // 4) <= context:
                break
            first = 1 if messages[0]["role"] == "system" else 0
            if len(messages) - first < 3:
                break
            del messages[first : first + 2]
        if len(messages) < len(self.messages):
            num_dropped = len(self.messages) - len(messages)
            logger.info(
                f"(the context of {context} tokens is full: the oldest {num_dropped} messages "
                "are left out)"
            )
        return ids

    def answer(self, options: ChatOptions) -> Iterator[str]:
        """Yield the answer to the last message as it is generated, then add it to the messages."""
        parts: list[str] = []
        try:
            prompt = self.prompt(options.max_new_tokens)
            space = min(options.max_new_tokens, self.chat_model.max_positions - len(prompt))
            stream = self.chat_model.answer(prompt, space, options.sampling, [options.stop])
            with closing(stream):
                for part in stream:
                    parts.append(part)
                    yield part
        finally:
            text = "".join(parts)
            if text.strip():
                self.messages.append({"role": "assistant", "content": text})
            else:  # the chat template does not allow an empty turn: remove the question
                self.messages.pop()


class ChatRepl:
    """Commands and conversations, without input and output."""

    def __init__(
        self,
        chat_models: Sequence[AnyChatModel],
        options: ChatOptions,
        system: str = "",
    ) -> None:
        self.histories = [ModelHistory(chat_model) for chat_model in chat_models]
        self.options = options
        self.system = system
        self.num_answers = 0
        self.done = False
        self.reset()

    def reset(self) -> None:
        """Remove all messages but the system message."""
        for history in self.histories:
            history.messages = []
            if self.system:
                history.messages.append({"role": "system", "content": self.system})

    def ask(self, text: str) -> Iterator[tuple[ModelHistory, Iterator[str]]]:
        """Ask every model in turn; yields each model's history and its streamed answer.

        The seed goes up by one a question: the same question may get another answer, and the
        whole session can be repeated.
        """
        sampling = self.options.sampling
        seed = (sampling.seed + self.num_answers) % 2**63
        options = dataclasses.replace(
            self.options, sampling=dataclasses.replace(sampling, seed=seed)
        )
        self.num_answers += 1
        for history in self.histories:
            history.messages.append({"role": "user", "content": text})
            yield history, history.answer(options)

    def undo(self, command: str = "/undo") -> str:
        """Remove the last question and its answers; returns the question.

        Raises UserError, which names `command`, where nothing was asked yet.
        """
        question = ""
        for history in self.histories:
            messages = history.messages
            while messages and messages[-1]["role"] != "system":
                message = messages.pop()
                if message["role"] == "user":
                    question = message["content"]
                    break
        if not question:
            raise UserError("chat-command", command, "nothing was asked yet", "ask something")
        return question

    def command(self, line: str) -> str:
        """Run a line that starts with `/`; returns the message for the user.

        Raises UserError for an unknown command or a wrong value.
        """
        name, _, rest = line[1:].strip().partition(" ")
        rest = rest.strip()
        commands: dict[str, Callable[[str], str]] = {
            "help": lambda _: HELP,
            "system": self._system,
            "reset": lambda _: self._reset(),
            "undo": lambda _: f"removed: {self.undo()}",
            "set": self._set,
            "save": self._save,
            "quit": lambda _: self._quit(),
            "exit": lambda _: self._quit(),
        }
        if name not in commands:
            fix = did_you_mean(name, [*commands, "retry"])
            raise UserError("chat-command", f"/{name}", "no such command", fix)
        return commands[name](rest)

    def _reset(self) -> str:
        self.reset()
        return "conversation cleared"

    def _system(self, text: str) -> str:
        self.system = text
        return f"{self._reset()}, {'this' if text else 'no'} system message"

    def _set(self, assignment: str) -> str:
        if assignment:
            self.options = self.options.changed(assignment)
        return " ".join(f"{name}={value}" for name, value in self.options.as_dict().items())

    def _save(self, name: str) -> str:
        if not name:
            raise UserError("chat-save", "/save", "no file given", "/save conversa.jsonl")
        path = user_path(name)
        try:
            with path.open("a", encoding="utf-8") as file:
                for history in self.histories:
                    row = {
                        "model": history.chat_model.name,
                        "messages": history.messages,
                        "settings": self.options.as_dict(),
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
    """Load the models and chat until the input ends or the user quits."""
    stdin, stdout = stdin or sys.stdin, stdout or sys.stdout
    options = ChatOptions()
    for assignment in assignments:
        options = options.changed(assignment)
    names = model_names(models)
    chat_models = [load_any(path, name=name) for path, name in zip(models, names, strict=True)]
    chat = ChatRepl(chat_models, options, system)
    if stdin.isatty() and stdout.isatty():
        with ctrl_c_interrupts():
            _chat_at_terminal(chat, stdout)
    else:
        _answer_lines(chat, stdin, stdout)


def _answer_lines(chat: ChatRepl, stdin: TextIO, stdout: TextIO) -> None:
    r"""One line in, one line out per model; line ends inside an answer are written as `\n`.

    The output of commands goes to standard error. An error ends the program.
    """
    for number, line in enumerate(stdin, start=1):
        text = line.strip()
        if not text.isascii() and any(category(sign) == "Cs" for sign in text):
            # Standard input keeps bytes that are no UTF-8 as lone surrogates.
            what, fix = "is not UTF-8", "iconv -f latin1 -t utf-8, or from what it is in"
            raise UserError("chat-encoding", f"line {number} of the input", what, fix)
        if text == "/retry":
            text = chat.undo(text)
        if not text:
            continue
        if text.startswith("/"):
            if message := chat.command(text):
                logger.info(message)
            if chat.done:
                return
            continue
        for _, stream in chat.ask(text):
            answer = "".join(stream).replace("\\", "\\\\").replace("\n", "\\n")
            stdout.write(_without_control(answer) + "\n")
            stdout.flush()


def _chat_at_terminal(chat: ChatRepl, stdout: TextIO) -> None:
    with suppress(ImportError):
        import readline  # noqa: F401 (gives input() arrow keys and a history)
    for history in chat.histories:
        logger.info(describe(history.chat_model))
    logger.info("/help lists the commands, /quit leaves.")
    while not chat.done:
        try:
            _take_turn(chat, stdout)
        except (EOFError, KeyboardInterrupt):
            stdout.write("\n")
            return
        except UserError as error:
            logger.info(str(error))


def _take_turn(chat: ChatRepl, stdout: TextIO) -> None:
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


def _show_answers(chat: ChatRepl, text: str, stdout: TextIO) -> None:
    """Write each answer as it is generated; Ctrl-C stops it, and the next model answers."""
    for history, stream in chat.ask(text):
        if len(chat.histories) > 1:
            stdout.write(f"\033[2m{history.chat_model.name}:\033[0m ")
        started, num_parts = time.monotonic(), 0
        try:
            for part in stream:
                num_parts += 1
                stdout.write(_without_control(part))
                stdout.flush()
        except KeyboardInterrupt:
            stream.close()  # type: ignore[attr-defined]
            stdout.write(" (stopped)")
        seconds = time.monotonic() - started
        stdout.write(f"\n\033[2m{num_parts / max(seconds, 1e-9):.0f} tokens/s\033[0m\n")
        stdout.flush()


def _without_control(text: str) -> str:
    r"""Replace control characters: a model's text must not move the cursor or set the title.

    >>> _without_control("a\x1b]0;b\nc")
    'a�]0;b\nc'
    """
    return "".join(
        "\ufffd" if category(character) == "Cc" and character not in "\n\t" else character
        for character in text
    )
