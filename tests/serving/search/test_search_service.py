"""The search over the chat data: shared runs are exact, the nearest come first, marks are right."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from teenytinyllama.artifacts.conversations import Conversation
from teenytinyllama.artifacts.manifest import write_json
from teenytinyllama.serving.search.chat_sources import ChatSources, sources_of
from teenytinyllama.serving.search.retriever import Index, build_index, open_index
from teenytinyllama.serving.search.search_service import Finder, Lookup
from teenytinyllama.serving.search.suffix_array import longest_runs, suffix_array


def turn(asked: str, answered: str) -> Conversation:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]


TALKS = [
    ("a", turn("Onde mora a raposa Lila?", "A raposa Lila mora na floresta perto do rio azul.")),
    ("a", turn("O que come o urso?", "O urso Teo come mel com pão todas as manhãs.")),
    ("b", turn("Quem é a coruja?", "A coruja Sofia lê livros à noite, no alto da torre 🦉.")),
    ("b", turn("E a floresta?", "As florestas ficam longe da cidade.")),
    *(
        ("c", turn(f"Pergunta {i}?", f"A resposta de número {i} é sempre outra."))
        for i in range(30)
    ),
]


@pytest.fixture(scope="module")
def finder(tmp_path_factory: pytest.TempPathFactory) -> Finder:
    return Finder(build_index(tmp_path_factory.mktemp("x") / "index", TALKS, "print", "pt"))


def shared_from(left: list[int], right: list[int]) -> int:
    size = 0
    while size < min(len(left), len(right)) and left[size] == right[size]:
        size += 1
    return size


def test_runs_equal_those_of_a_search_through_everything() -> None:
    rng = random.Random(5)
    for _ in range(30):
        data = np.array([rng.randrange(5) for _ in range(300)], np.int32)
        query = [rng.randrange(1, 6) for _ in range(40)]
        sizes, places = longest_runs(np.array(query, np.int32), data, suffix_array(data))
        text = data.tolist()
        for at, (size, place) in enumerate(zip(sizes, places, strict=True)):
            best = max(shared_from(text[p:], query[at:]) for p in range(300))
            assert size == best
            assert text[place : place + size] == query[at : at + size]


def test_runs_longer_than_what_is_sorted_are_counted_whole() -> None:
    data = np.array([*range(1, 200), 0, *range(1, 100), 0], np.int32)
    sizes, _ = longest_runs(np.arange(5, 190, dtype=np.int32), data, suffix_array(data))
    assert sizes[0] in (95, 185) and sizes[60] in (35, 125)


def test_an_answer_from_the_data_is_called_a_quote(finder: Finder) -> None:
    found = finder.quotes({"text": "Sim: a RAPOSA Lila mora na floresta perto do lago."})
    assert found["num_words"] == 10
    assert found["longest_run_words"] == 8  # a raposa lila mora na floresta perto do
    assert found["quoted_share"] == 0.8
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


def test_an_answer_in_own_words_is_none(finder: Finder) -> None:
    found = finder.quotes({"text": "Gosto muito de navegar sem mapa."})
    assert (found["quoted_share"], found["answer"]) == (0.0, [(found["answer"][0][0], 0)])
    empty = finder.quotes({"text": " 🦊 "})
    assert (empty["num_words"], empty["longest_run_words"], empty["examples"]) == (0, 0, [])


def test_a_short_answer_is_a_quote_where_all_of_it_stands_in_the_data(finder: Finder) -> None:
    whole = finder.quotes({"text": "na floresta perto"})
    assert (whole["quoted_share"], whole["min_run_words"], whole["too_short"]) == (1.0, 3, False)
    part = finder.quotes({"text": "na floresta perto daqui"})
    assert (part["quoted_share"], part["min_run_words"]) == (0.0, 6)
    assert finder.quotes({"text": "Na floresta."})["too_short"]


def test_examples_that_say_the_same_are_shown_once(tmp_path: Path) -> None:
    talks = [("a", turn("Oi?", "Olá, tudo bem?"))] * 9 + [("a", turn("Oi!", "Olá, raposa."))]
    found = Finder(build_index(tmp_path / "x", talks, "print", "pt")).quotes({"text": "olá tudo"})
    assert [one["number"] for one in found["examples"]] == [0, 9]


def test_words_with_vowel_signs_are_counted_whole(tmp_path: Path) -> None:
    answer = "রিনা নদীর ধারে ছোট একটি বাড়িতে থাকে।"
    finder = Finder(build_index(tmp_path / "x", [("a", turn("কোথায়?", answer))], "print", "bn"))
    found = finder.quotes({"text": answer})
    assert found["num_words"] == found["longest_run_words"] == 7
    assert "".join(words for words, _ in found["answer"]) == answer


def test_search_finds_other_forms_of_a_word_and_without_accents(finder: Finder) -> None:
    def numbers(query: str) -> list[int]:
        return [one["number"] for one in finder.examples({"query": query})["examples"]]

    assert set(numbers("floresta")) == set(numbers("FLORESTAS")) == {0, 3}
    assert numbers("manha") == [1]
    assert numbers("urso mel")[0] == 1
    assert numbers("inexistente") == []


def test_all_examples_are_looked_through_a_page_at_a_time(finder: Finder) -> None:
    seen: list[int] = []
    more = True
    while more:
        page = finder.examples({"offset": len(seen), "limit": 12})
        seen += [one["number"] for one in page["examples"]]
        more = page["more"]
    assert seen == list(range(34)) and page["total"] == 34


def test_emoji_and_marks_keep_every_character(finder: Finder) -> None:
    found = finder.quotes({"text": "🦉 A coruja Sofia lê livros à noite, no alto! 🦉"})
    assert "".join(words for words, _ in found["answer"]) == (
        "🦉 A coruja Sofia lê livros à noite, no alto! 🦉"
    )
    for example in found["examples"]:
        for message, told in zip(TALKS[example["number"]][1], example["messages"], strict=True):
            assert "".join(words for words, _ in told["segments"]) == message["content"]


def test_an_index_is_kept_and_opened_for_the_same_data_only(tmp_path: Path) -> None:
    built = build_index(tmp_path / "index", TALKS, "print", "pt")
    kept = open_index(tmp_path / "index", "print", "pt")
    assert kept is not None
    assert kept.nearest("raposa floresta", 5) == built.nearest("raposa floresta", 5)
    assert open_index(tmp_path / "index", "other", "pt") is None
    (tmp_path / "index" / "keys.npy").write_bytes(b"")
    assert open_index(tmp_path / "index", "print", "pt") is None


def test_an_index_of_nothing_answers(tmp_path: Path) -> None:
    empty = Finder(build_index(tmp_path / "index", [], "print", "pt"))
    assert empty.quotes({"text": "olá"})["examples"] == []
    assert empty.examples({})["total"] == 0


def test_scores_order_as_those_of_bm25s(tmp_path: Path) -> None:
    bm25s = pytest.importorskip("bm25s")
    rng = random.Random(3)
    words = [f"palavra{i}x" for i in range(60)]
    talks = [
        ("m", turn("q", " ".join(rng.choices(words, k=rng.randint(4, 30))))) for _ in range(80)
    ]
    index = build_index(tmp_path / "index", talks, "print", "xx")
    split = [index.words_of("q " + messages[1]["content"]) for _, messages in talks]
    theirs = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    theirs.index(split, show_progress=False)
    for _ in range(20):
        query = [rng.choice(words)]  # one word: pairs of words are ours alone
        scores = theirs.get_scores(query)
        ours = index.nearest(query[0], 80)
        assert len(ours) == int((scores > 0).sum())
        ratio = [score / scores[number] for number, score in ours]
        assert np.allclose(ratio, ratio[0], rtol=1e-4)


def test_the_run_says_where_its_chat_data_is(tmp_path: Path) -> None:
    assert sources_of([tmp_path], []) is None
    (tmp_path / "align").mkdir()
    manifest: dict[str, Any] = {
        "stage": "align",
        "version": "0",
        "fingerprint": "x",
        "recipe": {"sources": [{"kind": "storybook", "num_documents": 40}]},
        "inputs": {},
        "outputs": {},
        "counts": {},
        "metrics": {},
        "started_at": "",
        "duration_s": 0,
        "energy_kwh": {},
        "emissions_kg": 0,
        "versions": {},
    }
    write_json(tmp_path / "align" / "manifest.json", manifest)
    sources = sources_of([tmp_path], [])
    assert sources is not None
    lookup = Lookup(sources)
    lookup.start()
    lookup.wait(30)
    assert lookup.state == "ready" and lookup.ready is not None
    assert lookup.ready.examples({})["total"] == 40
    assert isinstance(open_index(tmp_path / ".search", sources.fingerprint(), "pt"), Index)


def test_chat_data_that_cannot_be_read_is_said_and_harms_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "broken.json"
    path.write_text("{")
    sources = sources_of([tmp_path], [path])
    assert isinstance(sources, ChatSources)
    lookup = Lookup(sources)
    lookup.start()
    lookup.wait(30)
    assert lookup.ready is None and "cannot be searched" in lookup.state
    assert "broken.json" in capsys.readouterr().err
