"""STAGE align: base model to chat model (paper 4.3).

Learns the assistant's words and their end mark from conversations, several to a row without
seeing each other, and leaves `final/` in plain Hugging Face form with the chat template, beside
`examples.jsonl`: its answers to questions it has not seen.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from teenytinyllama.artifacts.tokenizer import TextEncoder
from teenytinyllama.errors import UserError
from teenytinyllama.modeling.loading import copy_tokenizer, load_base, save_final
from teenytinyllama.modeling.lora import add_lora
from teenytinyllama.modeling.model_size import flops_per_token_of
from teenytinyllama.settings.post_training import AlignSettings
from teenytinyllama.stages.align.chat_dataset import (
    ChatData,
    heldout_questions,
    read_chat_data,
    write_conversations,
    write_quarantine,
)
from teenytinyllama.stages.align.chat_evaluation import answer_all, figures_of, write_answers
from teenytinyllama.stages.align.conversation_packing import Rendered, best_fit, lay_out
from teenytinyllama.stages.align.dpo_task import read_pairs, train_on_preferences
from teenytinyllama.stages.interface import StageContext, StageResult
from teenytinyllama.training.data_order import SequenceOrder
from teenytinyllama.training.loop import Loop
from teenytinyllama.training.losses import head_loss
from teenytinyllama.training.task import Job, MicroBatch, TrainSettings

logger = logging.getLogger(__name__)


# B micro-batch, T sequence, H hidden, S supervised places of a micro-batch


class AnswerLoss(nn.Module):
    """A causal model with the summed loss of its answers.

    The head multiplies supervised places only: prompts and padding cost no logits.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, places: Tensor, targets: Tensor
    ) -> Tensor:
        """Summed loss: `input_ids`, `position_ids` (B, T), `places`, `targets` (S,).

        Without `use_cache=False` one conversation of a row would see those before it.
        """
        hidden = self.model.model(
            input_ids=input_ids, position_ids=position_ids, use_cache=False
        ).last_hidden_state  # (B, T, H)
        learnt = hidden.flatten(0, 1).index_select(0, places)  # (S, H)
        return head_loss(self.model, learnt, targets)


def run(
    *,
    settings: AlignSettings,
    context: StageContext,
    out_dir: Path,
    tokenizer_dir: Path,
    pretrain_dir: Path,
) -> StageResult:
    """Train on conversations; return counts of them, and figures of loss, speed and answers."""
    model, encoder = load_base(pretrain_dir, tokenizer_dir)
    length = settings.sequence_length
    if length > model.config.max_position_embeddings:
        raise UserError(
            "sequence-too-long",
            f"align.sequence_length = {length}",
            f"the model's context is {model.config.max_position_embeddings} tokens",
            f"--set align.sequence_length={model.config.max_position_embeddings}",
        )
    data = read_chat_data(settings, encoder, length + 1, context.language)
    pairs = read_pairs(settings, encoder, data, length + 1) if settings.preferences else None
    write_quarantine(data, out_dir)
    write_conversations(data, out_dir)
    rows = best_fit([one.num_inputs for one in data.train], length)
    order = SequenceOrder(len(rows), settings.tokens_per_step // length, settings.seed)
    num_steps = max(1, math.ceil(settings.num_epochs * len(rows) / order.rows_per_step))
    if settings.schedule.warmup_steps >= num_steps:
        logger.info(
            f"align: all {num_steps} steps warm up: schedule.warmup_steps is as large or larger"
        )
    model.generation_config = GenerationConfig(
        bos_token_id=encoder.bos_id, eos_token_id=encoder.eos_id, pad_token_id=encoder.pad_id
    )
    merge_lora = add_lora(model, settings.lora, seed=settings.seed) if settings.lora else None
    job = _job(model, data, rows, order, settings, encoder, tokenizer_dir)
    loop = Loop(job, _loop_settings(settings, num_steps, context), out_dir, context.meter)
    # The loop has put the base model on its device and has not yet looked for a checkpoint.
    loss_before = heldout_loss(model, data.heldout, length, encoder.pad_id)
    metrics = loop.run()
    if merge_lora:
        merge_lora()
    model.float().eval()
    loss_after = heldout_loss(model, data.heldout, length, encoder.pad_id)
    if pairs:
        metrics["dpo"] = train_on_preferences(
            model,
            *pairs,
            settings,
            encoder,
            out_dir=out_dir / "dpo",
            context=context,
            write_model_files=job.write_model_files,
        )
        model.eval()
    save_final(model, out_dir / "final", tokenizer_dir)
    answers = answer_all(
        model,
        encoder,
        heldout_questions(settings, data, context.language),
        max_new_tokens=settings.max_answer_tokens,
    )
    write_answers(answers, out_dir, context.run_name)
    counted = _counts(data, rows, length)
    packing = counted["packing"]
    learnt = order.epochs_at(metrics["num_steps"]) * packing["supervised_tokens"]
    return StageResult(
        counts=counted,
        metrics={
            "heldout_answer_loss": loss_after,
            **figures_of(answers, data.train_answers, context.language),
            "heldout_answer_loss_before": loss_before,
            "padding_fraction": packing["padding_tokens"] / (len(rows) * length),
            "supervised_fraction": packing["supervised_tokens"] / (len(rows) * length),
            "supervised_tokens_per_s": learnt / max(metrics["training_seconds"], 1e-9),
            **metrics,
        },
    )


def _job(
    model: Any,
    data: ChatData,
    rows: Sequence[Sequence[int]],
    order: SequenceOrder,
    settings: AlignSettings,
    encoder: TextEncoder,
    tokenizer_dir: Path,
) -> Job:
    length = settings.sequence_length

    def write_model_files(folder: Path) -> None:
        model.config.save_pretrained(folder)
        model.generation_config.save_pretrained(folder)
        copy_tokenizer(tokenizer_dir, folder)

    def evaluate(trained: nn.Module) -> dict[str, float]:
        return {"heldout_loss": heldout_loss(trained, data.heldout, length, encoder.pad_id)}

    return Job(
        objective=AnswerLoss(model),
        isolates_texts=True,
        micro_batches=micro_batches(data.train, rows, order, length, encoder.pad_id),
        rows_per_step=order.rows_per_step,
        tokens_per_row=length,
        flops_per_token=flops_per_token_of(model, length),
        identity={
            "conversations": data.fingerprint(),
            "tokenizer": encoder.fingerprint[:16],
            "sequence_length": str(length),
        },
        write_model_files=write_model_files,
        evaluate=evaluate,
        describe_step=lambda step: {"rows": [int(row) for row in order.rows_of_step(step)]},
    )


def _loop_settings(settings: AlignSettings, num_steps: int, context: StageContext) -> TrainSettings:
    return TrainSettings(
        num_steps=num_steps,
        optimizer=settings.optimizer,
        schedule=settings.schedule,
        checkpoints=settings.checkpoints,
        precision=settings.precision,
        seed=settings.seed,
        log_every_steps=max(1, min(10, num_steps // 10)),
        usd_per_gpu_hour=context.energy.usd_per_gpu_hour,
    )


def micro_batches(
    conversations: Sequence[Rendered],
    rows: Sequence[Sequence[int]],
    order: SequenceOrder,
    length: int,
    pad_id: int,
) -> Callable[[int, int], Sequence[MicroBatch]]:
    """The loop's question which rows make a step, answered for packed conversations."""

    def of_step(step: int, micro_batch: int) -> Sequence[MicroBatch]:
        wanted = order.rows_of_step(step)
        cuts = [wanted[at : at + micro_batch] for at in range(0, len(wanted), micro_batch)]
        return [_micro_batch([rows[int(row)] for row in cut]) for cut in cuts]

    def _micro_batch(members: Sequence[Sequence[int]]) -> MicroBatch:
        supervised = sum(conversations[i].num_supervised for row in members for i in row)
        return MicroBatch(
            weight=float(supervised),
            num_tokens=len(members) * length,
            load=lambda: lay_out(conversations, members, length, pad_id=pad_id),
        )

    return of_step


def heldout_loss(model: Any, conversations: Sequence[Rendered], length: int, pad_id: int) -> float:
    """Nats per supervised token of conversations that were not learnt from."""
    objective = AnswerLoss(model)
    device = next(model.parameters()).device
    rows = best_fit([one.num_inputs for one in conversations], length)
    total, was_training = 0.0, model.training
    model.eval()
    # Compiled training steps have one shape; held-out rows would each be compiled anew.
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        for row in rows:
            arrays: Mapping[str, np.ndarray[Any, Any]] = lay_out(
                conversations, [row], length, pad_id=pad_id
            )
            tensors = {name: torch.from_numpy(a).to(device) for name, a in arrays.items()}
            total += float(objective(**tensors))
    model.train(was_training)
    return total / sum(one.num_supervised for one in conversations)


def _counts(data: ChatData, rows: Sequence[Sequence[int]], length: int) -> dict[str, Any]:
    kinds = ("read", "train", "heldout", "quarantined")
    cut = (
        "conversations_not_selected",
        "conversations_truncated",
        "turns_cut",
        "conversations_with_special_text",
    )
    counts: dict[str, Any] = {
        **{f"conversations_{kind}": data.counts[f"conversations_{kind}"] for kind in kinds},
        "quarantined_by_reason": dict(sorted(data.reasons.items())),
        "cleaning": {name: data.counts[name] for name in cut},
        "packing": {
            "rows": len(rows),
            "supervised_tokens": sum(one.num_supervised for one in data.train),
            "padding_tokens": len(rows) * length - sum(one.num_inputs for one in data.train),
        },
    }
    if data.personal:
        counts["conversations_with_personal_data"] = dict(sorted(data.personal.items()))
    if data.counts["preferences_read"]:
        names = ("not_selected", "read", "train", "heldout")
        counts["preferences"] = {name: data.counts[f"preferences_{name}"] for name in names}
    return counts
