"""Our masks and losses are TRL's on the same data."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from teenytinyllama.modeling.loading import load_base
from teenytinyllama.stages.align.conversation_packing import Rendered, best_fit, lay_out
from teenytinyllama.stages.align.dpo_task import (
    Pair,
    PreferenceLoss,
    lay_out_pairs,
    reference_of,
    render_last,
)
from teenytinyllama.stages.align.sft_task import AnswerLoss
from teenytinyllama.synthetic import dataset as synthetic

pytestmark = pytest.mark.slow
LENGTH = 128


def tensors_of(arrays: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(a) for name, a in arrays.items()}


def some_messages(count: int) -> list[Any]:
    made = synthetic.conversations(num_conversations=3 * count, split="train", seed=7)
    return [one["messages"] for one in made if len(one["messages"]) <= 4][:count]


def test_sft_masks_and_loss(
    small_base_dir: Path, small_tokenizer_dir: Path, tmp_path: Path
) -> None:
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    model, encoder = load_base(small_base_dir, small_tokenizer_dir)
    told = some_messages(8)
    trainer = trl.SFTTrainer(
        model=copy.deepcopy(model),
        processing_class=AutoTokenizer.from_pretrained(small_tokenizer_dir),
        train_dataset=datasets.Dataset.from_list([{"messages": m} for m in told]),
        args=trl.SFTConfig(
            str(tmp_path), assistant_only_loss=True, bf16=False, use_cpu=True, report_to="none",
            gradient_checkpointing=False, max_length=LENGTH,
        ),
    )  # fmt: skip
    rendered = [Rendered(*encoder.render_with_mask(m)) for m in told]
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(told))])
    for one, ids, labels in zip(rendered, batch["input_ids"], batch["labels"], strict=True):
        assert ids[: len(one.ids)].tolist() == list(one.ids)
        learnt = [i if m else -100 for i, m in zip(one.ids, one.mask, strict=True)]
        assert labels[: len(one.ids)].tolist() == learnt
        assert set(labels[len(one.ids) :].tolist()) <= {-100}
    with torch.no_grad():
        theirs = float(trainer.compute_loss(trainer.model, dict(batch)))
        rows = best_fit([one.num_inputs for one in rendered], LENGTH)
        ours = AnswerLoss(model)(**tensors_of(lay_out(rendered, rows, LENGTH, pad_id=3)))
    num_learnt = sum(one.num_supervised for one in rendered)
    assert float(ours) / num_learnt == pytest.approx(theirs, rel=1e-4)


def test_dpo_loss(small_base_dir: Path, small_tokenizer_dir: Path, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    reference, encoder = load_base(small_base_dir, small_tokenizer_dir)
    policy = copy.deepcopy(reference)
    with torch.no_grad():
        policy.lm_head.weight.mul_(1.5)
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Onde mora {name}?"}],
            "chosen": [{"role": "assistant", "content": f"{name} mora no bosque."}],
            "rejected": [{"role": "assistant", "content": "Não sei dizer, desculpe."}],
        }
        for name in ("Bia", "Juca", "Duda", "Pipo")
    ]
    trainer = trl.DPOTrainer(
        model=policy,
        ref_model=reference,
        processing_class=AutoTokenizer.from_pretrained(small_tokenizer_dir),
        train_dataset=datasets.Dataset.from_list(rows),
        args=trl.DPOConfig(
            str(tmp_path), beta=0.3, bf16=False, use_cpu=True, report_to="none",
            gradient_checkpointing=False, max_length=LENGTH, per_device_train_batch_size=4,
        ),
    )  # fmt: skip
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(rows))])
    pairs = [
        Pair(
            render_last(row["prompt"] + row["chosen"], encoder),  # type: ignore[arg-type]
            render_last(row["prompt"] + row["rejected"], encoder),  # type: ignore[arg-type]
        )
        for row in rows
    ]
    arrays = {
        **lay_out_pairs(pairs, LENGTH, pad_id=3),
        "reference": reference_of(reference, pairs, LENGTH, 3),
    }
    with torch.no_grad():
        theirs = float(trainer.compute_loss(trainer.model, batch))
        ours = float(PreferenceLoss(policy, 0.3)(**tensors_of(arrays))) / len(pairs)
    assert theirs != pytest.approx(0.6931, abs=1e-3)
    assert ours == pytest.approx(theirs, rel=1e-4)
