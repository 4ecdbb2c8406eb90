"""A process that encodes text for another.

A plain child process with two pipes, not `multiprocessing`: that would run the caller's main
module again, or fork the run's lock and the energy meter's threads. When the parent is gone its
pipe closes, and the worker ends.
"""

from __future__ import annotations

import hashlib
import marshal
import struct
import subprocess
import sys
from collections.abc import Callable
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

import numpy as np

from teenytinyllama.artifacts.conversations import Message
from teenytinyllama.artifacts.tokenizer import TextEncoder

# What is encoded: a text, or the messages of a conversation.
Item = str | list[Message]
WHITE_SPACE = b" \t\n\r\v\f"
_LENGTH = struct.Struct("<Q")


class Batch(NamedTuple):
    """What becomes of some documents."""

    ids: bytes  # uint32, BOS and EOS included
    num_tokens: list[int]
    text_hashes: list[bytes]  # without white space, which makes no text another
    num_bytes: int


def encoder_of(model: bytes) -> Callable[[list[Item]], Batch]:
    """A function that encodes a list of texts with the vocabulary of these bytes.

    A conversation comes as its messages, and is laid out by the chat template.
    """
    encoder = TextEncoder(model)
    bos = np.array([encoder.bos_id], np.uint32).tobytes()
    eos = np.array([encoder.eos_id], np.uint32).tobytes()

    def encode(texts: list[Item]) -> Batch:
        parts: list[bytes] = []
        num_tokens, hashes, num_bytes = [], [], 0
        for item in texts:
            if isinstance(item, str):
                text, ids = item, encoder.encode_bytes(item)
            else:
                text = "\n\n".join(message["content"] for message in item)
                rendered = encoder.render(item, add_generation_prompt=False)
                ids = np.array(rendered[1:-1], np.uint32).tobytes()  # BOS and EOS are added below
            parts += (bos, ids, eos)
            num_tokens.append(len(ids) // 4 + 2)
            data = text.encode("utf-8")
            num_bytes += len(data)
            letters = data.translate(None, WHITE_SPACE)
            hashes.append(hashlib.blake2b(letters, digest_size=16).digest())
        return Batch(b"".join(parts), num_tokens, hashes, num_bytes)

    return encode


class Worker:
    """One such process: `worker.encode(texts)` sends, waits and answers."""

    def __init__(self, model: bytes) -> None:
        command = [sys.executable, "-c", f"from {__name__} import main; main()"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._send(model)

    def __enter__(self) -> Self:
        return self

    def _send(self, value: Any) -> None:
        assert self._process.stdin is not None
        _write(self._process.stdin, value)

    def encode(self, texts: list[Item]) -> Batch:
        """The batch made of `texts`."""
        assert self._process.stdout is not None
        self._send(texts)
        return Batch(*_read(self._process.stdout))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Ended at once: it holds nothing that is not in the parent too.
        self._process.kill()
        self._process.communicate()


def _write(stream: IO[bytes], value: Any) -> None:
    data = marshal.dumps(value)
    stream.write(_LENGTH.pack(len(data)))
    stream.write(data)
    stream.flush()


def _read(stream: IO[bytes]) -> Any:
    """The next value, of the parent or of its own child alone. Raises EOFError at the end."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError("the process at the other end of the pipe is gone")
    return marshal.loads(stream.read(_LENGTH.unpack(head)[0]))


def main() -> None:
    """Answer batches until the parent closes the pipe."""
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    try:
        encode = encoder_of(_read(stdin))
        while True:
            _write(stdout, tuple(encode(_read(stdin))))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return
