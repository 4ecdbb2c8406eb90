"""Language identification, and which documents it drops."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from teenytinyllama.errors import UserError
from teenytinyllama.settings.data_preparation import FilterSettings
from teenytinyllama.stages.corpus.steps import FilterPipeline

PORTUGUESE = (
    "A chuva parou no fim da tarde e os meninos foram para a rua com uma bola nova. "
    "Dona Rosa olhava tudo da janela, enquanto o café esfriava em cima da mesa."
)


OTHERS = {
    "galician": (
        "A choiva parou ao final da tarde e os nenos saíron á rúa cunha pelota nova. "
        "Dona Rosa ollaba todo desde a fiestra mentres o café arrefriaba enriba da mesa."
    ),
    "spanish": (
        "La lluvia paró al final de la tarde y los niños salieron a la calle con una pelota. "
        "Doña Rosa lo miraba todo desde la ventana mientras el café se enfriaba en la mesa."
    ),
    "english": (
        "The rain stopped late in the afternoon and the boys went out with a new ball. "
        "Rose watched everything from the window while her coffee went cold on the table."
    ),
}


def filters(*families: str, **settings: object) -> FilterPipeline:
    return FilterPipeline(FilterSettings(families=families, **settings), "pt")


@pytest.mark.parametrize("name", OTHERS)
def test_other_languages_are_dropped(name: str) -> None:
    pytest.importorskip("py3langid")
    ours, other = filters("language").apply([PORTUGUESE, OTHERS[name]])
    assert (ours.reason, other.reason) == (None, "language")
    assert ours.scores["language"] > 0.5 > other.scores["language"]


def test_the_middle_of_a_long_text_decides_its_language() -> None:
    pytest.importorskip("py3langid")
    text = OTHERS["english"] + " " + PORTUGUESE * 20 + " " + OTHERS["english"]
    assert filters("language").apply([text])[0].reason is None


class FakeModel:
    """Answers as a fastText model does: pairs of probability and label."""

    f: FakeModel

    def __init__(self) -> None:
        self.f = self

    def get_labels(self) -> list[str]:
        return ["__label__por_Latn", "__label__glg_Latn"]

    def predict(self, line: str, k: int, threshold: float, on_error: str) -> list:
        assert line.endswith("\n")
        assert line.count("\n") == 1  # fastText reads one line
        ours = 0.9 if " em " in line else 0.7
        return [(ours, "__label__por_Latn"), (1 - ours, "__label__glg_Latn")]


@pytest.fixture
def fake_fasttext(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(load_model=lambda path: FakeModel())
    monkeypatch.setitem(sys.modules, "fasttext", module)


def test_fasttext_model_uses_fineweb2s_threshold(tmp_path: Path, fake_fasttext: None) -> None:
    path = tmp_path / "glotlid.bin"
    path.touch()
    results = filters("language", language_model=str(path)).apply(
        ["O café esfriava\nem cima da mesa.", "O café esfriava."]
    )
    assert [v.scores["language"] for v in results] == [0.9, 0.7]
    assert [v.reason for v in results] == [None, "language"]  # 0.799 is the lowest that stays


def test_missing_language_model_is_an_error(tmp_path: Path, fake_fasttext: None) -> None:
    with pytest.raises(UserError, match=r"language-model-missing|glotlid\.bin"):
        filters("language", language_model=str(tmp_path / "glotlid.bin")).apply([PORTUGUESE])
