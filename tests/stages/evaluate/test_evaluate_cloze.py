"""The cloze task: made from held-out text of any script, the same each time, honest choices."""

import pytest

from teenytinyllama import synthetic
from teenytinyllama.artifacts.documents import Document
from teenytinyllama.settings.datasets import Task
from teenytinyllama.stages.evaluate.cloze import NUM_CHOICES, cloze_rows
from teenytinyllama.stages.evaluate.suites import load_benchmarks


def documents(language: str, number: int = 60) -> list[Document]:
    made = synthetic.documents(num_documents=number, language=language)
    return [Document(one.id, one.text, "made", "Apache-2.0") for one in made]


@pytest.mark.parametrize("language", ["pt", "gl", "bn"])
def test_items_come_from_the_text_and_choices_from_its_endings(language: str) -> None:
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


def test_the_same_text_gives_the_same_items_and_a_seed_others() -> None:
    heldout = documents("gl")
    assert cloze_rows(heldout, 30, 0) == cloze_rows(heldout, 30, 0)
    assert cloze_rows(heldout, 30, 0) != cloze_rows(heldout, 30, 1)


def test_a_benchmark_of_them_and_none_where_no_sentence_fits(
    capfd: pytest.CaptureFixture[str],
) -> None:
    task = Task(name="lacunas", kind="cloze", num_items=20)
    (found,) = load_benchmarks((task,), "bn", documents("bn"))
    assert (found.name, len(found.scored_items), found.chance) == ("lacunas", 20, 0.25)
    assert load_benchmarks((task,), "bn", [Document("a", "short.", "s", "x")]) == []
    assert "left out" in capfd.readouterr().err
