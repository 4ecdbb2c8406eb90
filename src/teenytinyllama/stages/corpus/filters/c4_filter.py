"""`C4Filter`: C4's rules on lines (Raffel et al. 2020, section 2.2) under datatrove's reasons."""

from __future__ import annotations

import re
from typing import Literal

from teenytinyllama.languages.segmentation import count_words, separate_words
from teenytinyllama.stages.corpus.batches import DocumentBatch, ProseFilter, StepConfig
from teenytinyllama.stages.corpus.filters.language_data import LanguageData, load_language
from teenytinyllama.stages.corpus.filters.word_table import TERMINAL_MARKS

_CITATION = re.compile(r"\[\d*\]")
# C4's five, and the marks of scripts that have their own, as the danda of Bengali and Hindi.
_OTHER_ENDS = "".join(sorted(mark for mark in TERMINAL_MARKS if not mark.isascii()))
_END_MARKS = (".", "?", "!", '"', "'", *_OTHER_ENDS)
# Wide marks need no space after them.
_SENTENCE_END = re.compile(
    rf"(?:[.!?…{re.escape(_OTHER_ENDS)}]+[\"'”’»)\]]*(?=\s|$)|[。！？]+[”’」』）]*)"
)
MIN_SENTENCES, MIN_WORDS, MAX_WORD_CHARACTERS = 5, 3, 1000


class C4Filter(ProseFilter):
    """Removes lines that are about the site, and drops texts with too few sentences left."""

    def __init__(self, config: StepConfig) -> None:
        super().__init__(config)
        self._data = load_language(self.language)

    @classmethod
    def is_wanted(cls, config: StepConfig) -> bool:
        """Whether the recipe sets `c4`."""
        return config.settings.filters.c4 != "off"

    def apply(self, batch: DocumentBatch) -> None:
        """Edit or drop."""
        mode = self.settings.filters.c4
        for one in batch.remaining():
            reason, text = apply_c4(one.text, self._data, mode)
            if reason is not None:
                batch.drop(one, reason)
            elif text != one.text:
                batch.edit(one, text)


def num_sentences(line: str) -> int:
    """Sentences of a line: its sentence ends, and the rest after the last one.

    >>> lines = "Sim. Não!", "Custa R$ 1.500 hoje", "", "সে এল। বসল।", "去吧。好！"
    >>> [num_sentences(line) for line in lines]
    [2, 1, 0, 2, 2]
    """
    ends = [end.end() for end in _SENTENCE_END.finditer(line)]
    rest = line[ends[-1] :] if ends else line
    return len(ends) + bool(rest.strip())


def apply_c4(
    text: str, data: LanguageData, mode: Literal["off", "lines", "sentences"]
) -> tuple[str | None, str]:
    """C4's rules on one text: the reason to drop it, or None, and the text that is left.

    `sentences` also removes lines that do not end in a mark, as C4 did; `lines` keeps them, as
    FineWeb did. Sentences are counted by marks, not by a model: a text near five may differ.
    """
    kept: list[str] = []
    sentences = 0
    for raw in text.splitlines():
        line = raw.strip()
        if any(len(word) > MAX_WORD_CHARACTERS for word in separate_words(line).split()):
            continue
        num_words = count_words(line)
        line = _CITATION.sub("", line)
        for mark in data.citation_marks:
            line = line.replace(mark, "")
        if mode == "sentences" and (not line.endswith(_END_MARKS) or line.endswith("...")):
            continue
        if num_words < MIN_WORDS:
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
