"""Copies of held-out documents and contaminated items, by n-grams."""

from __future__ import annotations

from teenytinyllama.stages.evaluate.contamination import ContaminationCheck, item_parts


def words(start: int, count: int) -> str:
    return " ".join(f"palavra{i}" for i in range(start, start + count))


def test_case_and_punctuation_do_not_hide_an_exact_copy():
    check = ContaminationCheck()
    check.add_heldout("same", "O gato, que mora AQUI; dorme.")
    check.add_heldout("other", "O gato, que mora ali, dorme.")
    overlap, _ = check.read_training(["o gato que mora aqui dorme"])
    assert (overlap.num_documents, overlap.num_exact, overlap.num_near) == (2, 1, 0)
    assert overlap.examples == ["same"]


def test_document_mostly_in_one_training_document_is_a_near_copy():
    """104 words have 100 5-grams; the training text shares 85 of them, or 75."""
    check = ContaminationCheck()
    check.add_heldout("near", words(0, 104))
    overlap, _ = check.read_training([words(0, 89) + " outro fim"])
    assert (overlap.num_exact, overlap.num_near) == (0, 1)
    check = ContaminationCheck()
    check.add_heldout("far", words(0, 104))
    overlap, _ = check.read_training([words(0, 79) + " outro fim"])
    assert (overlap.num_exact, overlap.num_near) == (0, 0)


def test_copy_with_every_50th_word_changed_is_a_near_copy():
    check = ContaminationCheck()
    check.add_heldout("copy", words(0, 500))
    changed = words(0, 500).split()
    changed[49::50] = ["outra"] * 10
    overlap, _ = check.read_training([" ".join(changed)])
    assert (overlap.num_exact, overlap.num_near) == (0, 1)


def test_ngrams_from_many_training_documents_are_not_a_copy():
    check = ContaminationCheck()
    check.add_heldout("spread", words(0, 112))
    overlap, _ = check.read_training([words(start, 25) for start in range(0, 100, 12)])
    assert overlap.num_near == 0


def test_item_is_contaminated_by_13_words_not_by_12():
    check = ContaminationCheck()
    check.add_item("task", [words(0, 20), "curta"])
    check.add_item("task", [words(100, 20), "curta"])
    check.add_item("task", ["muito curta", "curta"])
    _, found = check.read_training([words(3, 13), words(104, 12) + " fim"])
    assert found["task"].num_items == 3
    assert found["task"].num_contaminated == 1
    assert found["task"].num_too_short == 1
    assert (found["task"].num_checked, found["task"].fraction) == (2, 1 / 2)


def test_share_is_none_where_no_item_could_be_checked():
    check = ContaminationCheck()
    check.add_item("task", ["muito curta"])
    _, found = check.read_training(["muito curta"])
    assert (found["task"].num_too_short, found["task"].fraction) == (1, None)


ITEM = {"question": words(0, 8), "choices": ["nada", words(8, 7)], "gold": 1}


def test_ngram_may_span_question_and_right_answer():
    """Eight words of question and seven of answer: neither has a 13-gram alone."""
    check = ContaminationCheck()
    check.add_item("right", item_parts(ITEM))
    check.add_item("wrong", item_parts({**ITEM, "gold": 0}))
    check.add_item("word", item_parts({"context": words(0, 14), "target": " palavra14"}))
    check.add_item("raw", item_parts({"pergunta": words(0, 14), "opções": ["a", "b"], "n": 1}))
    _, found = check.read_training([words(1, 13)])
    assert {name: one.num_contaminated for name, one in found.items()} == {
        "right": 1,
        "wrong": 0,
        "word": 1,
        "raw": 1,
    }
    assert found["wrong"].num_too_short == 1


def test_no_training_text_and_no_items():
    overlap, found = ContaminationCheck().read_training([])
    assert (overlap.num_documents, found) == (0, {})
