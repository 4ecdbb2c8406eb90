from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from teenytinyllama.artifacts.conversations import SPECIAL_IDS
from teenytinyllama.artifacts.tokenizer import TextEncoder, load_tokenizer
from teenytinyllama.modeling.loading import load_base
from teenytinyllama.stages.align.conversation_packing import Rendered, best_fit, lay_out
from teenytinyllama.synthetic import dataset as synthetic

EOS = SPECIAL_IDS["</s>"]


def some_conversations(encoder: TextEncoder, count: int) -> list[Rendered]:
    """One question with its answer each."""
    made = synthetic.conversations(num_conversations=30, split="train", seed=7)
    both: list[Any] = [one["messages"][:2] for one in made if one["messages"][0]["role"] == "user"]
    return [Rendered(*encoder.render_with_mask(messages)) for messages in both[:count]]


@given(st.lists(st.integers(1, 50), max_size=60))
def test_every_item_is_in_one_row_and_no_row_overflows(lengths: list[int]) -> None:
    rows = best_fit(lengths, 50)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= 50 for row in rows)
    # Best fit never leaves two rows that would fit into one.
    fill = sorted(sum(lengths[i] for i in row) for row in rows)
    assert len(fill) < 2 or fill[0] + fill[1] > 50


def test_the_arrays_of_a_row_by_hand() -> None:
    first = Rendered([1, 5, 20, 2, 6, 30, 2], [0, 0, 0, 0, 0, 1, 1])
    second = Rendered([1, 5, 21, 2, 6, 31, 2], [0, 0, 0, 0, 0, 1, 1])
    arrays = lay_out([first, second], [[0, 1]], 14, pad_id=3)
    assert arrays["input_ids"].tolist() == [[1, 5, 20, 2, 6, 30, 1, 5, 21, 2, 6, 31, 3, 3]]
    assert arrays["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 0, 0]]
    # <|assistant|>, at 4 and 10, predicts the first word; the word predicts EOS.
    assert arrays["places"].tolist() == [4, 5, 10, 11]
    assert arrays["targets"].tolist() == [30, 2, 31, 2]


def test_exactly_the_assistants_tokens_are_supervised(small_tokenizer_dir: Path) -> None:
    """Against the chat template's own generation marks, as transformers reads them."""
    encoder = load_tokenizer(small_tokenizer_dir)
    theirs = AutoTokenizer.from_pretrained(small_tokenizer_dir)
    for made in synthetic.conversations(num_conversations=20, split="train", seed=7):
        messages: Any = made["messages"]
        ids, mask = encoder.render_with_mask(messages)
        out = theirs.apply_chat_template(
            messages, return_dict=True, return_assistant_tokens_mask=True
        )
        assert (ids, mask) == (out["input_ids"], out["assistant_masks"])
        row = lay_out([Rendered(ids, mask)], [[0]], len(ids), pad_id=3)
        supervised = [i for i, m in zip(ids, mask, strict=True) if m]
        assert row["targets"].tolist() == supervised
        assert supervised.count(EOS) == sum(m["role"] == "assistant" for m in messages)


def test_packing_changes_no_hidden_state(small_base_dir: Path, small_tokenizer_dir: Path) -> None:
    model, encoder = load_base(small_base_dir, small_tokenizer_dir)
    rendered = some_conversations(encoder, 6)
    width = sum(one.num_inputs for one in rendered) + 5
    row = {
        name: torch.from_numpy(a)
        for name, a in lay_out(rendered, [list(range(6))], width, pad_id=3).items()
    }
    with torch.no_grad():
        packed = model.model(
            input_ids=row["input_ids"], position_ids=row["position_ids"], use_cache=False
        ).last_hidden_state[0]
        at = 0
        for one in rendered:
            alone = model.model(input_ids=torch.tensor([list(one.ids[:-1])]), use_cache=False)
            torch.testing.assert_close(
                packed[at : at + one.num_inputs], alone.last_hidden_state[0], atol=2e-5, rtol=0
            )
            at += one.num_inputs
