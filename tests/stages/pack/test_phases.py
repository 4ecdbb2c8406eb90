"""Mixes that follow one another: exact counts, nothing twice, one line for what cannot be."""

from collections import Counter

import numpy as np
import pytest
from pydantic import ValidationError
from support.token_stages import hashes, pack_corpus, write_corpus

from teenytinyllama.artifacts.tokens import open_tokens, read_index
from teenytinyllama.errors import UserError
from teenytinyllama.settings.data_preparation import PackSettings
from teenytinyllama.stages.pack.phases import (
    check_phases,
    phase_orders,
    phase_table,
    tokens_of_sources,
)

LONGEST = 40
PHASES = (
    {"share": 0.7, "weights": {"web": 3.0, "books": 1.0}},
    {"share": 0.3, "weights": {"books": 1.0, "chat": 1.0}},
)


def plan(num_tokens, phases=PHASES, **settings):
    given = {"num_tokens": num_tokens, "phases": tuple(phases), **settings}
    return PackSettings.model_validate(given)


@pytest.fixture
def documents():
    """600 documents of 3 to 40 tokens, of three sources in turn."""
    lengths = np.random.default_rng(0).integers(3, LONGEST + 1, 600)
    return lengths, ["web", "books", "chat"] * 200


def test_each_phase_has_its_mix_to_one_document_and_nothing_twice(documents):
    lengths, sources = documents
    first, last = phase_orders(lengths, sources, plan(6000))
    assert max(Counter(np.concatenate([first, last]).tolist()).values()) == 1
    tokens = [
        tokens_of_sources(lengths[order], np.array(sources)[order]) for order in (first, last)
    ]
    wanted = [{"web": 3150, "books": 1050}, {"books": 900, "chat": 900}]
    for found, asked in zip(tokens, wanted, strict=True):
        assert found.keys() == asked.keys()
        # Books of the second phase begin where those of the first stopped.
        assert all(abs(found[name] - asked[name]) <= LONGEST for name in asked)
    total = {name: sum(phase.get(name, 0) for phase in tokens) for name in ("books", "chat")}
    assert 1950 < total["books"] <= 1950 + LONGEST
    assert 900 < total["chat"] <= 900 + LONGEST


def test_a_repeated_source_is_read_whole_before_any_of_it_again(documents):
    lengths, sources = documents
    books = int(lengths[1::3].sum())
    settings = plan(
        round(2.5 * books),
        ({"share": 0.8, "weights": {"books": 1}}, {"share": 0.2, "weights": {"books": 1}}),
        epochs={"books": 2.5},
    )
    check_phases(settings, tokens_of_sources(lengths, sources))
    first, last = phase_orders(lengths, sources, settings)
    seen = Counter(first.tolist())
    assert set(seen) == set(range(1, 600, 3))
    assert set(seen.values()) <= {2, 3}
    both = Counter(np.concatenate([first, last]).tolist())
    assert set(both.values()) == {2, 3}
    read = sum(lengths[index] * times for index, times in both.items())
    assert 2.5 * books - 1 <= read <= 2.5 * books + LONGEST


def test_best_fit_is_within_a_phase(documents):
    lengths, sources = documents
    plain = phase_orders(lengths, sources, plan(6000))
    fitted = phase_orders(lengths, sources, plan(6000, order="best-fit", sequence_length=64))
    for one, other in zip(plain, fitted, strict=True):
        assert sorted(one.tolist()) == sorted(other.tolist())
        assert one.tolist() != other.tolist()


def test_the_table_says_how_often_each_source_is_read():
    lines = phase_table(plan(1000), {"web": 700, "books": 650, "chat": 150, "x": 5}).splitlines()
    assert [line.split() for line in lines] == [
        ["phase", "share", "tokens", "books", "chat", "web", "x"],
        ["1", "70.0%", "700", "175", "0", "525", "0"],
        ["2", "30.0%", "300", "150", "150", "0", "0"],
        ["there", "are", "1,505", "650", "150", "700", "5"],
        ["times", "read", "0.50", "1.00", "0.75", "0.00"],
    ]


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([{"share": 0.6, "weights": {"a": 1}}], "shares add up to 0.6, expected 1"),
        ([{"share": 1.0, "weights": {"a": 0}}], "needs a source with a weight above 0"),
        ([{"share": 1.0, "weights": {}}], "needs a source with a weight above 0"),
        ([{"share": 0.0, "weights": {"a": 1}}], "greater than 0"),
        ([], "given together"),
    ],
)
def test_phases_that_make_no_sense_are_refused(phases, message):
    with pytest.raises(ValidationError, match=message):
        plan(100, phases)


def test_a_source_that_is_used_up_is_refused_unless_it_may_be_repeated():
    available = {"web": 700, "books": 200, "chat": 150}
    with pytest.raises(UserError, match=r"phases\.2\.weights\.books.* 1\.63 times, allowed 1 "):
        check_phases(plan(1000), available)
    check_phases(plan(1000, epochs={"books": 1.63}), available)
    with pytest.raises(UserError, match=r'phases\.1\.weights\.web .*did you mean "wob"'):
        check_phases(plan(1000), {"wob": 700, "books": 700, "chat": 700})


def test_the_pack_says_where_its_phases_end(small_tokenizer_dir, stage_context, tmp_path):
    train = [("a", f"raposa {i}") for i in range(30)] + [("b", f"casa {i}") for i in range(30)]
    corpus_dir = write_corpus(tmp_path / "c", train, ["Outra."])
    phases = ({"share": 0.5, "weights": {"a": 1}}, {"share": 0.5, "weights": {"b": 1}})
    for name in ("t", "again"):
        result = pack_corpus(
            corpus_dir, small_tokenizer_dir, tmp_path / name, stage_context, plan(100, phases)
        )
    assert hashes(tmp_path / "t") == hashes(tmp_path / "again")
    written = read_index(tmp_path / "t")["splits"]["train"]["phases"]
    tokens = open_tokens(tmp_path / "t", "train", verify=True)
    assert sum(phase["num_tokens"] for phase in written) == tokens.num_tokens
    first = result.metrics["phases"][0]
    assert first["tokens_by_source"] == {"a": written[0]["num_tokens"]}
    assert tokens.document_starts[first["num_documents"]] == written[0]["num_tokens"] >= 50
