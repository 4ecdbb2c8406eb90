"""py3langid's probabilities, many texts at once."""

from __future__ import annotations

import pytest

from teenytinyllama.languages.identification import Py3langid

PORTUGUESE = (
    "A chuva parou no fim da tarde e os meninos foram para a rua com uma bola nova. "
    "Dona Rosa olhava tudo da janela, enquanto o café esfriava em cima da mesa."
)
GALICIAN = (
    "A choiva parou ao final da tarde e os nenos saíron á rúa cunha pelota nova. "
    "Dona Rosa ollaba todo desde a fiestra mentres o café arrefriaba enriba da mesa."
)


def test_batched_probabilities_equal_the_librarys() -> None:
    langid = pytest.importorskip("py3langid.langid")
    library = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
    texts = [PORTUGUESE, GALICIAN, PORTUGUESE.upper(), "", "a", "日本語の文", "e\u0301 ção"]
    texts += [PORTUGUESE[:cut] + GALICIAN[:40] for cut in range(0, 120, 10)]
    expected = [dict(library.rank(text))["pt"] for text in texts]
    # The library adds the same float32 numbers in another order.
    assert Py3langid("pt").probabilities(texts) == pytest.approx(expected, abs=1e-4)
    serbian = [dict(library.rank(text))["sr"] for text in texts]  # a label with two columns
    assert Py3langid("sr").probabilities(texts) == pytest.approx(serbian, abs=1e-4)
