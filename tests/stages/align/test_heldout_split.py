from __future__ import annotations

from typing import Any

from teenytinyllama.stages.align.heldout_split import Candidate, candidate, choose_heldout


def chat(question: str, answer: str, source: int = 0) -> Candidate:
    asked: Any = [{"role": "user", "content": question}]
    return candidate(source, asked, {"role": "assistant", "content": answer})


def test_a_share_of_each_source_is_held_out_in_bytes() -> None:
    long = [chat(f"a{n}?", "palavra " * (1 + n % 40)) for n in range(1000)]
    short = [chat(f"b{n}?", "x", source=1) for n in range(1000)]
    chosen = choose_heldout(long + short, 0.2)
    for part, sizes in ((chosen[:1000], long), (chosen[1000:], short)):
        held = sum(one.num_bytes for one, is_held in zip(sizes, part, strict=True) if is_held)
        assert 0.195 < held / sum(one.num_bytes for one in sizes) <= 0.2
    # What else is read does not change a source's split.
    assert choose_heldout(long, 0.2) == chosen[:1000]


def test_one_question_with_many_answers_is_on_both_sides() -> None:
    """All that begin, or all that ask, alike were once on one side of the split."""
    chosen = choose_heldout([chat("Oi!", f"Sou o barco {n}.") for n in range(120)], 0.05)
    assert 9 <= sum(chosen) <= 12


def test_those_that_ask_the_same_are_on_one_side() -> None:
    chats = [chat(f"p{n % 40}?", f"r{n}", source=n % 2) for n in range(80)]
    chosen = choose_heldout(chats, 0.2)
    assert {n % 40 for n in range(80) if chosen[n]}.isdisjoint(
        n % 40 for n in range(80) if not chosen[n]
    )


def test_equal_conversations_are_on_one_side_even_where_they_are_most() -> None:
    same = [chat("Oi!", "Olá!", source=n % 2) for n in range(50)]
    others = [chat(f"p{n}?", "sim") for n in range(20)]
    chosen = choose_heldout(same + others, 0.1)
    assert not any(chosen[:50])
    assert any(chosen[50:])


def test_a_conversation_as_long_as_a_book_leaves_others_to_learn() -> None:
    chats = [chat("livro?", "palavra " * 20_000), *(chat(f"p{n}?", "sim") for n in range(20))]
    assert 1 <= sum(choose_heldout(chats, 0.05)) <= 11


def test_a_small_share_is_raised_to_fifty_or_a_tenth() -> None:
    assert sum(choose_heldout([chat(f"{n:04}?", "sim") for n in range(2000)], 0.001)) == 50
    assert sum(choose_heldout([chat(f"{n:04}?", "sim") for n in range(100)], 0.001)) == 10
    assert sum(choose_heldout([chat(f"{n:04}?", "sim") for n in range(2)], 0.001)) == 1
    assert choose_heldout([chat("a?", "sim")], 0.5) == [False]
    assert choose_heldout([], 0.5) == []
