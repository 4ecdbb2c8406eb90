"""Cached results: reused for the same identity, computed again for another or after damage."""

from __future__ import annotations

import pytest

from teenytinyllama.artifacts.documents import Document
from teenytinyllama.stages.evaluate.prefix_sharing import LoglikelihoodRequest
from teenytinyllama.stages.evaluate.result_cache import (
    Loglikelihood,
    LoglikelihoodCache,
    documents_fingerprint,
    load_or_compute,
    request_key,
)

RESULTS = {"a": Loglikelihood(-0.1 - 0.2, True), "b": Loglikelihood(-1e-17, False)}


def test_result_is_computed_once_for_one_identity(tmp_path):
    path = tmp_path / "x.json"
    assert load_or_compute(path, {"texts": 1}, lambda: {"bits": 0.1 + 0.2}) == {"bits": 0.1 + 0.2}
    found = load_or_compute(path, {"texts": 1}, lambda: pytest.fail("computed before"))
    assert found == {"bits": 0.1 + 0.2}
    assert load_or_compute(path, {"texts": 2}, lambda: {"bits": 2}) == {"bits": 2}


@pytest.mark.parametrize("damaged", ["[1", "[]", "{}"])
def test_damaged_result_is_computed_again(damaged, tmp_path):
    (tmp_path / "x.json").write_text(damaged)
    assert load_or_compute(tmp_path / "x.json", {"texts": 1}, lambda: {"bits": 1}) == {"bits": 1}


def test_cached_loglikelihoods_have_the_same_bits(tmp_path):
    LoglikelihoodCache(tmp_path, {"weights": "x"}, RESULTS).add(RESULTS)
    assert LoglikelihoodCache(tmp_path, {"weights": "x"}, RESULTS).results == RESULTS
    assert LoglikelihoodCache(tmp_path, {"weights": "y"}, RESULTS).results == {}
    assert LoglikelihoodCache(tmp_path, {"weights": "x"}, ["a"]).results == {}
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("tail", [b'{"b": [-1', b'{"b": [-1}\n'])
def test_line_cut_off_by_a_kill_is_dropped(tail, tmp_path):
    first = {"a": RESULTS["a"]}
    LoglikelihoodCache(tmp_path, {}, RESULTS).add(first)
    [path] = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert LoglikelihoodCache(tmp_path, {}, RESULTS).results == first
    assert path.read_bytes() == whole


def test_keys_differ_where_requests_differ():
    requests = [((1, 2), (3,)), ((1,), (2, 3)), ((1, 2), (4,))]
    keys = {request_key(LoglikelihoodRequest(*request)) for request in requests}
    assert len(keys) == 3
    texts = [[Document("1", text, "s", "l")] for text in ("a", "b")]
    assert documents_fingerprint(texts[0]) != documents_fingerprint(texts[1])
