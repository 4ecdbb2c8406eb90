"""Near duplicates: who stays, what a pair must share, and that nothing depends on batches."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from support.corpus_stage import Stage, json_lines

from teenytinyllama.settings.data_preparation import NearDuplicateSettings
from teenytinyllama.stages.corpus.dedup.shingling import BYTES_PER_BLOCK, Shingler, Signer, jaccard

WORDS = [f"palavra{n}" for n in range(3000)]


def text_of(seed: int, num_words: int = 200) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=num_words))


def with_changes(text: str, places: list[int]) -> str:
    words = text.split()
    for place in places:
        words[place] = f"outra{place}"
    return " ".join(words)


def grams(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[k : k + 5]) for k in range(len(words) - 4)}


def test_jaccard_is_that_of_the_sets_of_word_5_grams() -> None:
    one = text_of(1)
    other = with_changes(one, [20, 90, 91, 150])
    expected = len(grams(one) & grams(other)) / len(grams(one) | grams(other))
    a, b = (np.unique(s) for s in Shingler(5).shingles([one, other]))
    assert (len(a), len(b)) == (len(grams(one)), len(grams(other)))
    assert jaccard(a, b) == pytest.approx(expected)


def test_case_and_punctuation_do_not_count_and_accents_do() -> None:
    same, dressed, bare = Shingler(5).shingles(
        [
            "um pão de açúcar não faz verão",
            "— Um “PÃO” de «Açúcar», não faz\u00a0verão!…",
            "um pao de acucar nao faz verao",
        ]
    )
    assert same.tolist() == dressed.tolist()
    assert not set(same.tolist()) & set(bare.tolist())


def test_a_text_has_the_same_shingles_alone_and_among_others() -> None:
    long = text_of(5, num_words=BYTES_PER_BLOCK // 5)
    texts = [text_of(n, num_words=n % 9) for n in range(60)] + [long, "", "uma", long]
    together = Shingler(5).shingles(texts)
    for text, shingles in zip(texts, together, strict=True):
        assert shingles.tolist() == Shingler(5).shingles([text])[0].tolist()
        words = len(text.split())
        assert len(shingles) == (max(words - 4, 1) if words else 0)
    keys = Signer(NearDuplicateSettings()).band_keys(texts)
    alone = [Signer(NearDuplicateSettings()).band_keys([text])[0] for text in texts]
    assert (keys == np.array(alone)).all()


def test_the_longest_stays_and_the_pair_is_written_down(stage: Stage, tmp_path: Path) -> None:
    short = text_of(1)
    longer = short + " " + text_of(2, num_words=10)
    altered = with_changes(short, [50])
    (tmp_path / "a.jsonl").write_bytes(json_lines(short, text_of(3), longer, altered))
    left = stage(tmp_path / "a.jsonl")
    assert sorted(left.texts()) == sorted([longer, text_of(3)])
    assert sorted(left.dropped()["duplicate-near"]) == sorted([short, altered])
    pairs = {row["dropped"]: row for row in left.rows("duplicates.jsonl.zst")}
    assert {row["kept"] for row in pairs.values()} == {"a:3"}
    expected = len(grams(short)) / len(grams(longer))
    assert pairs["a:1"]["similarity"] == pytest.approx(expected, abs=1e-4)
    assert left.counts["duplicate_by_reason"] == {"duplicate-near": 2}


def test_a_chain_of_small_differences_keeps_its_ends_apart(stage: Stage, tmp_path: Path) -> None:
    """B is near A and C, A is not near C: without B in the way, C must stay."""
    a = text_of(1)
    b = with_changes(a, [20, 60, 100])
    c = with_changes(b, [40, 80, 120])
    far = len(grams(a) & grams(c)) / len(grams(a) | grams(c))
    assert far < 0.8 < len(grams(a) & grams(b)) / len(grams(a) | grams(b))
    a += "longest"  # one word longer in characters only, so that it ranks first
    b += "x"
    (tmp_path / "a.jsonl").write_bytes(json_lines(a, b, c))
    left = stage(tmp_path / "a.jsonl")
    assert sorted(left.texts()) == sorted([a, c])


def test_recall_and_precision_on_labelled_pairs(stage: Stage, tmp_path: Path) -> None:
    """Pairs around the threshold, labelled by their true Jaccard index."""
    texts, labels = [], {}
    for seed in range(150):
        one = text_of(seed, num_words=300)
        rng = random.Random(seed)
        other = with_changes(one, rng.sample(range(300), rng.randrange(2, 13)))
        share = len(grams(one) & grams(other)) / len(grams(one) | grams(other))
        labels[f"p{seed}"] = share >= 0.8
        texts.append((f"p{seed}", one, other))
    lines = b"".join(json_lines(o, id=i) + json_lines(p, id=f"{i}b") for i, o, p in texts)
    (tmp_path / "a.jsonl").write_bytes(lines)
    left = stage(tmp_path / "a.jsonl")
    found = {row["kept"].removesuffix("b") for row in left.rows("duplicates.jsonl.zst")}
    true = {name for name, is_copy in labels.items() if is_copy}
    assert 40 < len(true) < 110
    assert len(found & true) >= 0.98 * len(true)
    assert found <= true


def test_switched_off(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(json_lines(text_of(1), with_changes(text_of(1), [9])))
    assert stage(tmp_path / "a.jsonl", near_duplicates=None).counts["documents_kept"] == 2
