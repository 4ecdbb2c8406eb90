"""A child process that encodes text.

It is a plain process with two pipes, not `multiprocessing`, which would import the caller's main
module again, or fork the run's lock and the threads of the energy meter. If the parent dies, its
pipe closes and the worker ends.
"""

from __future__ import annotations

import hashlib
import marshal
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import IO, Any, NamedTuple, Self

import numpy as np

from teenytinyllama.artifacts.conversations import Message
from teenytinyllama.artifacts.tokenizer import TextEncoder

TextOrMessages = str | list[Message]
"""A document, or the messages of a conversation."""

WHITE_SPACE = b" \t\n\r\v\f"
_LENGTH = struct.Struct("<Q")


class EncodedBatch(NamedTuple):
    """Some documents as token ids."""

    ids: bytes  # uint32, BOS and EOS included
    num_tokens: list[int]
    text_hashes: list[bytes]  # white space is ignored
    num_bytes: int  # of UTF-8 text


def batch_encoder(model: bytes) -> Callable[[list[TextOrMessages]], EncodedBatch]:
    """A function that encodes a list of texts; `model` is the content of the vocabulary's file.

    The messages of a conversation are rendered by the chat template.
    """
    encoder = TextEncoder(model)
    bos = np.array([encoder.bos_id], np.uint32).tobytes()
    eos = np.array([encoder.eos_id], np.uint32).tobytes()

    def encode(texts: list[TextOrMessages]) -> EncodedBatch:
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
        return EncodedBatch(b"".join(parts), num_tokens, hashes, num_bytes)

    return encode


class EncodingWorker:
    """One such process."""

    def __init__(self, model: bytes) -> None:
        command = [sys.executable, "-c", f"from {__name__} import main; main()"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._send(model)

    def __enter__(self) -> Self:
        return self

    def _send(self, value: Any) -> None:
        assert self._process.stdin is not None
        _write(self._process.stdin, value)

    def encode(self, texts: list[TextOrMessages]) -> EncodedBatch:
        """Send `texts` to the process and wait for their ids."""
        assert self._process.stdout is not None
        self._send(texts)
        return EncodedBatch(*_read(self._process.stdout))

    def __exit__(self, *_: object) -> None:
        # Kill it: it holds nothing that the parent does not have.
        self._process.kill()
        self._process.communicate()


def _write(stream: IO[bytes], value: Any) -> None:
    data = marshal.dumps(value)
    stream.write(_LENGTH.pack(len(data)))
    stream.write(data)
    stream.flush()


def _read(stream: IO[bytes]) -> Any:
    """The next value from the other process. Raises EOFError when that has ended."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError("the process at the other end of the pipe has ended")
    return marshal.loads(stream.read(_LENGTH.unpack(head)[0]))


def main() -> None:
    """Encode batches until the parent closes the pipe."""
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    try:
        encode = batch_encoder(_read(stdin))
        while True:
            _write(stdout, tuple(encode(_read(stdin))))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return
