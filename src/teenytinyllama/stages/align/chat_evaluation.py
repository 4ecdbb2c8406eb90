"""What the chat model answers to questions it has not seen, and what can be counted about it.

Right where a known word stands in it; ended by its own end mark; in the language; how varied;
how much of it is a training answer word for word.
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

logger = logging.getLogger(__name__)


EXAMPLES_NAME = "examples.jsonl"
ALPACA_EVAL_NAME = "alpaca_eval.json"
REPEATED_WORDS = 4
ANSWERS_PER_GUESS = 8


@dataclass(frozen=True)
class Answer:
    """One question with the model's answer."""

    messages: Conversation
    expected: tuple[str, ...]
    text: str
    num_tokens: int
    ended: bool

    @property
    def correct(self) -> bool | None:
        """Whether a right word stands in the answer; None where none is known."""
        if not self.expected:
            return None
        said = self.text.casefold()
        return any(word.casefold() in said for word in self.expected)

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
) -> list[Answer]:
    """Greedy answers. A question longer than the model's context less one answer is left out."""
    decoder = Decoder(model)
    stage = decoder.max_positions - max_new_tokens
    asked = []
    for messages, expected in questions:
        ids = encoder.render(messages, add_generation_prompt=True)
        if len(ids) <= stage:
            asked.append((messages, expected, ids))
    outputs = generate(
        decoder,
        [ids for _, _, ids in asked],
        max_new_tokens=max_new_tokens,
        stop_ids=[encoder.eos_id],
    )
    return [
        Answer(messages, expected, encoder.decode(new), len(new), len(new) < max_new_tokens)
        for (messages, expected, _), new in zip(asked, outputs, strict=True)
    ]


def figures_of(
    answers: Sequence[Answer], learnt: set[str], language: str
) -> dict[str, float | int | None]:
    """All that is counted about the answers; shares are 0 to 1."""
    if not answers:
        return {"questions_asked": 0}
    judged = [a.correct for a in answers if a.correct is not None]
    words = [a.text.split() for a in answers]
    return {
        "right_answer_fraction": _mean([float(c) for c in judged]),
        "ends_answer_fraction": _mean([float(a.ended) for a in answers]),
        "language_kept_fraction": language_kept(answers, language),
        "answer_tokens_mean": _mean([float(a.num_tokens) for a in answers]),
        "distinct_1": distinct(words, 1),
        "distinct_2": distinct(words, 2),
        "repeats_itself_fraction": _mean([float(repeats(one)) for one in words]),
        "quoted_answer_fraction": _mean([float(a.text in learnt) for a in answers]),
        "questions_asked": len(answers),
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def distinct(texts: Sequence[Sequence[str]], size: int) -> float | None:
    """Different word n-grams as a share of all of them (Li et al. 2016).

    >>> distinct([["a", "b", "a"], ["a", "b"]], 1)
    0.4
    """
    found = Counter(
        tuple(words[at : at + size]) for words in texts for at in range(len(words) - size + 1)
    )
    return len(found) / found.total() if found else None


def repeats(words: Sequence[str]) -> bool:
    """Whether a run of four words occurs twice: a model that turns in circles.

    >>> repeats("o gato e o cão e o gato e o cão".split()), repeats("um dois três".split())
    (True, False)
    """
    size = REPEATED_WORDS
    runs = [tuple(words[at : at + size]) for at in range(len(words) - size + 1)]
    return len(set(runs)) < len(runs)


def language_kept(answers: Sequence[Answer], language: str) -> float | None:
    """Share of the text that is told to be in the run's language, eight answers at a time.

    One short sentence is too little to tell a language from. None without py3langid, said aloud.
    """
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        logger.info("language of the answers not told: py3langid is not installed (extra corpus)")
        return None
    guesser: Any = LanguageIdentifier.from_model_file(MODEL_FILE)
    texts = [a.text for a in answers]
    joined = [
        " ".join(texts[at : at + ANSWERS_PER_GUESS])
        for at in range(0, len(texts), ANSWERS_PER_GUESS)
    ]
    return _mean([float(guesser.classify(text)[0] == language) for text in joined])


def write_answers(answers: Sequence[Answer], out_dir: Path, generator: str) -> None:
    """`examples.jsonl`, and the same answers as AlpacaEval's judges read them."""
    lines = [json.dumps(a.as_line(), ensure_ascii=False) + "\n" for a in answers]
    write_atomically(out_dir / EXAMPLES_NAME, "".join(lines))
    rows = [
        {"instruction": a.messages[-1]["content"], "output": a.text, "generator": generator}
        for a in answers
    ]
    write_json(out_dir / ALPACA_EVAL_NAME, rows)
