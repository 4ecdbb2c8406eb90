"""Metrics of a chat model's answers, worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from teenytinyllama.artifacts.conversations import Conversation
from teenytinyllama.stages.align.chat_evaluation import ChatAnswer, answer_metrics, write_answers


def answer(text: str, *, expected: tuple[str, ...] = (), ended: bool = True) -> ChatAnswer:
    messages: Conversation = [
        {"role": "system", "content": "Seja breve."},
        {"role": "user", "content": "Onde mora Lila?"},
    ]
    return ChatAnswer(messages, expected, text, num_tokens=len(text.split()), ended=ended)


ANSWERS = [
    answer("Lila mora na FLORESTA.", expected=("floresta", "mata")),
    answer("Lila mora na praia.", expected=("floresta",)),
    answer("o gato e o cão e o gato e o cão", ended=False),
    answer(""),
]


def test_metrics_of_four_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("teenytinyllama.stages.align.chat_evaluation.language_kept", lambda *_: 1.0)
    metrics = answer_metrics(ANSWERS, {"Lila mora na praia."}, "pt")
    assert metrics == {
        "right_answer_fraction": 0.5,  # two have a known word, one of them has it
        "ends_answer_fraction": 0.75,
        "language_kept_fraction": 1.0,
        "answer_tokens_mean": (4 + 4 + 11 + 0) / 4,
        "distinct_1": 9 / 19,  # Lila mora na FLORESTA. praia. o gato e cão, of 4 + 4 + 11
        "distinct_2": 9 / 16,  # 4 of the first two; o gato, gato e, e o, o cão, cão e
        "repeats_itself_fraction": 0.25,
        "matched_answer_fraction": 0.25,
        "questions_asked": 4,
    }
    assert answer_metrics([], set(), "pt") == {"questions_asked": 0}


def test_answers_are_written_in_alpaca_evals_format(tmp_path: Path) -> None:
    write_answers(ANSWERS[:1], tmp_path, "quickstart")
    assert json.loads((tmp_path / "alpaca_eval.json").read_text()) == [
        {
            "instruction": "Onde mora Lila?",
            "output": "Lila mora na FLORESTA.",
            "generator": "quickstart",
        }
    ]


def test_an_answer_with_an_expected_word_is_correct() -> None:
    question: Conversation = [{"role": "user", "content": "Onde?"}]
    assert ChatAnswer(question, ("na Floresta",), "Mora NA FLORESTA.", 4, True).correct is True
    assert ChatAnswer(question, ("na Floresta",), "No lago.", 4, True).correct is False
    assert ChatAnswer(question, (), "No lago.", 4, True).correct is None
