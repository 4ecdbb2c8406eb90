"""C4's rules: the reason for each, and the text that is left."""

from __future__ import annotations

import pytest

from teenytinyllama.settings.data_preparation import FilterSettings
from teenytinyllama.stages.corpus.filters.c4_filter import apply_c4
from teenytinyllama.stages.corpus.filters.language_data import load_language
from teenytinyllama.stages.corpus.steps import FilterPipeline


def filters(*families: str, **settings: object) -> FilterPipeline:
    return FilterPipeline(FilterSettings(families=families, **settings), "pt")


SIX = "Uma frase de teste.\nOutra frase de teste.\nMais uma frase aqui.\nE a quarta frase.\n"
SIX += "Depois vem a quinta.\nPor fim a sexta."


@pytest.mark.parametrize(
    ("extra", "reason", "left"),
    [
        ("", None, SIX),
        ("\nLeia a nossa política de privacidade agora.", None, SIX),
        ("\nAtive o JavaScript para ver.", None, SIX),
        ("\nMenu principal", None, SIX),
        ("\n" + "x" * 1001 + " duas três.", None, SIX),
        ("\nFoi assim em 1822.[3]", None, SIX + "\nFoi assim em 1822."),
        ("\nLorem ipsum dolor sit.", "lorem_ipsum", None),
        ("\nfunction a() { return b }", "curly_bracket", None),
    ],
)
def test_lines_are_removed_or_drop_the_text(
    extra: str, reason: str | None, left: str | None
) -> None:
    (result,) = filters(c4="lines").apply([SIX + extra])
    assert (result.reason, result.text) == (reason, left or SIX + extra)


def test_sentences_are_counted_and_marks_required() -> None:
    four = "\n".join(SIX.splitlines()[:4])
    assert filters(c4="lines").apply([four])[0].reason == "too_few_sentences"
    with_title = "Um título sem ponto\n" + SIX
    assert filters(c4="lines").apply([with_title])[0].text == with_title
    assert filters(c4="sentences").apply([with_title])[0].text == SIX


def test_a_danda_ends_a_sentence() -> None:
    text = "\n".join(["সে আজ বাড়ি এল।"] * 5)
    assert apply_c4(text, load_language("bn"), "sentences") == (None, text)
