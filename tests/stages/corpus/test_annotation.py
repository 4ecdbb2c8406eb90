"""Labels by a large model: the same whatever happens in between, and no more than asked for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.fake_endpoint import answer, endpoint, error

from teenytinyllama import chat_endpoint
from teenytinyllama.chat_endpoint import ChatEndpoint
from teenytinyllama.errors import UserError
from teenytinyllama.settings.data_preparation import CorpusSettings, QualitySettings
from teenytinyllama.stages.corpus.annotation import (
    MAX_CHARACTERS,
    AnnotationSettings,
    annotate,
    draw_samples,
)
from teenytinyllama.stages.corpus.filters.quality import read_labels

pytest.importorskip("openai")


@pytest.fixture(autouse=True)
def few_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_endpoint, "MAX_RETRIES", 0)


@pytest.fixture
def settings(tmp_path: Path) -> CorpusSettings:
    """Two sources, 90 and 10 documents."""
    sources = []
    for name, count in (("livros", 90), ("leis", 10)):
        rows = [
            {"text": f"O texto {name} {n} fala de raposas.", "id": f"{n}"} for n in range(count)
        ]
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        sources.append({"kind": "files", "path": str(path), "license": "CC0-1.0"})
    return CorpusSettings.model_validate_json(json.dumps({"sources": sources}))


def by_number(_: int, body: dict[str, Any]) -> Any:
    """A score that only the text decides."""
    number = int(re.search(r"O texto \w+ (\d+)", body["messages"][0]["content"])[1])  # type: ignore[index]
    return answer(f"Fala de raposas.\nNota: {number % 6}")


def run(settings: CorpusSettings, url: str, out: Path, **wanted: Any):
    client = ChatEndpoint(url, "grande", key_variable="NONE", timeout_s=10)
    return annotate(settings, "pt", client, AnnotationSettings(out, **wanted))


def test_as_many_documents_of_each_source_whatever_their_order(settings: CorpusSettings) -> None:
    samples = draw_samples(settings, "pt", 20, seed=0)
    assert [s.source for s in samples].count("leis") == 10
    other = settings.model_copy(update={"sources": settings.sources[::-1]})
    assert draw_samples(other, "pt", 20, seed=0) == samples
    assert draw_samples(settings, "pt", 20, seed=1) != samples
    assert len({s.text for s in draw_samples(settings, "pt", 1000, seed=0)}) == 100


def test_a_long_document_is_read_up_to_the_end_of_a_word(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "raposa " * 2000, "license": "CC0-1.0"}) + "\n")
    settings = CorpusSettings.model_validate_json(
        json.dumps({"sources": [{"kind": "files", "path": str(path)}]})
    )
    (sample,) = draw_samples(settings, "pt", 20, seed=0)
    assert len(sample.text) <= MAX_CHARACTERS and sample.text.endswith("raposa")


def test_the_corpus_learns_from_what_is_written(settings: CorpusSettings, tmp_path: Path) -> None:
    out = tmp_path / "labels.jsonl"
    with endpoint(by_number) as (url, asked):
        counts = run(settings, url, out, num_documents=40)
    assert counts.total() == len(asked) == 40 and "Texto:" in asked[0]["messages"][0]["content"]
    texts, labels = read_labels(QualitySettings(labels_path=str(out), min_score=2.0))
    assert len(texts) == 40 and set(labels) <= {0, 1, 2, 3, 4, 5}
    assert list(tmp_path.glob("*unscored*")) == []


@pytest.mark.parametrize("cut", [0, 25])
def test_stopped_and_started_again_it_writes_the_same_bytes(
    cut: int, settings: CorpusSettings, tmp_path: Path
) -> None:
    whole, resumed = tmp_path / "whole.jsonl", tmp_path / "resumed.jsonl"
    with endpoint(by_number) as (url, _):
        run(settings, url, whole, num_documents=50)
    with (
        endpoint(lambda n, body: by_number(n, body) if n < 23 else error(500)) as (url, _),
        pytest.raises(UserError, match="endpoint-refused"),
    ):
        run(settings, url, resumed, num_documents=50)
    written = resumed.read_bytes()
    assert 0 < written.count(b"\n") <= 23
    resumed.write_bytes(written[: len(written) - cut])  # as a kill leaves the last line
    with endpoint(by_number) as (url, asked):
        run(settings, url, resumed, num_documents=50)
    assert resumed.read_bytes() == whole.read_bytes()
    assert len(asked) == 50 - written[: len(written) - cut].count(b"\n")


def test_an_answer_without_a_score_is_asked_for_again_and_then_set_aside(
    settings: CorpusSettings, tmp_path: Path
) -> None:
    def reply(number: int, body: dict[str, Any]) -> Any:
        text = body["messages"][0]["content"]
        if "livros 7 " in text or ("livros 8 " in text and body["temperature"] == 0):
            return answer("Não sei.")
        return by_number(number, body)

    out = tmp_path / "labels.jsonl"
    with endpoint(reply) as (url, asked):
        counts = run(settings, url, out, num_documents=100)
    assert (counts["no score"], len(asked)) == (1, 100 + 2 + 1)
    (row,) = map(json.loads, (tmp_path / "labels.unscored.jsonl").read_text().splitlines())
    assert "livros 7 " in row["text"] and row["answer"] == "Não sei."
    with endpoint(reply) as (url, asked):
        assert run(settings, url, out, num_documents=100) == counts
    assert asked == []


def test_nonsense_stops_it_early(settings: CorpusSettings, tmp_path: Path) -> None:
    with endpoint(lambda *_: answer("blá")) as (url, asked):
        with pytest.raises(UserError, match="20 of 20 answers have no score"):
            run(settings, url, tmp_path / "a.jsonl", num_documents=100)
        assert len(asked) < 100


def test_another_model_behind_the_address_stops_it(
    settings: CorpusSettings, tmp_path: Path
) -> None:
    def reply(number: int, body: dict[str, Any]) -> Any:
        return by_number(number, body) if number < 30 else answer("Nota: 1", "outro")

    with (
        endpoint(reply) as (url, _),
        pytest.raises(UserError, match="answers as outro, the labels before are by grande"),
    ):
        run(settings, url, tmp_path / "a.jsonl", num_documents=100, workers=1)


def test_spent_money_stops_it_and_what_is_paid_stays(
    settings: CorpusSettings, tmp_path: Path
) -> None:
    prices = {"usd_read": 1000.0, "usd_written": 0.0, "max_usd": 2.0}  # 0.1 dollars an answer
    with endpoint(by_number) as (url, _), pytest.raises(UserError, match=r"\$2.* are spent"):
        run(settings, url, tmp_path / "a.jsonl", num_documents=100, **prices)
    assert (tmp_path / "a.jsonl").read_text().count("\n") == 20


def test_labels_by_another_rubric_are_not_mixed(settings: CorpusSettings, tmp_path: Path) -> None:
    out = tmp_path / "labels.jsonl"
    out.write_text('{"text": "um", "score": 3, "rubric": "other"}\n')
    with (
        endpoint(by_number) as (url, asked),
        pytest.raises(UserError, match="labels by another rubric"),
    ):
        run(settings, url, out, num_documents=20)
    assert asked == [] and out.read_text().count("\n") == 1


def test_nothing_is_left_where_nothing_was_answered(
    settings: CorpusSettings, tmp_path: Path
) -> None:
    with (
        endpoint(lambda *_: error(401)) as (url, _),
        pytest.raises(UserError, match="endpoint-key"),
    ):
        run(settings, url, tmp_path / "labels.jsonl", num_documents=20)
    assert list(tmp_path.glob("labels*")) == []


def test_a_recipe_without_files_is_one_line() -> None:
    settings = CorpusSettings.model_validate_json('{"sources": [{"kind": "storybook"}]}')
    with pytest.raises(UserError, match="annotate-no-files"):
        draw_samples(settings, "pt", 20, seed=0)
