"""Readers of published rows, and the metrics that task files name."""

from __future__ import annotations

import pytest
from support.benchmark_items import ROWS

from teenytinyllama.stages.evaluate.tasks import process_docs


def test_probability_of_true():
    doc = {"labels": [1, 0, 1]}
    found = process_docs.probability_of_true(doc, [(-1.0, False), (-1.0, False), (-1.0, True)])
    assert found["acc"] == pytest.approx(2 / 3)
    far = process_docs.probability_of_true(doc, [(-901.0, False), (-901.0, False), (-901.0, True)])
    assert far["acc"] == pytest.approx(2 / 3)


def test_question_may_be_empty_or_in_the_context():
    row = ROWS["enem"]
    assert process_docs.enem({**row, "question": ""})["question"].rstrip() == "Um texto."
    assert process_docs.enem(row)["question"] == "Um texto.\n\nO texto fala de"
    for name in ("enem", "oab"):  # lost in the published sets, and counted by others
        lost = {**ROWS[name], "question": "", "context": None}
        assert process_docs.READERS[name if name == "enem" else "exam"](lost)["question"] == ""


def test_flags_may_be_words_as_in_a_table():
    """In a CSV every field is text, and the text "False" is not empty."""
    assert process_docs.enem({**ROWS["enem"], "has_associated_images": "False"}) is not None
    assert process_docs.enem({**ROWS["enem"], "has_associated_images": "true"}) is None
