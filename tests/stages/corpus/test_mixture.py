"""The mixture: passes, shares, the cap of four, and an untouched held-out split."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError
from support.corpus_stage import Left, Stage, json_lines

from teenytinyllama.artifacts.conversations import Message
from teenytinyllama.errors import UserError


def texts(name: str, count: int) -> list[str]:
    """`count` texts of 40 bytes each."""
    return [f"{name} {n:05d} ".ljust(40, name[0]) for n in range(count)]


@pytest.fixture
def run(stage: Stage, tmp_path: Path):
    (tmp_path / "grande.jsonl").write_bytes(json_lines(*texts("grande", 900)))
    (tmp_path / "pequena.jsonl").write_bytes(json_lines(*texts("pequena", 100)))

    def go(out: str = "out", **mix: object) -> Left:
        return stage(tmp_path / "*.jsonl", out=out, mix=mix, near_duplicates=None)

    return go


def by_source(left: Left) -> dict[str, int]:
    return dict(Counter(row["source"] for row in left.rows("train-*.zst")))


def test_default_is_one_pass_over_everything(run) -> None:
    left = run()
    assert len(left.texts("train")) + len(left.texts("heldout")) == 1000
    assert [(r["source"], r["epochs"]) for r in left.metrics["mix"]] == [
        ("grande", 1.0),
        ("pequena", 1.0),
    ]


def test_temperature_raises_the_small_source_by_the_root_of_its_size(run) -> None:
    """Texts are of 40 bytes each, so shares are those of the numbers of texts."""
    plain = by_source(run("plain"))
    left = run("warm", temperature=2.0)
    shares = {row["source"]: row["share"] for row in left.metrics["mix"]}
    roots = {name: count**0.5 for name, count in plain.items()}
    wanted = {name: root / sum(roots.values()) for name, root in roots.items()}
    assert shares == pytest.approx(wanted, abs=1e-3)
    assert by_source(run("cold", temperature=1.0)) == plain
    with pytest.raises(ValidationError, match="give one of epochs"):
        run(temperature=2.0, weights={"grande": 1.0})


def test_epochs_repeat_and_thin_out_the_training_split_only(run) -> None:
    plain, left = run("plain"), run(epochs={"pequena": 3.0, "grande": 0.5})
    assert left.texts("heldout") == plain.texts("heldout")
    once, mixed = by_source(plain), by_source(left)
    assert mixed["pequena"] == 3 * once["pequena"]
    assert mixed["grande"] == pytest.approx(once["grande"] / 2, rel=0.1)
    ids = [row["id"] for row in left.rows("train-*.zst")]
    assert len(ids) == len(set(ids))
    counts = left.counts
    assert counts["filtered_by_reason"] == {"mix": once["grande"] - mixed["grande"]}
    assert counts["documents_read"] == 1000
    assert counts["documents_kept"] + counts["documents_filtered"] == 1000
    assert len(left.dropped()["mix"]) == counts["documents_filtered"]


def test_weights_give_shares_and_are_capped_at_four_passes(run) -> None:
    left = run(weights={"grande": 3, "pequena": 1})
    shares = {row["source"]: row["share"] for row in left.metrics["mix"]}
    assert shares == {"grande": pytest.approx(0.75), "pequena": pytest.approx(0.25)}
    capped = run(weights={"grande": 1, "pequena": 9})
    assert {r["source"]: r["epochs"] for r in capped.metrics["mix"]}["pequena"] == 4.0


def test_unknown_source_and_too_many_epochs_are_errors(run) -> None:
    with pytest.raises(UserError, match=r'mix\.epochs\.pequeno .* did you mean "pequena"'):
        run(epochs={"pequeno": 2.0})
    with pytest.raises(ValidationError, match=r"pequena: 5\.0 epochs are more than 4\.0"):
        run(epochs={"pequena": 5.0})
    with pytest.raises(UserError, match="no source of conversations"):
        run(instruction_share=0.4)


ANSWER = "A raposa Lila mora na floresta."


def turns(question: str) -> list[Message]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": ANSWER}]


def test_conversations_get_their_share(stage: Stage, tmp_path: Path) -> None:
    said = [json.dumps({"messages": turns(f"Pergunta {n:04d}?")}) for n in range(100)]
    (tmp_path / "said.jsonl").write_text("\n".join(said), "utf-8")
    (tmp_path / "prosa.jsonl").write_bytes(
        json_lines(*[f"Prosa número {n:04d}, bem longa.".ljust(90, "a") for n in range(300)])
    )
    source = {"kind": "files", "path": str(tmp_path / "said.jsonl"), "license": "MIT"}
    left = stage(
        {**source, "shape": "conversation"},
        tmp_path / "prosa.jsonl",
        mix={"instruction_share": 0.4},
        near_duplicates=None,
    )
    shares = {row["source"]: row["share"] for row in left.metrics["mix"]}
    assert shares == {"said": pytest.approx(0.4, abs=0.001), "prosa": pytest.approx(0.6, abs=0.001)}
    assert {"messages" in r for r in left.rows("train-*.zst") if r["source"] == "prosa"} == {False}
