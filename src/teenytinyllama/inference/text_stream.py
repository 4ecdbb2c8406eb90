"""Token ids to text as they are generated."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    r"""Turns token ids into text that may be shown at once.

    A character of several bytes is held back until it is complete (bytes that never become one are
    shown as U+FFFD), and so is text that may be the start of a stop string. `strip_first_space`
    drops the one space that SentencePiece puts before a text's first word; in a continuation that
    space is a real one. `vocabulary` holds the bytes of each id.

    >>> text = TextStream([b" ol", b"\xc3", b"\xa1", b"!"], stop=["!"])
    >>> [text.push(token) for token in (0, 1, 2, 3)], text.stopped
    (['ol', '', 'á', ''], True)
    """

    def __init__(
        self,
        vocabulary: Sequence[bytes],
        stop: Sequence[str] = (),
        *,
        strip_first_space: bool = True,
    ) -> None:
        self.stopped = False
        self._vocabulary = vocabulary
        self._stop = [word for word in stop if word]
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self._strips = strip_first_space

    def push(self, token: int) -> str:
        """The text that is certain after this token; may be empty."""
        return self._release(self._decoder.decode(self._vocabulary[token]))

    def finish(self) -> str:
        """What was held back, once no more tokens come."""
        if self.stopped:
            return ""
        text = self._release(self._decoder.decode(b"", final=True))
        rest, self._held = self._held, ""
        return text if self.stopped else text + rest

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        if self._strips and text:
            text = text.removeprefix(" ")
            self._strips = False
        self._held += text
        ends = [at for at in (self._held.find(word) for word in self._stop) if at >= 0]
        if ends:
            self.stopped = True
            return self._held[: min(ends)]
        keep = max((_overlap(self._held, word) for word in self._stop), default=0)
        cut = len(self._held) - keep
        released, self._held = self._held[:cut], self._held[cut:]
        return released


def _overlap(text: str, word: str) -> int:
    """How many of the last characters of `text` could start `word`.

    >>> _overlap("fim. Usu", "Usuário"), _overlap("fim", "Usuário")
    (3, 0)
    """
    for size in range(min(len(word) - 1, len(text)), 0, -1):
        if text.endswith(word[:size]):
            return size
    return 0
