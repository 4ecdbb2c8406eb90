"""Stage align: base model to chat model (paper 4.3).

Supervised fine-tuning on conversations, then DPO where there are preferences. Leaves `final/` in
plain Hugging Face form with the chat template, and `examples.jsonl`: answers to held-out questions.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from teenytinyllama.errors import UserError
from teenytinyllama.modeling.loading import load_base, save_final
from teenytinyllama.modeling.lora import add_lora
from teenytinyllama.settings.post_training import AlignSettings
from teenytinyllama.stages.align.chat_dataset import (
    ChatData,
    heldout_questions,
    read_chat_data,
    write_conversations,
    write_quarantine,
)
from teenytinyllama.stages.align.chat_evaluation import answer_all, answer_metrics, write_answers
from teenytinyllama.stages.align.dpo_task import num_dpo_steps, read_pairs, train_on_preferences
from teenytinyllama.stages.align.sft_task import SftTask, train_settings_of
from teenytinyllama.stages.interface import StageContext, StageResult
from teenytinyllama.training.launch import start_strategy
from teenytinyllama.training.loop import TrainLoop
from teenytinyllama.training.schedule_check import check_training


def run(
    *,
    settings: AlignSettings,
    context: StageContext,
    out_dir: Path,
    tokenizer_dir: Path,
    pretrain_dir: Path,
) -> StageResult:
    """Train on conversations; return counts of them, and metrics of loss, speed and answers."""
    model, encoder = load_base(pretrain_dir, tokenizer_dir)
    length = settings.sequence_length
    _check_length(length, model.config.max_position_embeddings)
    data = read_chat_data(settings, encoder, length + 1, context.language)
    pairs = None
    if settings.preferences:
        pairs = read_pairs(settings, encoder, data, length + 1, context.language)
    processes = context.processes
    if processes.is_leader:
        write_quarantine(data, out_dir)
        write_conversations(data, out_dir)
    model.generation_config = GenerationConfig(
        bos_token_id=encoder.bos_id, eos_token_id=encoder.eos_id, pad_token_id=encoder.pad_id
    )
    merge_lora = add_lora(model, settings.lora, seed=settings.seed) if settings.lora else None
    task = SftTask(model, data, settings, encoder, tokenizer_dir)
    num_steps = max(1, math.ceil(settings.num_epochs * len(task.rows) / task.order.rows_per_step))
    check_training("align", settings.schedule, num_epochs=settings.num_epochs, num_steps=num_steps)
    if pairs:
        check_training(
            "align.dpo",
            settings.dpo.schedule,
            num_epochs=settings.dpo.num_epochs,
            num_steps=num_dpo_steps(settings, pairs[0]),
        )
    train_settings = train_settings_of(settings, settings, num_steps, context)
    strategy = start_strategy(task, train_settings)
    loss_before = task.heldout_loss(model)
    metrics = TrainLoop(task, train_settings, strategy, out_dir, context.meter).run()
    if merge_lora:
        merge_lora()
    model.float().to(strategy.device).eval()
    del strategy  # or it would take part in the passes of DPO
    loss_after = task.heldout_loss(model)
    if pairs:
        metrics["dpo"] = train_on_preferences(
            task,
            *pairs,
            settings,
            encoder,
            out_dir=out_dir / "dpo",
            context=context,
        )
        model.eval()
    answers = []
    if processes.is_leader:
        save_final(model, out_dir / "final", tokenizer_dir)
        questions = heldout_questions(settings, data, context.language)
        answers = answer_all(model, encoder, questions, max_new_tokens=settings.max_answer_tokens)
        write_answers(answers, out_dir, context.run_name)
    answers = processes.broadcast(answers)
    counted = _counts(data, len(task.rows), length)
    packing = counted["packing"]
    supervised = task.order.epochs_at(metrics["num_steps"]) * packing["supervised_tokens"]
    return StageResult(
        counts=counted,
        metrics={
            "heldout_answer_loss": loss_after,
            **answer_metrics(answers, data.train_answers, context.language),
            "heldout_answer_loss_before": loss_before,
            "padding_fraction": packing["padding_tokens"] / (len(task.rows) * length),
            "supervised_fraction": packing["supervised_tokens"] / (len(task.rows) * length),
            "supervised_tokens_per_s": supervised / max(metrics["training_seconds"], 1e-9),
            **metrics,
        },
    )


def _check_length(length: int, context: int) -> None:
    if length > context:
        where, what = (
            f"align.sequence_length = {length}",
            f"the model's context is {context} tokens",
        )
        fix = f"--set align.sequence_length={context}"
        raise UserError("sequence-too-long", where, what, fix)


def _counts(data: ChatData, num_rows: int, length: int) -> dict[str, Any]:
    kinds = ("read", "train", "heldout", "quarantined")
    cut = (
        "conversations_not_selected",
        "conversations_truncated",
        "turns_cut",
        "conversations_with_special_text",
        "answers_with_weight_0",
        "heldout_questions_in_train",
    )
    counts: dict[str, Any] = {
        **{f"conversations_{kind}": data.counts[f"conversations_{kind}"] for kind in kinds},
        "quarantined_by_reason": dict(sorted(data.reasons.items())),
        "cleaning": {name: data.counts[name] for name in cut},
        "packing": {
            "rows": num_rows,
            "supervised_tokens": sum(one.num_supervised for one in data.train),
            "padding_tokens": num_rows * length - sum(one.num_inputs for one in data.train),
        },
    }
    if data.unused_fields:
        counts["fields_not_used"] = dict(sorted(data.unused_fields.items()))
    if data.personal:
        counts["conversations_with_personal_data"] = dict(sorted(data.personal.items()))
    if data.counts["preferences_read"]:
        names = ("not_selected", "read", "train", "heldout", "quarantined")
        counts["preferences"] = {name: data.counts[f"preferences_{name}"] for name in names}
    return counts
