"""The cloze task: items from held-out text of any script, the same each time."""

import random

import pytest
from icu4py.breakers import WordBreaker
from support import script_texts

from teenytinyllama.artifacts.documents import Document
from teenytinyllama.settings.datasets import Task
from teenytinyllama.stages.evaluate.cloze import NUM_CHOICES, cloze_rows
from teenytinyllama.stages.evaluate.suites import load_benchmarks
from teenytinyllama.synthetic import dataset as synthetic


def documents(language: str, number: int = 60) -> list[Document]:
    made = synthetic.documents(num_documents=number, language=language)
    return [Document(one.id, one.text, "made", "Apache-2.0") for one in made]


@pytest.mark.parametrize("language", ["pt", "gl", "bn"])
def test_right_choice_continues_the_text_and_wrong_ones_do_not(language: str) -> None:
    heldout = documents(language)
    rows = cloze_rows(heldout, 50, 0)
    assert len(rows) == 50
    whole = "\n".join(one.text for one in heldout)
    for row in rows:
        right = row["choices"][row["answer"]]
        assert f"{row['question']} {right}" in whole
        assert len(set(row["choices"])) == NUM_CHOICES
        assert not any(f"{row['question']} {w}" in whole for w in row["choices"] if w != right) or (
            whole.count(row["question"]) > 1
        )
    places = [row["answer"] for row in rows]
    assert all(places.count(place) >= 3 for place in range(NUM_CHOICES))


@pytest.mark.parametrize("language", ["th", "zh", "km", "ja"])
def test_words_without_spaces_end_their_sentence(language: str) -> None:
    rng = random.Random(1)
    texts = [script_texts.text_of(language, rng, 600) for _ in range(60)]
    rows = cloze_rows([Document(str(i), t, "made", "x") for i, t in enumerate(texts)], 40, 0)
    assert len(rows) == 40
    for row in rows:
        right = row["choices"][row["answer"]]
        assert f"{row['question']}{right}" in "\n".join(texts)
        assert right in WordBreaker(f"{row['question']}{right}", "root")


def test_items_depend_on_text_and_seed_only() -> None:
    heldout = documents("gl")
    assert cloze_rows(heldout, 30, 0) == cloze_rows(heldout, 30, 0)
    assert cloze_rows(heldout, 30, 0) != cloze_rows(heldout, 30, 1)


def test_benchmark_is_left_out_where_no_sentence_fits(
    capfd: pytest.CaptureFixture[str],
) -> None:
    task = Task(name="lacunas", kind="cloze", num_items=20)
    (found,) = load_benchmarks((task,), "bn", documents("bn"))
    assert (found.name, len(found.scored_items), found.chance) == ("lacunas", 20, 0.25)
    assert load_benchmarks((task,), "bn", [Document("a", "short.", "s", "x")]) == []
    assert "lacunas: left out (held-out text too short for 20)" in capfd.readouterr().err


def test_fewer_items_than_asked_for_is_logged(capfd: pytest.CaptureFixture[str]) -> None:
    task = Task(name="lacunas", kind="cloze", num_items=400)
    (found,) = load_benchmarks((task,), "pt", documents("pt", 8))
    count = len(found.scored_items)
    logged = capfd.readouterr().err
    assert f"lacunas: only {count} items (held-out text too short for 400)" in logged
