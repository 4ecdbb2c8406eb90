"""Each text is dropped by the rule it was written for."""

from __future__ import annotations

import pytest

from teenytinyllama.artifacts.documents import Document
from teenytinyllama.errors import UserError
from teenytinyllama.settings.data_preparation import CorpusSettings, FilterSettings
from teenytinyllama.settings.datasets import Source
from teenytinyllama.stages.corpus.batches import (
    BatchDocument,
    DocumentBatch,
    RawItem,
    StepConfig,
)
from teenytinyllama.stages.corpus.filters import heuristic_rules, rule_filters
from teenytinyllama.stages.corpus.filters.rule_filters import (
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from teenytinyllama.stages.corpus.steps import FilterPipeline

PROSE = (
    "A chuva parou no fim da tarde e os meninos foram para a rua com uma bola nova.\n"
    "Dona Rosa olhava tudo da janela, enquanto o café esfriava em cima da mesa.\n"
    "Ninguém sabia dizer quem tinha deixado aquele baú antigo na porta da escola.\n"
    "O professor abriu a tampa devagar: dentro havia cartas, fotografias e um relógio parado."
)


WORD_RULES = ("repetition", "fineweb", "quality")


def reason(text: str, **settings: object) -> str | None:
    filters = FilterPipeline(FilterSettings(**{"families": WORD_RULES, **settings}), "pt")
    (result,) = filters.apply([text])
    return result.reason


def numbered(pattern: str, count: int) -> str:
    """`count` lines that differ in one word."""
    names = [a + b for a in "bcdfglmnprst" for b in ("ala", "elo", "ido", "ora", "uma")]
    return "\n".join(pattern.format(names[i]) for i in range(count))


def test_prose_is_kept() -> None:
    assert reason(PROSE) is None


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        ("empty", ""),
        ("empty", " \n\t\n "),
        ("dup_line_frac", PROSE + "\n" + "\n".join(PROSE.splitlines()[:2])),
        ("top_2_gram", "bom dia " * 40 + PROSE.replace("\n", " ")),
        ("gopher_short_doc", "O gato dormiu na casa da vizinha e não voltou mais."),
        ("line_punct_ratio", PROSE.replace(".", "").replace("\n", " na\n")),
        ("list_ratio", PROSE.replace(" ", "\n").replace(".", "").replace("a\n", "a.\n")),
        ("gopher_above_avg_threshold", numbered("Inconstitucionalissimamente{} de que.", 30)),
        ("gopher_too_many_hashes", PROSE + " #" * 12),
        ("gopher_too_many_ellipsis", PROSE.replace(" ", " … ", 12)),
        ("gopher_too_many_bullets", "- " + PROSE.replace("\n", "\n- ")),
        ("gopher_too_many_end_ellipsis", PROSE.replace(".\n", "...\n")),
        ("gopher_below_alpha_threshold", PROSE + " 7 31 9,5 +" * 25),
        (
            "gopher_enough_stop_words",
            "Rainy afternoons brought children into muddy streets with bright footballs.\n"
            "Grandmother watched everything through her kitchen window while coffee cooled.\n"
            "Nobody knew who left that ancient wooden trunk beside their school gate.\n"
            "Slowly their teacher opened it: letters, photographs, pocket watches, coins inside.",
        ),
    ],
)
def test_each_text_is_dropped_by_its_rule(expected: str, text: str) -> None:
    family = next(
        (rule.family for rule in heuristic_rules.RULES if rule.reason == expected), "quality"
    )
    assert reason(text, families=(family,)) == expected


def test_thresholds_of_the_recipe_apply() -> None:
    assert reason(PROSE, thresholds={"short_line_ratio": 0.5}) is None
    short = PROSE.replace(" ", "\n", 3)
    assert reason(short, thresholds={"short_line_ratio": 0.3}) == "short_line_ratio"
    assert reason(PROSE, thresholds={"gopher_long_doc": 50}) == "gopher_long_doc"
    assert reason(PROSE, thresholds={"gopher_below_avg_threshold": 6}) == (
        "gopher_below_avg_threshold"
    )


def test_threshold_on_repeated_runs_is_exact() -> None:
    # "aa bb cc dd ee" occurs twice: the second time is 10 of 35 characters.
    words = ["aa", "bb", "cc", "dd", "ee", "ff", "aa", "bb", "cc", "dd", "ee", "gg"]
    text = " ".join(words)
    assert len(text) == 35
    settings = {"families": ("repetition",), "without": ("top_2_gram", "top_3_gram", "top_4_gram")}
    at_most = {"duplicated_5_n_grams": 10 / 35}
    assert reason(text, thresholds=at_most, **settings) is None
    below = {"duplicated_5_n_grams": 10 / 35 - 1e-9}
    assert reason(text, thresholds=below, **settings) == "duplicated_5_n_grams"


def test_top_run_is_the_first_of_equals_as_in_datatrove() -> None:
    # "a b" and "ccc ddd" both occur twice: "a b" came first, 2 times 3 characters.
    words = ["a", "b", "ccc", "ddd", "e", "a", "b", "f", "ccc", "ddd"]
    text = " ".join(words)
    limit = {"top_2_gram": 6 / len(text)}
    settings = {"families": ("repetition",), "without": ("top_3_gram", "top_4_gram")}
    assert reason(text, thresholds=limit, **settings) is None
    limit = {"top_2_gram": 6 / len(text) - 1e-9}
    assert reason(text, thresholds=limit, **settings) == "top_2_gram"


def test_scores_hold_the_value_that_dropped_the_text() -> None:
    (result,) = FilterPipeline(FilterSettings(without=("top_2_gram", "top_3_gram")), "pt").apply(
        [PROSE + "\n" + "\n".join(PROSE.splitlines()[:2])]
    )
    assert result.scores["dup_line_frac"] == round(2 / 6, 4)


def test_unknown_rules_and_languages_are_errors() -> None:
    with pytest.raises(UserError, match=r'no rule has the name "top_2_grams".*"top_2_gram"'):
        FilterPipeline(FilterSettings(without=("top_2_grams",)), "pt")
    with pytest.raises(UserError, match=r"languages/zz/filters\.toml"):
        FilterPipeline(FilterSettings(), "zz")


def test_language_without_thresholds_names_the_command() -> None:
    with pytest.raises(UserError) as error:
        FilterPipeline(FilterSettings(), "yo")
    assert error.value.code == "language-without-filters"
    assert "--clean-sample" in error.value.fix
    learned = FilterSettings(thresholds={"gopher_short_doc": 3.0}, families=("quality",))
    assert FilterPipeline(learned, "yo").apply(["ọmọ náà"])[0].reason == "gopher_short_doc"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each measurement was of, so far."""
    sizes: list[int] = []
    whole = rule_filters.measure_batch

    def counted(texts: list[str], *given: object, **named: object) -> object:
        sizes.append(len(texts))
        return whole(texts, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(rule_filters, "measure_batch", counted)
    return sizes


def test_three_filters_share_one_measurement(measured: list[int]) -> None:
    filters = FilterPipeline(FilterSettings(families=WORD_RULES), "pt")
    assert len(filters.steps) == 4  # these three and `EmptyText`
    texts = [PROSE, "bom dia " * 40, PROSE.replace(".", "").replace("\n", " na\n"), "", PROSE]
    reasons = [result.reason for result in filters.apply(texts)]
    assert reasons == [None, "top_2_gram", "line_punct_ratio", "empty", None]
    assert measured == [4]


def test_an_edit_voids_the_measurement(measured: list[int]) -> None:
    source = Source(kind="files", path="-")
    config = StepConfig(CorpusSettings(sources=(source,)), "pt")
    documents = [
        BatchDocument(RawItem("", 1, 0, b""), document=Document("", PROSE, "", ""))
        for _ in range(3)
    ]
    batch = DocumentBatch(source, "", documents)
    GopherRepetitionFilter(config).apply(batch)
    FineWebQualityFilter(config).apply(batch)
    assert measured == [3]
    batch.edit(documents[1], "O gato dormiu na casa da vizinha e não voltou mais.")
    GopherQualityFilter(config).apply(batch)
    assert measured == [3, 3]
    assert [one.reason for one in documents] == ["", "gopher_short_doc", ""]
