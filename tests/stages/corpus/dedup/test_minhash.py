"""Near duplicates: which text stays, and how similar a pair must be."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from support import script_texts
from support.corpus_stage import Stage, json_lines

from teenytinyllama.stages.corpus.dedup.minhash import MAX_ALIGNED_CHARACTERS, aligned_share

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


def test_longest_text_stays_and_the_pair_is_written(stage: Stage, tmp_path: Path) -> None:
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


def test_ends_of_a_chain_of_small_differences_both_stay(stage: Stage, tmp_path: Path) -> None:
    """B is near A and C, but A is not near C: once B is dropped, C must stay."""
    a = text_of(1)
    b = with_changes(a, [20, 60, 100])
    c = with_changes(b, [40, 80, 120])
    far = len(grams(a) & grams(c)) / len(grams(a) | grams(c))
    assert far < 0.8 < len(grams(a) & grams(b)) / len(grams(a) | grams(b))
    a += "longest"  # longer in characters only, so that it ranks first
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


def test_near_duplicates_can_be_switched_off(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(json_lines(text_of(1), with_changes(text_of(1), [9])))
    assert stage(tmp_path / "a.jsonl", near_duplicates=None).counts["documents_kept"] == 2


@pytest.mark.parametrize("language", ["zh", "th", "km", "ja"])
def test_copies_with_changed_characters_are_found_without_spaces(
    language: str, stage: Stage, tmp_path: Path
) -> None:
    """1 to 5 % of the characters; `bench/scripts.py` measures more."""
    rng = random.Random(language)
    first = [script_texts.text_of(language, rng, rng.randint(150, 700)) for _ in range(40)]
    copies = [script_texts.with_changes(text, rng.uniform(0.01, 0.05), rng) for text in first]
    (tmp_path / "a.jsonl").write_bytes(json_lines(*first, *copies))
    kept = set(stage(tmp_path / "a.jsonl").texts())
    of_pairs = [len({one, other} & kept) for one, other in zip(first, copies, strict=True)]
    assert min(of_pairs) == 1
    assert of_pairs.count(1) >= 38


def test_a_long_text_is_aligned_in_pieces() -> None:
    rng = random.Random(3)
    one, other = (script_texts.text_of("zh", rng, 3 * MAX_ALIGNED_CHARACTERS) for _ in range(2))
    assert aligned_share(one, script_texts.with_changes(one, 0.05, rng), 0.8) > 0.85
    assert aligned_share(one, one[: 2 * MAX_ALIGNED_CHARACTERS], 0.8) == 0
    assert aligned_share(one, other, 0.8) == 0
    assert aligned_share(one, one, 1.0) == 1


def test_records_that_differ_in_numbers_stay_where_no_spaces_are(
    stage: Stage, tmp_path: Path
) -> None:
    records = [
        f"第{day}天的记录写着：天气晴朗，收获{day * 3}条鱼，换来米和盐。" for day in range(9)
    ]
    long = [script_texts.text_of("zh", random.Random(1), 400) + f"第{n}页" for n in (1, 2)]
    (tmp_path / "a.jsonl").write_bytes(json_lines(*records, *long))
    assert stage(tmp_path / "a.jsonl").counts["duplicate_by_reason"] == {"duplicate-near": 1}
