"""`--explain` and `--calibrate`."""

from pathlib import Path

import pytest

from teenytinyllama.artifacts.documents import Document, DocumentWriter
from teenytinyllama.errors import UserError
from teenytinyllama.settings.data_preparation import CorpusSettings, FilterSettings
from teenytinyllama.settings.datasets import Source
from teenytinyllama.settings.recipe import Recipe
from teenytinyllama.stages.corpus import inspect_command
from teenytinyllama.stages.corpus.filters.calibration import calibrate, read_clean
from teenytinyllama.stages.corpus.inspection import what_rules_say

PROSE = (
    "A chuva parou no fim da tarde e os meninos foram para a rua com uma bola nova.\n"
    "Dona Rosa olhava tudo da janela, enquanto o café esfriava em cima da mesa."
)


def recipe(**filters: object) -> Recipe:
    settings = FilterSettings(**{"families": ("repetition", "fineweb", "quality"), **filters})
    source = Source(kind="storybook")
    return Recipe(name="r", corpus=CorpusSettings(sources=(source,), filters=settings))


def write(folder: Path, stem: str, *documents: Document) -> None:
    with DocumentWriter(folder, stem) as writer:
        for document in documents:
            writer.write(document)


def test_explain_shows_every_rule_and_the_one_that_drops(tmp_path: Path) -> None:
    short = Document("b:2", "Bom dia a todos.", "jornal", "CC0-1.0", url="https://a.br/x")
    write(tmp_path, "train", Document("a:1", PROSE, "livro", "CC0-1.0"))
    write(tmp_path / "dropped" / "gopher_short_doc", "part", short)
    shown = inspect_command.explain(recipe(thresholds={"gopher_short_doc": 20}), tmp_path, "b:2")
    assert "stands in  dropped/gopher_short_doc" in shown
    assert "drop it: top_2_gram" in shown  # "Bom dia" is 7 of 16 characters
    assert "top_2_gram                         0.4375  <= 0.25    DROPS" in shown
    assert "gopher_short_doc                   4.0000  >= 20      DROPS" in shown
    assert "dup_para_frac                      0.0000  off        -" in shown
    assert "address    https://a.br/x" in shown
    kept = inspect_command.explain(recipe(thresholds={"gopher_short_doc": 20}), tmp_path, "a:1")
    assert "stands in  train" in kept
    assert "keep it" in kept
    assert "DROPS" not in kept


def test_explain_says_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `ttl corpus RECIPE` first"):
        inspect_command.explain(recipe(), tmp_path, "a:1")
    write(tmp_path, "train", Document("a:1", PROSE, "livro", "CC0-1.0"))
    with pytest.raises(UserError, match=r"no document.*has this id.*ids look like: a:1"):
        inspect_command.explain(recipe(), tmp_path, "a:9")


def test_rules_are_said_in_the_order_in_which_they_judge() -> None:
    said = what_rules_say(PROSE, recipe().corpus.filters, "pt")  # type: ignore[union-attr]
    assert [one.reason for one in said][:3] == [
        "dup_para_frac",
        "dup_para_char_frac",
        "dup_line_frac",
    ]
    assert len(said) == 27


def test_calibrate_takes_the_outer_hundredth() -> None:
    # 200 documents of ten words of letters and 0 to 199 numbers: n / (n + 10) without a letter.
    # At most 2 of 200 may go: the threshold is the second lowest share, 10 / (10 + 198).
    documents = ["ai ei oi ui eu ou au iu ia ie" + " 7" * number for number in range(200)]
    found = calibrate(documents, FilterSettings(), "pt")
    assert found.num_documents == 200
    assert found.thresholds["gopher_below_alpha_threshold"] == 0.048  # 10 / 208, rounded down
    assert found.thresholds["gopher_short_doc"] == 40  # length is not learnt
    lowest = sorted(10 / (10 + number) for number in range(200))
    assert [share < 0.048 for share in lowest[:3]] == [True, False, False]


def test_a_plain_text_becomes_documents_between_paragraphs(tmp_path: Path) -> None:
    path = tmp_path / "clean.txt"
    path.write_text("\n\n".join([PROSE] * 30), encoding="utf-8")
    documents = read_clean(path)
    assert [len(text.split("\n\n")) for text in documents] == [4, 10, 16]
    shown = inspect_command.calibrate(recipe(), path)
    assert shown.startswith("# Learnt from 3 clean documents")
    assert "[thresholds.fast]" in shown


def test_a_clean_sample_that_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="calibrate-unreadable"):
        read_clean(tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(UserError, match="calibrate-empty"):
        read_clean(tmp_path / "empty.txt")
