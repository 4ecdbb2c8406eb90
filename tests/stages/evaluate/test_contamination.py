"""Copies of held-out documents and contaminated items, by n-grams."""

from __future__ import annotations

import random

import pytest
from support import script_texts

from teenytinyllama.stages.evaluate.contamination import ContaminationCheck, item_parts


def words(start: int, count: int) -> str:
    return " ".join(f"palavra{i}" for i in range(start, start + count))


def copies(found: dict) -> tuple[int, int]:
    return found["heldout_leaks_exact"], found["heldout_leaks_near"]


def test_case_and_punctuation_do_not_hide_an_exact_copy():
    check = ContaminationCheck()
    check.add_heldout("same", "O gato, que mora AQUI; dorme.")
    check.add_heldout("other", "O gato, que mora ali, dorme.")
    found = check.read_training(["o gato que mora aqui dorme"])
    assert found["heldout_documents"] == 2
    assert copies(found) == (1, 0)
    assert found["heldout_leaks_examples"] == ["same"]


def test_document_mostly_in_one_training_document_is_a_near_copy():
    """104 words have 100 5-grams; the training text shares 85 of them, or 75."""
    check = ContaminationCheck()
    check.add_heldout("near", words(0, 104))
    found = check.read_training([words(0, 89) + " outro fim"])
    assert copies(found) == (0, 1)
    check = ContaminationCheck()
    check.add_heldout("far", words(0, 104))
    found = check.read_training([words(0, 79) + " outro fim"])
    assert copies(found) == (0, 0)


def test_copy_with_every_50th_word_changed_is_a_near_copy():
    check = ContaminationCheck()
    check.add_heldout("copy", words(0, 500))
    changed = words(0, 500).split()
    changed[49::50] = ["outra"] * 10
    found = check.read_training([" ".join(changed)])
    assert copies(found) == (0, 1)


def test_ngrams_from_many_training_documents_are_not_a_copy():
    check = ContaminationCheck()
    check.add_heldout("spread", words(0, 112))
    found = check.read_training([words(start, 25) for start in range(0, 100, 12)])
    assert copies(found) == (0, 0)


def test_item_is_contaminated_by_13_words_not_by_12():
    check = ContaminationCheck()
    check.add_item("task", [words(0, 20), "curta"])
    check.add_item("task", [words(100, 20), "curta"])
    check.add_item("task", ["muito curta", "curta"])
    found = check.read_training([words(3, 13), words(104, 12) + " fim"])
    assert found["tasks"]["task"] == {
        "contaminated_items": 1,
        "contaminated_fraction": 1 / 2,
        "items_checked_for_overlap": 2,
        "items_too_short_to_check": 1,
    }


def test_share_is_none_where_no_item_could_be_checked():
    check = ContaminationCheck()
    check.add_item("task", ["muito curta"])
    found = check.read_training(["muito curta"])
    assert found["tasks"]["task"]["items_too_short_to_check"] == 1
    assert found["tasks"]["task"]["contaminated_fraction"] is None


ITEM = {"question": words(0, 8), "choices": ["nada", words(8, 7)], "gold": 1}


def test_ngram_may_span_question_and_right_answer():
    """Eight words of question and seven of answer: neither has a 13-gram alone."""
    check = ContaminationCheck()
    check.add_item("right", item_parts(ITEM))
    check.add_item("wrong", item_parts({**ITEM, "gold": 0}))
    check.add_item("word", item_parts({"context": words(0, 14), "target": " palavra14"}))
    check.add_item("raw", item_parts({"pergunta": words(0, 14), "opções": ["a", "b"], "n": 1}))
    found = check.read_training([words(1, 13)])
    tasks = found["tasks"]
    assert {name: one["contaminated_items"] for name, one in tasks.items()} == {
        "right": 1,
        "wrong": 0,
        "word": 1,
        "raw": 1,
    }
    assert tasks["wrong"]["items_too_short_to_check"] == 1


def test_no_training_text_and_no_items():
    found = ContaminationCheck().read_training([])
    assert (found["heldout_documents"], found["tasks"]) == (0, {})


@pytest.mark.parametrize("language", script_texts.UNSPACED)
def test_an_item_is_found_in_a_script_without_spaces(language: str):
    rng = random.Random(language)
    item, before, after = (script_texts.text_of(language, rng, 100) for _ in range(3))
    check = ContaminationCheck()
    check.add_item("exam", [item])
    check.add_item("exam", [script_texts.text_of(language, rng, 100)])
    found = check.read_training([f"{before}{item}{after}"])["tasks"]["exam"]
    assert (found["contaminated_items"], found["items_checked_for_overlap"]) == (1, 2)
