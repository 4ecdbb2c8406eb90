"""Search and attribution: exact shared runs, nearest examples, marks, and the index in time."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.chat_data import CONVERSATIONS, turn
from support.running_server import running

from teenytinyllama.inference.chat_model import ChatModel
from teenytinyllama.languages.segmentation import word_spans
from teenytinyllama.serving.search.chat_sources import ChatSources, find_chat_sources
from teenytinyllama.serving.search.retriever import build_index
from teenytinyllama.serving.search.search_service import (
    MIN_RUN_WORDS,
    SearchLoader,
    SearchService,
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> SearchService:
    return SearchService(
        build_index(tmp_path_factory.mktemp("x") / "index", CONVERSATIONS, "print", "pt")
    )


def test_an_answer_from_the_data_is_a_match(service: SearchService) -> None:
    found = service.attribution("Sim: a RAPOSA Lila mora na floresta perto do lago.")
    assert found["num_words"] == 10
    assert found["longest_run_words"] == 8  # a raposa lila mora na floresta perto do
    assert found["matched_fraction"] == 0.8
    assert found["answer"] == [
        ("Sim: ", 0),
        ("a RAPOSA Lila mora na floresta perto do", 2),
        (" lago.", 0),
    ]
    first = found["examples"][0]
    assert first["number"] == 0 and first["run_words"] == 8
    assert ("A raposa Lila mora na floresta perto do", 2) in first["messages"][1]["segments"]
    assert [segment for segment in first["messages"][0]["segments"] if segment[1]] == [
        ("mora", 1),
        ("raposa", 1),
        ("Lila", 1),
    ]


def test_an_answer_in_other_words_is_no_match(service: SearchService) -> None:
    found = service.attribution("Gosto muito de navegar sem mapa.")
    assert (found["matched_fraction"], found["answer"]) == (0.0, [(found["answer"][0][0], 0)])
    empty = service.attribution(" 🦊 ")
    assert (empty["num_words"], empty["longest_run_words"], empty["examples"]) == (0, 0, [])


def test_a_short_answer_matches_only_as_a_whole(service: SearchService) -> None:
    whole = service.attribution("na floresta perto")
    assert (whole["matched_fraction"], whole["min_run_words"], whole["too_short"]) == (
        1.0,
        3,
        False,
    )
    part = service.attribution("na floresta perto daqui")
    assert (part["matched_fraction"], part["min_run_words"]) == (0.0, 6)
    assert service.attribution("Na floresta.")["too_short"]


def test_equal_examples_are_shown_once(tmp_path: Path) -> None:
    conversations = [("a", turn("Oi?", "Olá, tudo bem?"))] * 9 + [
        ("a", turn("Oi!", "Olá, raposa."))
    ]
    found = SearchService(build_index(tmp_path / "x", conversations, "print", "pt")).attribution(
        "olá tudo"
    )
    assert [one["number"] for one in found["examples"]] == [0, 9]


def test_words_with_vowel_signs_are_counted_whole(tmp_path: Path) -> None:
    answer = "রিনা নদীর ধারে ছোট একটি বাড়িতে থাকে।"
    service = SearchService(
        build_index(tmp_path / "x", [("a", turn("কোথায়?", answer))], "print", "bn")
    )
    found = service.attribution(answer)
    assert found["num_words"] == found["longest_run_words"] == 7
    assert "".join(words for words, _ in found["answer"]) == answer


def test_words_without_spaces_are_found_marked_and_quoted(tmp_path: Path) -> None:
    answer = "ชาวประมงออกเรือตั้งแต่เช้ามืดและกลับมาตอนเย็น"
    rows = [("m", turn("เขาทำอะไร", answer)), ("m", turn("你去哪里", "我们明天去市场买鱼"))]
    rows += [*CONVERSATIONS] * 3
    service = SearchService(build_index(tmp_path / "index", rows, "print", "th"))
    found = service.attribution(f"ฉันรู้ว่า{answer}")
    assert found["longest_run_words"] == len(word_spans(answer)) >= MIN_RUN_WORDS
    assert found["answer"][-1] == (answer, 2)
    (first, *_) = service.examples("市场")["examples"]
    assert ("市场", 1) in first["messages"][1]["segments"]


def test_search_ignores_endings_case_and_accents(service: SearchService) -> None:
    def numbers(query: str) -> list[int]:
        return [one["number"] for one in service.examples(query)["examples"]]

    assert set(numbers("floresta")) == set(numbers("FLORESTAS")) == {0, 3}
    assert numbers("manha") == [1]
    assert numbers("urso mel")[0] == 1
    assert numbers("inexistente") == []


def test_all_examples_are_listed_in_pages(service: SearchService) -> None:
    seen: list[int] = []
    more = True
    while more:
        page = service.examples(offset=len(seen), limit=12)
        seen += [one["number"] for one in page["examples"]]
        more = page["more"]
    assert seen == list(range(34)) and page["total"] == 34


def test_segments_keep_every_character(service: SearchService) -> None:
    found = service.attribution("🦉 A coruja Sofia lê livros à noite, no alto! 🦉")
    assert "".join(words for words, _ in found["answer"]) == (
        "🦉 A coruja Sofia lê livros à noite, no alto! 🦉"
    )
    for example in found["examples"]:
        messages = CONVERSATIONS[example["number"]][1]
        for message, shown in zip(messages, example["messages"], strict=True):
            assert "".join(words for words, _ in shown["segments"]) == message["content"]


def test_an_empty_index_answers(tmp_path: Path) -> None:
    empty = SearchService(build_index(tmp_path / "index", [], "print", "pt"))
    assert empty.attribution("olá")["examples"] == []
    assert empty.examples()["total"] == 0


def test_unreadable_chat_data_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "broken.json"
    path.write_text("{")
    sources = find_chat_sources([tmp_path], [path])
    assert isinstance(sources, ChatSources)
    loader = SearchLoader(sources)
    loader.start()
    loader.wait(30)
    assert loader.service is None and "cannot be searched" in loader.state
    assert "broken.json" in capsys.readouterr().err


def test_the_server_answers_search_and_attribution(tmp_path: Path, chat_model: ChatModel) -> None:
    data = tmp_path / "conversas.jsonl"
    questions = ("Onde mora a raposa?", "Quem come mel?", "O navio chegou?")
    rows = [f'{{"instruction": "{one}", "output": "Sobre isso, nada {one}"}}' for one in questions]
    data.write_text("\n".join(rows), encoding="utf-8")
    sources = find_chat_sources([tmp_path], [data])
    assert sources is not None
    loader = SearchLoader(sources)
    loader.start()
    loader.wait(60)
    with running([chat_model], search=loader) as server:
        text = "Sobre isso, nada Quem come mel?"
        _, found, _ = server.ask("/api/attribution", {"text": text})
        assert (found["matched_fraction"], found["examples"][0]["number"]) == (1.0, 1)
        _, listed, _ = server.ask("/api/examples", {"query": "navio", "limit": 3})
        assert [one["number"] for one in listed["examples"]] == [2]
        status, answer, _ = server.ask("/api/examples", {"query": "a", "view": "words"})
        assert (status, answer["error"]["param"]) == (400, "view")
    kept = (tmp_path / ".search" / "order.npy").stat().st_mtime_ns
    again = SearchLoader(sources)
    again.start()
    again.wait(60)
    assert again.service is not None
    assert (tmp_path / ".search" / "order.npy").stat().st_mtime_ns == kept


def test_missing_data_gets_404_and_a_missing_index_503(chat_model: ChatModel) -> None:
    with running([chat_model]) as server:
        status, answer, _ = server.ask("/api/examples", {"query": "a"})
        assert (status, answer["error"]["code"]) == (404, "no-chat-data")
    not_started = SearchLoader(ChatSources((), Path()))
    with running([chat_model], search=not_started) as server:
        assert server.ask("/api/attribution", {"text": "a"})[0] == 503
