"""The lists of steps, what runs them, and the filters alone on texts."""

from __future__ import annotations

import pickle
import random
from collections import Counter
from collections.abc import Iterator
from functools import cache

import pytest

from teenytinyllama.errors import UserError
from teenytinyllama.settings.data_preparation import CorpusSettings, FilterSettings
from teenytinyllama.settings.datasets import Source
from teenytinyllama.stages.corpus.batches import RawBatch, RawItem, StepConfig
from teenytinyllama.stages.corpus.steps import (
    CORPUS_STEPS,
    DOCUMENT_STEPS,
    DocumentProcessor,
    FilterPipeline,
    process_all,
)
from teenytinyllama.synthetic import dataset as synthetic

PROSE = (
    "A chuva parou no fim da tarde e os meninos foram para a rua com uma bola nova.\n"
    "Dona Rosa olhava tudo da janela, enquanto o café esfriava em cima da mesa.\n"
    "Ninguém sabia dizer quem tinha deixado aquele baú antigo na porta da escola.\n"
    "O professor abriu a tampa devagar: dentro havia cartas, fotografias e um relógio parado."
)


WORD_RULES = ("repetition", "fineweb", "quality")


def random_texts(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    vocabulary = [
        "a",
        "de",
        "que",
        "casa",
        "rio",
        "menino",
        "—",
        "…",
        "...",
        "#",
        "1,5",
        "d'água",
        "guarda-chuva",
        ".",
        ",",
        "e",
        "foi",
        "na",
    ]
    vocabulary += [
        "São",
        "ÉGUA",
        "x" * 30,
        "\u00a0",
        "\x1c",
        "日本語",
        "😀",
        "e\u0301",
        "_",
        "«Sim»",
    ]
    texts = []
    for _ in range(count):
        some = rng.sample(vocabulary, rng.randint(2, len(vocabulary)))
        words = rng.choices(some, k=rng.choice([1, 3, 30, 120, 400]))
        marks = rng.choices([" ", " ", " ", "\n", "\n\n", "", "  ", ".\n"], k=len(words))
        texts.append("".join(w + m for w, m in zip(words, marks, strict=True)))
    return texts


def test_result_does_not_depend_on_the_other_texts() -> None:
    filters = FilterPipeline(FilterSettings(families=WORD_RULES), "pt")
    texts = random_texts(60, seed=2)
    together = filters.apply(texts)
    assert together == [filters.apply([text])[0] for text in texts]
    assert together == pickle.loads(pickle.dumps(filters)).apply(texts)


@pytest.mark.parametrize("words", ["fast", "spacy"])
def test_strange_texts_get_a_result(words: str) -> None:
    if words == "spacy":
        pytest.importorskip("spacy", reason="pip install 'teenytinyllama[spacy]'")
    filters = FilterPipeline(FilterSettings(words=words, families=WORD_RULES), "pt")
    texts = [
        "a " * 200_000,
        "x" * 10**6,
        "\0" * 50,
        "abc \ud800 def " * 9,
        "\n" * 10**5 + "a",
        "😀 " * 99,
    ]
    reasons = [result.reason for result in filters.apply(texts)]
    assert reasons[0] == "top_2_gram"
    assert None not in reasons


@cache
def stories(language: str) -> list[str]:
    return [one.text for one in synthetic.documents(num_documents=150, language=language)]


@pytest.mark.parametrize("language", ["gl", "bn"])
def test_clean_text_is_kept_and_other_languages_are_dropped(language: str) -> None:
    filters = FilterPipeline(FilterSettings(), language)
    reasons = Counter(result.reason for result in filters.apply(stories(language)))
    assert reasons[None] >= 0.93 * 150
    assert reasons["language"] == 0
    for other in {"pt", "gl", "bn"} - {language}:
        assert {result.reason for result in filters.apply(stories(other))} == {"language"}


@pytest.mark.parametrize("language", ["gl", "bn"])
def test_rubbish_in_the_language_is_dropped(language: str) -> None:
    filters = FilterPipeline(FilterSettings(), language)
    sentence = stories(language)[0].partition("\n")[0]
    menu = "\n".join(sentence.split() * 8)
    results = filters.apply([" ".join([sentence] * 30), menu])
    assert [result.reason for result in results] != [None, None]
    assert all(result.reason not in (None, "language") for result in results)


def test_lists_are_in_the_documented_order() -> None:
    order = [step.__name__ for step in DOCUMENT_STEPS]
    edits = ["CleanText", "BoilerplateRemoval", "C4Filter"]
    measured = ["GopherRepetitionFilter", "FineWebQualityFilter", "GopherQualityFilter"]
    assert [name for name in order if name in edits + measured] == edits + measured
    assert order[order.index(measured[0]) :][:3] == measured
    assert [step.__name__ for step in CORPUS_STEPS] == [
        "ExactDuplicates",
        "UniqueIds",
        "NearDuplicates",
        "QualitySelection",
        "Split",
        "Mixture",
        "RepeatedParagraphs",
        "ExactDuplicates",
    ]


def config(**settings: object) -> StepConfig:
    source = Source(kind="files", path="-", license="CC0-1.0")
    return StepConfig(CorpusSettings(sources=(source,), **settings), "pt")


def raw_batches(num_batches: int) -> Iterator[RawBatch]:
    """Batches of five texts, of a bad record and of one that is too short."""
    texts = [*random_texts(num_batches * 4, seed=3)]
    for number in range(num_batches):
        rows = [{"text": PROSE + f" {number}."}]
        rows += [{"text": text} for text in texts[number * 4 : number * 4 + 4]]
        rows += [{"text": None}, {"text": "Oi."}]
        items = [RawItem("a.jsonl", k, 0, row) for k, row in enumerate(rows, start=1)]
        yield RawBatch(0, "lines", items)


def test_a_batch_keeps_its_order_and_counts_what_each_step_drops() -> None:
    (raw,) = raw_batches(1)
    batch = DocumentProcessor(config()).apply(raw)
    assert [one.item.line for one in batch.documents] == [1, 2, 3, 4, 5, 6, 7]
    assert [one.reason for one in batch.documents[5:]] == ["text-null", "too-short"]
    assert batch.dropped_by["ExtractText"] == 1
    assert batch.dropped_by.total() == sum(bool(one.reason) for one in batch.documents)


def test_a_pool_gives_the_batches_of_one_process_in_order() -> None:
    alone = list(process_all(raw_batches(9), config(), num_workers=0))
    assert list(process_all(raw_batches(9), config(), num_workers=2)) == alone


def test_an_error_of_the_user_arrives_from_a_worker() -> None:
    wrong = config(filters=FilterSettings(without=("no_rule",)))
    with pytest.raises(UserError, match="filter-unknown"):
        list(process_all(raw_batches(1), wrong, num_workers=1))


def test_each_source_is_filtered_in_its_own_language() -> None:
    """Recipe in Galician; its thresholds, which drop everything here, are not the helper's."""
    ours = Source(kind="files", path="a", license="CC0-1.0")
    helper = ours.model_copy(update={"path": "b", "language": "pt"})
    loose = FilterSettings()
    strict = FilterSettings(thresholds={"gopher_short_doc": 10_000})
    items = {
        code: [RawItem("a.jsonl", k, 0, {"text": text}) for k, text in enumerate(stories(code))]
        for code in ("gl", "pt")
    }

    def reasons(filters: FilterSettings, second: Source, code: str, place: int) -> Counter[str]:
        settings = CorpusSettings(sources=(ours, second), filters=filters)
        processor = DocumentProcessor(StepConfig(settings, "gl"))
        batch = processor.apply(RawBatch(place, "lines", items[code]))
        return Counter(one.reason for one in batch.documents)

    assert reasons(loose, helper, "gl", 0)[""] >= 0.93 * 150
    assert reasons(loose, helper, "pt", 0) == {"language": 150}
    assert reasons(loose, ours, "pt", 1) == {"language": 150}
    in_portuguese = reasons(loose, helper, "pt", 1)
    assert in_portuguese[""] >= 0.9 * 150
    assert reasons(strict, helper, "pt", 1) == in_portuguese
    assert reasons(strict, helper, "gl", 0)["gopher_short_doc"] >= 0.93 * 150
    same = ours.model_copy(update={"language": "gl"})
    assert reasons(loose, same, "gl", 1) == reasons(loose, ours, "gl", 1)


def test_a_pool_filters_each_source_in_its_own_language() -> None:
    ours = Source(kind="files", path="a", license="CC0-1.0")
    helper = ours.model_copy(update={"path": "b", "language": "pt"})
    mixed = StepConfig(CorpusSettings(sources=(ours, helper)), "gl")
    batches = [
        RawBatch(place, "lines", [RawItem("a.jsonl", 1, 0, {"text": text})])
        for place, code in enumerate(("gl", "pt"))
        for text in stories(code)[:5]
    ]
    alone = list(process_all(batches, mixed, num_workers=0))
    assert list(process_all(batches, mixed, num_workers=2)) == alone
    assert {one.entries[0].reason for one in alone} == {""}
