"""Language, addresses, C4 and boilerplate: the reason for each, and the text that is left."""

import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from teenytinyllama.errors import UserError
from teenytinyllama.settings.data_preparation import FilterSettings, ToxicitySettings
from teenytinyllama.stages.corpus.filters import Boilerplate, BoilerplateCounter, Chain
from teenytinyllama.stages.corpus.filters.language_filter import Py3langid
from teenytinyllama.stages.corpus.filters.url_filter import judge_address

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


def chain(*families: str, **settings: object) -> Chain:
    return Chain(FilterSettings(families=families, **settings), "pt")


@pytest.mark.parametrize("name", OTHERS)
def test_other_languages_go_and_portuguese_stays(name: str) -> None:
    pytest.importorskip("py3langid")
    ours, other = chain("language").judge([PORTUGUESE, OTHERS[name]])
    assert (ours.reason, other.reason) == (None, "language")
    assert ours.scores["language"] > 0.5 > other.scores["language"]


def test_many_texts_at_once_have_the_librarys_probabilities() -> None:
    langid = pytest.importorskip("py3langid.langid")
    library = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
    texts = [PORTUGUESE, *OTHERS.values(), PORTUGUESE.upper(), "", "a", "日本語の文", "e\u0301 ção"]
    texts += [PORTUGUESE[:cut] + OTHERS["galician"][:40] for cut in range(0, 120, 10)]
    expected = [dict(library.rank(text))["pt"] for text in texts]
    # The library adds the same float32 numbers in another order.
    assert Py3langid("pt").probabilities(texts) == pytest.approx(expected, abs=1e-4)
    serbian = [dict(library.rank(text))["sr"] for text in texts]  # a label with two columns
    assert Py3langid("sr").probabilities(texts) == pytest.approx(serbian, abs=1e-4)


def test_the_middle_of_a_long_text_decides_its_language() -> None:
    pytest.importorskip("py3langid")
    text = OTHERS["english"] + " " + PORTUGUESE * 20 + " " + OTHERS["english"]
    assert chain("language").judge([text])[0].reason is None


class FakeModel:
    """Answers as a fastText model does: pairs of probability and label."""

    f: "FakeModel"

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


def test_a_fasttext_model_decides_at_fineweb2s_probability(
    tmp_path: Path, fake_fasttext: None
) -> None:
    path = tmp_path / "glotlid.bin"
    path.touch()
    verdicts = chain("language", language_model=str(path)).judge(
        ["O café esfriava\nem cima da mesa.", "O café esfriava."]
    )
    assert [v.scores["language"] for v in verdicts] == [0.9, 0.7]
    assert [v.reason for v in verdicts] == [None, "language"]  # 0.799 is the lowest that stays


def test_a_language_model_that_is_not_there_is_said(tmp_path: Path, fake_fasttext: None) -> None:
    with pytest.raises(UserError, match=r"language-model-missing|glotlid\.bin"):
        chain("language", language_model=str(tmp_path / "glotlid.bin")).judge([PORTUGUESE])


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://jornal.exemplo.com.br/2024/chuva", "url_domain"),
        ("EXEMPLO.com.br/a", "url_domain"),
        ("https://outroexemplo.com.br/", None),
        ("https://site.br/melhor-cassino-online", "url_word"),
        ("https://site.br/assassino-de-reputacoes", None),
        ("https://[quebrado/", None),
        ("", None),
    ],
)
def test_addresses(url: str, reason: str | None) -> None:
    (verdict,) = chain("address", blocked_domains=("exemplo.com.br",)).judge(
        [PORTUGUESE], urls=[url]
    )
    assert verdict.reason == reason
    assert judge_address(url, frozenset(), frozenset()) is None


SIX = "Uma frase de teste.\nOutra frase de teste.\nMais uma frase aqui.\nE a quarta frase.\n"
SIX += "Depois vem a quinta.\nPor fim a sexta."


@pytest.mark.parametrize(
    ("extra", "reason", "left"),
    [
        ("", None, None),
        ("\nLeia a nossa política de privacidade agora.", None, SIX),
        ("\nAtive o JavaScript para ver.", None, SIX),
        ("\nMenu principal", None, SIX),
        ("\n" + "x" * 1001 + " duas três.", None, SIX),
        ("\nFoi assim em 1822.[3]", None, SIX + "\nFoi assim em 1822."),
        ("\nLorem ipsum dolor sit.", "lorem_ipsum", None),
        ("\nfunction a() { return b }", "curly_bracket", None),
    ],
)
def test_c4_lines(extra: str, reason: str | None, left: str | None) -> None:
    (verdict,) = chain(c4="lines").judge([SIX + extra])
    assert (verdict.reason, verdict.text) == (reason, left)


def test_c4_counts_sentences_and_asks_for_marks() -> None:
    four = "\n".join(SIX.splitlines()[:4])
    assert chain(c4="lines").judge([four])[0].reason == "too_few_sentences"
    with_title = "Um título sem ponto\n" + SIX
    assert chain(c4="lines").judge([with_title])[0].text is None
    assert chain(c4="sentences").judge([with_title])[0].text == SIX


def learn(texts: list[str], fraction: float) -> Boilerplate:
    counter = BoilerplateCounter()
    for text in texts:
        counter.add(text)
    return counter.boilerplate(fraction)


def test_boilerplate_lines_leave_and_rare_lines_stay() -> None:
    menu = "Início | Notícias | Contato"
    texts = [f"  {menu}\nTexto número {n}.\nAssine já!" for n in range(20)]
    texts[0] = "Texto sem menu.\nOutra linha."
    found = learn(texts, 0.5)
    assert found.lines == {menu, "Assine já!"}
    assert found.clean(texts[0]) is None
    assert found.clean(texts[1]) == "Texto número 1."
    copy = pickle.loads(pickle.dumps(found))
    verdicts = chain().judge([*texts[:2], menu, menu], boilerplate=[copy, copy, copy, None])
    assert [(v.reason, v.text) for v in verdicts] == [
        (None, None),
        (None, "Texto número 1."),
        ("empty", ""),
        (None, None),
    ]


def test_a_small_source_has_no_boilerplate() -> None:
    assert learn(["a mesma linha"] * 10, 0.1).lines == frozenset()
    assert learn(["a mesma linha"] * 11, 0.1).lines == {"a mesma linha"}


def test_the_files_that_filters_read_are_named(tmp_path: Path) -> None:
    for name in ("glotlid.bin", "lines.jsonl", "clean.txt"):
        (tmp_path / name).touch()
    toxicity = ToxicitySettings(
        model=str(tmp_path / "lines.jsonl"), clean_path=str(tmp_path / "clean.txt")
    )
    settings = FilterSettings(language_model=str(tmp_path / "glotlid.bin"), toxicity=toxicity)
    found = [path.name for path in settings.local_paths()]
    assert found == ["clean.txt", "glotlid.bin", "lines.jsonl"]
    assert FilterSettings(toxicity=ToxicitySettings()).local_paths() == []
