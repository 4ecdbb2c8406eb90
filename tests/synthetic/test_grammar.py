"""Agreement rules on the words where they differ."""

import pytest

from teenytinyllama.synthetic.grammar import adjective, article, conjugate, contract, gerund, plural


@pytest.mark.parametrize(
    ("preposition", "following", "joined"),
    [
        ("de", "o sapo", "do sapo"),
        ("em", "a ilha", "na ilha"),
        ("por", "os campos", "pelos campos"),
        ("por", "a praia", "pela praia"),
        ("a", "o vale", "ao vale"),
        ("a", "as ilhas", "às ilhas"),
        ("em", "um vale", "num vale"),
        ("de", "ele", "dele"),
        ("a", "ela", "a ela"),
        ("de", "Olívia", "de Olívia"),
    ],
)
def test_contractions(preposition: str, following: str, joined: str) -> None:
    assert contract(preposition, following) == joined


@pytest.mark.parametrize(
    ("singular", "expected"),
    [
        ("anel", "anéis"),
        ("barril", "barris"),
        ("caracol", "caracóis"),
        ("guarda-chuva", "guarda-chuvas"),
        ("botão", "botões"),
        ("mão", "mãos"),
        ("bolo de cenoura", "bolos de cenoura"),
        ("cruz", "cruzes"),
        ("japonês", "japoneses"),
        ("viagem", "viagens"),
    ],
)
def test_plurals(singular: str, expected: str) -> None:
    assert plural(singular) == expected


def test_adjectives_and_articles_agree() -> None:
    assert [adjective(word, "f") for word in ("novo", "trabalhador", "azul", "rosa", "bom")] == [
        "nova",
        "trabalhadora",
        "azul",
        "rosa",
        "boa",
    ]
    assert adjective("pequeno", "f", is_plural=True) == "pequenas"
    assert article("f", definite=False, is_plural=True) == "umas"


@pytest.mark.parametrize(
    ("verb", "tense", "person", "form"),
    [
        ("morar", "imperfect", "ele", "morava"),
        ("chegar", "preterite", "eu", "cheguei"),
        ("começar", "preterite", "eu", "comecei"),
        ("conhecer", "present", "eu", "conheço"),
        ("conhecer", "imperfect", "eles", "conheciam"),
        ("ser", "imperfect", "ele", "era"),
        ("fazer móveis", "present", "ele", "faz móveis"),
        ("fazer", "imperfect", "ele", "fazia"),
        ("ler gibis", "present", "ele", "lê gibis"),
        ("dormir", "preterite", "eles", "dormiram"),
        ("sentir", "present", "eu", "sinto"),
    ],
)
def test_verb_forms(verb: str, tense: str, person: str, form: str) -> None:
    assert conjugate(verb, tense, person) == form


def test_gerund() -> None:
    assert gerund("contar histórias") == "contando histórias"
