"""The arrays decide as the plain rules do."""

from __future__ import annotations

import random

import pytest

from teenytinyllama.settings.data_preparation import FilterSettings
from teenytinyllama.stages.corpus.filters import heuristic_rules
from teenytinyllama.stages.corpus.filters.language_data import language_data
from teenytinyllama.stages.corpus.filters.rule_filters import thresholds_for
from teenytinyllama.stages.corpus.filters.word_table import words_of
from teenytinyllama.stages.corpus.steps import FilterPipeline

PROSE = (
    "A chuva parou no fim da tarde e os meninos foram para a rua com uma bola nova.\n"
    "Dona Rosa olhava tudo da janela, enquanto o café esfriava em cima da mesa.\n"
    "Ninguém sabia dizer quem tinha deixado aquele baú antigo na porta da escola.\n"
    "O professor abriu a tampa devagar: dentro havia cartas, fotografias e um relógio parado."
)


WORD_RULES = ("repetition", "fineweb", "quality")


def plain_reason(text: str, filters: FilterSettings) -> str | None:
    """The reason by `heuristic_rules.measure`."""
    if not text.strip():
        return "empty"
    words = words_of(text, filters.words, "pt")
    stop_words = language_data(filters, "pt").stop_words
    values = heuristic_rules.measure(text, words, stop_words)
    by_reason = {rule.reason: rule for rule in heuristic_rules.RULES}
    for name, threshold in thresholds_for(filters, "pt").items():
        if by_reason[name].drops(values[name], threshold):
            return name
    return None


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


@pytest.mark.parametrize("words", ["fast", "spacy"])
def test_arrays_decide_as_the_plain_rules_do(words: str) -> None:
    if words == "spacy":
        pytest.importorskip("spacy", reason="pip install 'teenytinyllama[spacy]'")
    everything = {
        "dup_para_frac": 0.3, "dup_para_char_frac": 0.2, "dup_line_char_frac": 0.2,
        "short_line_ratio": 0.9, "gopher_short_doc": 20, "list_ratio": 0.4,
    }  # fmt: skip
    filters = FilterSettings(words=words, thresholds=everything, families=WORD_RULES)
    texts = [*random_texts(150, seed=1), PROSE, "\n" + PROSE + "\n", "\n", "a"]
    found = [result.reason for result in FilterPipeline(filters, "pt").apply(texts)]
    assert found == [plain_reason(text, filters) for text in texts]
    assert len(set(found)) > 8  # the texts reach many rules
