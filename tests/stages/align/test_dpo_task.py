from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.graphs import train_as_on_a_gpu
from support.tiny_training import loop_of
from transformers import AutoTokenizer

from teenytinyllama.artifacts.tokenizer import TextEncoder, load_tokenizer
from teenytinyllama.errors import UserError
from teenytinyllama.modeling.loading import load_base
from teenytinyllama.settings.datasets import Source
from teenytinyllama.settings.post_training import AlignSettings, DpoSettings
from teenytinyllama.settings.training import LoraSettings, OptimizerSettings, ScheduleSettings
from teenytinyllama.stages.align import stage as align
from teenytinyllama.stages.align.chat_dataset import ChatData
from teenytinyllama.stages.align.dpo_task import (
    PreferenceLoss,
    PreferencePair,
    lay_out_pairs,
    pair_log_probabilities,
    render_last,
    train_on_preferences,
)
from teenytinyllama.stages.align.sft_task import SftTask, train_settings_of
from teenytinyllama.stages.interface import StageContext

LENGTH = 128
WORDS = ("bosque", "lago", "vale", "mercado", "circo")


def turns(question: str, answer: str) -> Any:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def some_pairs(encoder: TextEncoder, count: int) -> list[PreferencePair]:
    return [
        PreferencePair(
            render_last(turns(f"Onde {n}?", f"No {WORDS[n % 5]}."), encoder),
            render_last(turns(f"Onde {n}?", "Não sei " * (1 + n % 3)), encoder),
        )
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def encoder(small_tokenizer_dir: Path) -> TextEncoder:
    return load_tokenizer(small_tokenizer_dir)


def test_only_the_last_answer_is_supervised(encoder: TextEncoder) -> None:
    messages = turns("Oi", "Olá!") + turns("E aí?", "Tudo bem.")
    one = render_last(messages, encoder)
    supervised = [i for i, m in zip(one.ids, one.mask, strict=True) if m]
    assert supervised == [*encoder.encode("Tudo bem."), 2]


def test_log_probabilities_are_those_of_each_answer_alone(
    small_base_dir: Path, small_tokenizer_dir: Path, encoder: TextEncoder
) -> None:
    model, _ = load_base(small_base_dir, small_tokenizer_dir)
    pairs = some_pairs(encoder, 5)
    found = pair_log_probabilities(model, pairs, 100, 3)
    for pair, both in zip(pairs, found, strict=True):
        for one, value in zip((pair.chosen, pair.rejected), both, strict=True):
            ids = torch.tensor([list(one.ids)])
            with torch.no_grad():
                each = model(ids, use_cache=False).logits[0, :-1].log_softmax(-1)
            picked = each.gather(-1, ids[0, 1:, None])[:, 0]
            alone = float(picked[torch.tensor(one.mask[1:]) == 1].sum())
            assert value == pytest.approx(alone, abs=1e-3)


def test_the_loss_by_hand(
    small_base_dir: Path, small_tokenizer_dir: Path, encoder: TextEncoder
) -> None:
    """-log sigmoid(beta ((c - c_ref) - (r - r_ref))), summed over pairs."""
    model, _ = load_base(small_base_dir, small_tokenizer_dir)
    pairs = some_pairs(encoder, 3)
    now = pair_log_probabilities(model, pairs, 100, 3)
    reference = now - np.array([[0.5, -0.25], [0.0, 0.0], [-1.0, 1.0]], np.float32)
    arrays = {**lay_out_pairs(pairs, 100, pad_id=3), "reference": reference}
    with torch.no_grad():
        loss = PreferenceLoss(model, beta=0.2)(
            **{name: torch.from_numpy(a) for name, a in arrays.items()}
        )
    gains = np.array([0.75, 0.0, -2.0])
    assert float(loss) == pytest.approx(float(np.log1p(np.exp(-0.2 * gains)).sum()), abs=1e-4)


def settings_for(path: Path, **changes: Any) -> AlignSettings:
    return AlignSettings(
        sources=(Source(kind="storybook", num_documents=40, seed=7),),
        num_epochs=1,
        sequence_length=128,
        tokens_per_step=512,
        optimizer=OptimizerSettings(peak_learning_rate=1e-2),
        schedule=ScheduleSettings(kind="linear", warmup_steps=1),
        heldout_fraction=0.25,
        max_quarantined_fraction=0.05,
        num_questions=2,
        max_answer_tokens=4,
        precision="fp32",
        preferences=(Source(kind="files", path=str(path), only={"lang": "pt"}),),
        dpo=DpoSettings(
            num_epochs=4,
            pairs_per_step=8,
            optimizer=OptimizerSettings(peak_learning_rate=3e-3, weight_decay=0.0),
        ),
        **changes,
    )


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4)])
def test_dpo_learns_preferences_and_leaves_a_plain_model(
    small_base_dir: Path,
    small_tokenizer_dir: Path,
    stage_context: StageContext,
    tmp_path: Path,
    lora: LoraSettings | None,
) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"Onde {n}?", "chosen": f"No {WORDS[n % 5]}.", "rejected": "Não sei nada."}
        for n in range(40)
    ]
    rows = [row | {"lang": "pt"} for row in rows] + [rows[0] | {"lang": "en"}]
    broken = {"prompt": "Onde?", "chosen": "", "rejected": "b", "lang": "pt"}
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, broken]))
    chat_dir = tmp_path / "align"
    chat_dir.mkdir()
    result = align.run(
        settings=settings_for(path, lora=lora),
        context=stage_context,
        out_dir=chat_dir,
        tokenizer_dir=small_tokenizer_dir,
        pretrain_dir=small_base_dir,
    )
    counts = result.counts["preferences"]
    assert counts["read"] == 41 == counts["train"] + counts["heldout"] + counts["quarantined"]
    assert (counts["not_selected"], counts["quarantined"]) == (1, 1)
    assert result.counts["conversations_quarantined"] == 0
    assert result.metrics["dpo"]["reward_accuracy"] > 0.9
    assert result.metrics["dpo"]["reward_margin_mean"] > 0
    model, _ = load_base(chat_dir, small_tokenizer_dir)
    assert not [name for name, _ in model.named_parameters() if "lora" in name]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"instruction": "a", "output": "b"}, "expected prompt, chosen and rejected, found"),
        (
            {"prompt": "a", "chosen": "b", "rejected": "b"},
            "1 of 1 preferences cannot be used, .* are equal",
        ),
    ],
)
def test_records_that_are_not_preferences_are_refused(
    small_base_dir: Path,
    small_tokenizer_dir: Path,
    stage_context: StageContext,
    tmp_path: Path,
    row: dict[str, str],
    message: str,
) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(row | {"lang": "pt"}) + "\n")
    with pytest.raises(UserError, match=message):
        align.run(
            settings=settings_for(path),
            context=stage_context,
            out_dir=tmp_path,
            tokenizer_dir=small_tokenizer_dir,
            pretrain_dir=small_base_dir,
        )


@pytest.mark.slow
def test_the_loss_is_trls(small_base_dir: Path, small_tokenizer_dir: Path, tmp_path: Path) -> None:
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
        PreferencePair(
            render_last(row["prompt"] + row["chosen"], encoder),  # type: ignore[arg-type]
            render_last(row["prompt"] + row["rejected"], encoder),  # type: ignore[arg-type]
        )
        for row in rows
    ]
    arrays = {
        **lay_out_pairs(pairs, LENGTH, pad_id=3),
        "reference": pair_log_probabilities(reference, pairs, LENGTH, 3),
    }
    with torch.no_grad():
        theirs = float(trainer.compute_loss(trainer.model, batch))
        tensors = {name: torch.from_numpy(a) for name, a in arrays.items()}
        ours = float(PreferenceLoss(policy, 0.3)(**tensors)) / len(pairs)
    assert theirs != pytest.approx(0.6931, abs=1e-3)
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_sft_and_dpo_attend_causally_by_blocks_and_do_not_recompile(
    small_base_dir: Path,
    small_tokenizer_dir: Path,
    encoder: TextEncoder,
    stage_context: StageContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SFT is compiled, DPO after it is not: its micro-batches have many shapes."""
    graphs = train_as_on_a_gpu(monkeypatch)
    model, _ = load_base(small_base_dir, small_tokenizer_dir)
    settings = settings_for(tmp_path / "none.jsonl")
    pairs = some_pairs(encoder, 80)
    data = ChatData(train=[one.chosen for one in pairs], heldout=[one.rejected for one in pairs])
    sft = SftTask(model, data, settings, encoder, small_tokenizer_dir)
    plan = train_settings_of(settings, settings, 3, stage_context)
    loop = loop_of(tmp_path / "sft", task=sft, plan=plan)
    with torch._dynamo.config.patch(error_on_recompile=True):
        sft.heldout_loss(model)
        loop.run()
    assert graphs.with_calls("flex_attention") == 1
    num_graphs = len(graphs)
    train_on_preferences(
        sft,
        pairs[:3],
        pairs[3:5],
        settings,
        encoder,
        out_dir=tmp_path / "dpo",
        context=stage_context,
    )
    assert len(graphs) == num_graphs
    assert graphs.calls("scaled_dot_product_attention") == []
