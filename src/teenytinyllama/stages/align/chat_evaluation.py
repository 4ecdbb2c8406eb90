"""Answers of the chat model to held-out questions, and metrics of them.

Correct (an expected word is in the answer), ended by EOS, in the run's language, diverse, and
copied from a training answer word for word.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teenytinyllama.artifacts.conversations import Conversation
from teenytinyllama.artifacts.manifest import write_atomically, write_json
from teenytinyllama.artifacts.tokenizer import TextEncoder
from teenytinyllama.inference.decoder import Decoder
from teenytinyllama.inference.generation import generate
from teenytinyllama.languages.segmentation import separate_words

logger = logging.getLogger(__name__)


EXAMPLES_NAME = "examples.jsonl"
ALPACA_EVAL_NAME = "alpaca_eval.json"
REPEATED_WORDS = 4
ANSWERS_PER_IDENTIFICATION = 8


@dataclass(frozen=True)
class ChatAnswer:
    """One question with the model's answer."""

    messages: Conversation
    expected: tuple[str, ...]
    text: str
    num_tokens: int
    ended: bool

    @property
    def correct(self) -> bool | None:
        """Whether the answer contains an expected word; None where none is known."""
        if not self.expected:
            return None
        text = self.text.casefold()
        return any(word.casefold() in text for word in self.expected)

    def as_line(self) -> dict[str, Any]:
        """The line of `examples.jsonl`."""
        return {
            "prompt": self.messages[-1]["content"],
            "messages": self.messages,
            "answer": self.text,
            "expected": " | ".join(self.expected),
            "correct": self.correct,
            "ended": self.ended,
        }


def answer_all(
    model: Any,
    encoder: TextEncoder,
    questions: Sequence[tuple[Conversation, tuple[str, ...]]],
    *,
    max_new_tokens: int,
) -> list[ChatAnswer]:
    """Greedy answers. A question that leaves too little context for an answer is skipped."""
    decoder = Decoder(model)
    max_prompt = decoder.max_positions - max_new_tokens
    asked = []
    for messages, expected in questions:
        ids = encoder.render(messages, add_generation_prompt=True)
        if len(ids) <= max_prompt:
            asked.append((messages, expected, ids))
    outputs = generate(
        decoder,
        [ids for _, _, ids in asked],
        max_new_tokens=max_new_tokens,
        stop_ids=[encoder.eos_id],
    )
    return [
        ChatAnswer(messages, expected, encoder.decode(new), len(new), len(new) < max_new_tokens)
        for (messages, expected, _), new in zip(asked, outputs, strict=True)
    ]


def answer_metrics(
    answers: Sequence[ChatAnswer], train_answers: set[str], language: str
) -> dict[str, float | int | None]:
    """Metrics of some answers; fractions are 0 to 1. `train_answers` are those trained on."""
    if not answers:
        return {"questions_asked": 0}
    checked = [a.correct for a in answers if a.correct is not None]
    words = [separate_words(a.text).split() for a in answers]
    return {
        "right_answer_fraction": _mean([float(c) for c in checked]),
        "ends_answer_fraction": _mean([float(a.ended) for a in answers]),
        "language_kept_fraction": language_kept(answers, language),
        "answer_tokens_mean": _mean([float(a.num_tokens) for a in answers]),
        "distinct_1": distinct(words, 1),
        "distinct_2": distinct(words, 2),
        "repeats_itself_fraction": _mean([float(repeats(one)) for one in words]),
        "matched_answer_fraction": _mean([float(a.text in train_answers) for a in answers]),
        "questions_asked": len(answers),
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def distinct(texts: Sequence[Sequence[str]], size: int) -> float | None:
    """Distinct word n-grams as a fraction of all of them (Li et al. 2016).

    >>> distinct([["a", "b", "a"], ["a", "b"]], 1)
    0.4
    """
    found = Counter(
        tuple(words[at : at + size]) for words in texts for at in range(len(words) - size + 1)
    )
    return len(found) / found.total() if found else None


def repeats(words: Sequence[str]) -> bool:
    """Whether four words in a row occur twice, as where a model loops.

    >>> repeats("o gato e o cão e o gato e o cão".split()), repeats("um dois três".split())
    (True, False)
    """
    size = REPEATED_WORDS
    grams = [tuple(words[at : at + size]) for at in range(len(words) - size + 1)]
    return len(set(grams)) < len(grams)


def language_kept(answers: Sequence[ChatAnswer], language: str) -> float | None:
    """Fraction of the text identified as the run's language, eight answers at a time.

    One short sentence is too little to identify a language. None, with a message, without
    py3langid.
    """
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        logger.info("language of answers not checked: py3langid is not installed (extra corpus)")
        return None
    identifier: Any = LanguageIdentifier.from_model_file(MODEL_FILE)
    texts = [a.text for a in answers]
    joined = [
        " ".join(texts[at : at + ANSWERS_PER_IDENTIFICATION])
        for at in range(0, len(texts), ANSWERS_PER_IDENTIFICATION)
    ]
    return _mean([float(identifier.classify(text)[0] == language) for text in joined])


def write_answers(answers: Sequence[ChatAnswer], out_dir: Path, generator: str) -> None:
    """Write `examples.jsonl`, and the same answers in AlpacaEval's format."""
    lines = [json.dumps(a.as_line(), ensure_ascii=False) + "\n" for a in answers]
    write_atomically(out_dir / EXAMPLES_NAME, "".join(lines))
    rows = [
        {"instruction": a.messages[-1]["content"], "output": a.text, "generator": generator}
        for a in answers
    ]
    write_json(out_dir / ALPACA_EVAL_NAME, rows)
