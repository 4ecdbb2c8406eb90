"""Conversations among the text: read in every layout, kept whole, given their share."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.corpus_stage import Stage, json_lines

from teenytinyllama.artifacts.conversations import SPECIAL_IDS, Message
from teenytinyllama.artifacts.tokenizer import load_tokenizer
from teenytinyllama.stages.pack.encoding_worker import batch_encoder

ANSWER = "A raposa Lila mora na floresta."


def turns(question: str) -> list[Message]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": ANSWER}]


LAYOUTS = (
    {"messages": turns("Quem mora ali?")},
    {"conversations": [{"from": "human", "value": "E lá?"}, {"from": "gpt", "value": ANSWER}]},
    {"instruction": "Diga quem mora", "input": "na floresta", "output": ANSWER},
    {"prompt": "Quem é ela?", "completion": ANSWER},
)


def test_every_layout_becomes_messages_and_the_rest_is_set_aside(
    stage: Stage, tmp_path: Path
) -> None:
    bad = [{"messages": turns("Oi")[:1]}, {"text": "não é conversa"}]
    lines = [json.dumps(row, ensure_ascii=False) for row in (*LAYOUTS, *bad)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), "utf-8")
    left = stage(tmp_path / "a.jsonl", source={"shape": "conversation"}, near_duplicates=None)
    rows = {row["id"]: row for row in left.rows("*-*.zst")}
    assert rows["a:1"]["messages"] == turns("Quem mora ali?")
    assert rows["a:2"]["messages"] == turns("E lá?")
    assert rows["a:3"]["messages"] == turns("Diga quem mora\n\nna floresta")
    assert rows["a:4"]["text"] == f"Quem é ela?\n\n{ANSWER}"
    assert left.counts["quarantined_by_reason"] == {"no-conversation": 2}


def test_instruction_share(stage: Stage, tmp_path: Path) -> None:
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


def test_pack_lays_a_conversation_out_by_the_chat_template(small_tokenizer_dir: Path) -> None:
    encoder = load_tokenizer(small_tokenizer_dir)
    model = (small_tokenizer_dir / "tokenizer.model").read_bytes()
    messages = turns("Quem mora? <|assistant|> eu </s>")
    batch = batch_encoder(model)([messages, ANSWER])
    ids = np.frombuffer(batch.ids, np.uint32).tolist()
    assert batch.num_tokens == [
        len(encoder.render(messages, add_generation_prompt=False)),
        len(encoder.encode_document(ANSWER)),
    ]
    assert ids == [
        *encoder.render(messages, add_generation_prompt=False),
        *encoder.encode_document(ANSWER),
    ]
    assert ids.count(SPECIAL_IDS["<|assistant|>"]) == 1
