"""The loss on answers: by transformers, by TRL, and independent of packing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from teenytinyllama.modeling.loading import load_base
from teenytinyllama.stages.align.conversation_packing import Rendered, best_fit, lay_out
from teenytinyllama.stages.align.sft_task import AnswerLoss, answer_loss
from teenytinyllama.synthetic import dataset as synthetic

LENGTH = 128


def tensors_of(arrays: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(a) for name, a in arrays.items()}


def some_messages(count: int) -> list[Any]:
    made = synthetic.conversations(num_conversations=3 * count, split="train", seed=7)
    return [one["messages"] for one in made if len(one["messages"]) <= 4][:count]


@pytest.mark.slow
def test_masks_and_loss_are_trls(
    small_base_dir: Path, small_tokenizer_dir: Path, tmp_path: Path
) -> None:
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    model, encoder = load_base(small_base_dir, small_tokenizer_dir)
    conversations = some_messages(8)
    trainer = trl.SFTTrainer(
        model=copy.deepcopy(model),
        processing_class=AutoTokenizer.from_pretrained(small_tokenizer_dir),
        train_dataset=datasets.Dataset.from_list([{"messages": m} for m in conversations]),
        args=trl.SFTConfig(
            str(tmp_path), assistant_only_loss=True, bf16=False, use_cpu=True, report_to="none",
            gradient_checkpointing=False, max_length=LENGTH,
        ),
    )  # fmt: skip
    rendered = [Rendered(*encoder.render_with_mask(m)) for m in conversations]
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(conversations))])
    for one, ids, labels in zip(rendered, batch["input_ids"], batch["labels"], strict=True):
        assert ids[: len(one.ids)].tolist() == list(one.ids)
        supervised = [i if m else -100 for i, m in zip(one.ids, one.mask, strict=True)]
        assert labels[: len(one.ids)].tolist() == supervised
        assert set(labels[len(one.ids) :].tolist()) <= {-100}
    with torch.no_grad():
        theirs = float(trainer.compute_loss(trainer.model, dict(batch)))
        rows = best_fit([one.num_inputs for one in rendered], LENGTH)
        ours = AnswerLoss(model)(**tensors_of(lay_out(rendered, rows, LENGTH, pad_id=3)))
    num_supervised = sum(one.num_supervised for one in rendered)
    assert float(ours) / num_supervised == pytest.approx(theirs, rel=1e-4)


def test_the_loss_of_a_row_sums_its_conversations(
    small_base_dir: Path, small_tokenizer_dir: Path
) -> None:
    """The reference is transformers' own loss, conversation by conversation."""
    model, encoder = load_base(small_base_dir, small_tokenizer_dir)
    rendered = [Rendered(*encoder.render_with_mask(m)) for m in some_messages(4)]
    row = lay_out(rendered, best_fit([o.num_inputs for o in rendered], 128), 128, pad_id=3)
    with torch.no_grad():
        ours = AnswerLoss(model)(**tensors_of(row))
        theirs = 0.0
        for one in rendered:
            ids, mask = np.array(one.ids), np.array(one.mask)
            labels = torch.from_numpy(np.where(mask, ids, -100))[None]
            loss = model(input_ids=torch.tensor([list(one.ids)]), labels=labels).loss
            theirs += float(loss) * one.num_supervised
    assert abs(float(ours) - theirs) < 1e-3 * theirs


def test_heldout_loss_does_not_depend_on_the_row_length(
    small_base_dir: Path, small_tokenizer_dir: Path
) -> None:
    model, encoder = load_base(small_base_dir, small_tokenizer_dir)
    made = synthetic.conversations(num_conversations=12, split="train", seed=7)
    both: list[Any] = [one["messages"][:2] for one in made if one["messages"][0]["role"] == "user"]
    rendered = [Rendered(*encoder.render_with_mask(messages)) for messages in both]
    with torch.no_grad():
        short = answer_loss(model, rendered, 100, 3)
        long = answer_loss(model, rendered, 128, 3)
    assert abs(short - long) < 1e-5
