"""Blocked domains and words."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.corpus_stage import GOOD, Stage, json_lines

from teenytinyllama.settings.data_preparation import FilterSettings
from teenytinyllama.stages.corpus.filters.url_filter import url_reason
from teenytinyllama.stages.corpus.steps import FilterPipeline

PORTUGUESE = (
    "A chuva parou no fim da tarde e os meninos foram para a rua com uma bola nova. "
    "Dona Rosa olhava tudo da janela, enquanto o café esfriava em cima da mesa."
)


def filters(*families: str, **settings: object) -> FilterPipeline:
    return FilterPipeline(FilterSettings(families=families, **settings), "pt")


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
def test_domains_and_words_of_a_url(url: str, reason: str | None) -> None:
    (result,) = filters("address", blocked_domains=("exemplo.com.br",)).apply(
        [PORTUGUESE], urls=[url]
    )
    assert result.reason == reason
    assert url_reason(url, frozenset(), frozenset()) is None


def test_urls_of_records_reach_the_filter(stage: Stage, tmp_path: Path) -> None:
    lines = json_lines(*GOOD[:3]) + json_lines(GOOD[3], url="https://ruim.example/a")
    (tmp_path / "a.jsonl").write_bytes(lines)
    filters = {"families": ["address"], "blocked_domains": ["ruim.example"]}
    left = stage(tmp_path / "a.jsonl", filters=filters)
    assert [texts for texts in left.dropped().values()] == [[GOOD[3]]]
