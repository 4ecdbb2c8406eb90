"""Rules that take lines out of a text, or drop it for what a line says. All are options.

C4's line rules (Raffel et al. 2020) under datatrove's reasons, and boilerplate: lines that stand in
many documents of one source, as menus, licence notes and calls to subscribe do.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from teenytinyllama.stages.corpus.filters.thresholds import LanguageData
from teenytinyllama.stages.corpus.filters.word_table import TERMINAL_MARKS

_CITATION = re.compile(r"\[\d*\]")
# C4's five, and the marks of scripts that have their own, as the danda of Bengali and Hindi.
_OTHER_ENDS = "".join(sorted(mark for mark in TERMINAL_MARKS if not mark.isascii()))
_END_MARKS = (".", "?", "!", '"', "'", *_OTHER_ENDS)
_SENTENCE_END = re.compile(rf"[.!?…{re.escape(_OTHER_ENDS)}]+[\"'”’»)\]]*(?=\s|$)")
MIN_SENTENCES, MIN_WORDS, MAX_WORD_CHARACTERS = 5, 3, 1000
MIN_BOILERPLATE_DOCUMENTS = 10
"""A line in fewer documents than this is never boilerplate, however small the source."""


def num_sentences(line: str) -> int:
    """Sentences of a line: its ends of sentence, and the rest after the last one.

    >>> [num_sentences(line) for line in ("Sim. Não!", "Custa R$ 1.500 hoje", "", "সে এল। বসল।")]
    [2, 1, 0, 2]
    """
    ends = [end.end() for end in _SENTENCE_END.finditer(line)]
    rest = line[ends[-1] :] if ends else line
    return len(ends) + bool(rest.strip())


def apply_c4(
    text: str, data: LanguageData, mode: Literal["lines", "sentences"]
) -> tuple[str | None, str]:
    """C4's rules on one text: the reason to drop it, or None, and the text that is left.

    `sentences` also takes out lines that do not end in a mark, as C4 did; `lines` leaves them,
    as FineWeb did. Sentences are counted by marks, not by a model: a text near five may differ.
    """
    kept: list[str] = []
    sentences = 0
    for raw in text.splitlines():
        line = raw.strip()
        words = line.split()
        if any(len(word) > MAX_WORD_CHARACTERS for word in words):
            continue
        line = _CITATION.sub("", line)
        for mark in data.citation_marks:
            line = line.replace(mark, "")
        if mode == "sentences" and (not line.endswith(_END_MARKS) or line.endswith("...")):
            continue
        if len(words) < MIN_WORDS:
            continue
        lower = line.lower()
        if "lorem ipsum" in lower:
            return "lorem_ipsum", text
        if "javascript" in lower:
            continue
        if "{" in line:
            return "curly_bracket", text
        if any(phrase in lower for phrase in data.policy_phrases):
            continue
        sentences += num_sentences(line)
        kept.append(line)
    if sentences < MIN_SENTENCES:
        return "too_few_sentences", text
    return None, "\n".join(kept).strip()


@dataclass(frozen=True)
class Boilerplate:
    """Lines that a source repeats from document to document."""

    lines: frozenset[str]

    def num_lines_in(self, text: str) -> int:
        """How many lines of the text `clean` takes out."""
        return sum(line.strip() in self.lines for line in text.split("\n"))

    def clean(self, text: str) -> str | None:
        """The text without these lines, or None where it has none of them."""
        lines = text.split("\n")
        kept = [line for line in lines if line.strip() not in self.lines]
        return None if len(kept) == len(lines) else "\n".join(kept).strip("\n")


class BoilerplateCounter:
    """Counts in how many documents of one source each line stands; once a document.

    White space round a line does not count. Lines of one or two characters are structure, not
    boilerplate.
    """

    def __init__(self) -> None:
        self.num_documents = 0
        self._documents_with: Counter[str] = Counter()

    def add(self, text: str) -> None:
        """Count one document."""
        self.num_documents += 1
        lines = {line for raw in text.split("\n") if len(line := raw.strip()) > 2}
        self._documents_with.update(lines)

    @property
    def num_lines(self) -> int:
        """Different lines that are held."""
        return len(self._documents_with)

    def forget_rare(self) -> None:
        """Let go of lines seen once: one that half of the documents have comes back at once."""
        seen = self._documents_with
        self._documents_with = Counter({line: times for line, times in seen.items() if times > 1})

    def boilerplate(self, max_documents_fraction: float) -> Boilerplate:
        """Lines in more than this share of the documents."""
        least = max(MIN_BOILERPLATE_DOCUMENTS, max_documents_fraction * self.num_documents)
        found = (line for line, times in self._documents_with.items() if times > least)
        return Boilerplate(frozenset(found))
