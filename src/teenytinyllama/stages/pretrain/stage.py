"""Stage pretrain: token sequences to a base model (paper 3.4, 3.5).

Leaves `step-NNNNNNN/` checkpoints, `metrics.jsonl`, `samples.jsonl`, and `final/`: a plain
Hugging Face Llama with its tokenizer. A killed run resumes from its newest valid checkpoint and
ends in the same bytes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from teenytinyllama import hardware
from teenytinyllama.artifacts.tokenizer import TextEncoder, load_tokenizer
from teenytinyllama.artifacts.tokens import TokenFile, open_tokens, read_index
from teenytinyllama.errors import UserError
from teenytinyllama.modeling import model_size as sizes
from teenytinyllama.modeling.initialization import (
    InitialModel,
    initialize_from,
    initialize_randomly,
)
from teenytinyllama.modeling.loading import save_final
from teenytinyllama.settings.pretraining import PretrainSettings
from teenytinyllama.stages.interface import StageContext, StageResult
from teenytinyllama.stages.pretrain.document_layout import DocumentLayout
from teenytinyllama.stages.pretrain.ensemble import load_teachers, train_members
from teenytinyllama.stages.pretrain.pretrain_task import PretrainTask
from teenytinyllama.training.data_order import PhasedOrder, SequenceOrder
from teenytinyllama.training.distillation import Ensemble
from teenytinyllama.training.launch import start_strategy
from teenytinyllama.training.loop import TrainLoop
from teenytinyllama.training.second_token import remove_second_token
from teenytinyllama.training.task import TrainSettings

logger = logging.getLogger(__name__)


def run(
    *,
    settings: PretrainSettings,
    context: StageContext,
    out_dir: Path,
    tokenizer_dir: Path,
    pack_dir: Path,
) -> StageResult:
    """Train a base model; return counts of steps and tokens, and metrics of speed and loss."""
    hardware.check_precision(settings.precision, hardware.present_device())
    train = partial(_train, context=context, tokenizer_dir=tokenizer_dir, pack_dir=pack_dir)
    rows = sizes.padded_vocab_size(load_tokenizer(tokenizer_dir).vocab_size)
    teachers = load_teachers(settings, tokenizer_dir, rows)
    if settings.ensemble.members:
        teachers += train_members(settings, out_dir, train)
    return train(settings, out_dir, Ensemble(teachers) if teachers else None)


def _train(
    settings: PretrainSettings,
    out_dir: Path,
    teacher: Ensemble | None,
    *,
    context: StageContext,
    tokenizer_dir: Path,
    pack_dir: Path,
) -> StageResult:
    """One model: the final one, or a member of an ensemble."""
    encoder = load_tokenizer(tokenizer_dir)
    index = read_index(pack_dir)
    _check_tokenizer(index, encoder, pack_dir)
    tokens = open_tokens(pack_dir, "train", verify=True)
    phases = index["splits"]["train"].get("phases", [])
    if settings.decay_in_last_phase:
        settings = _decay_in_last_phase(settings, phases, pack_dir)
    order = _order(tokens, settings, pack_dir, phases)
    start = _start(settings, encoder, tokenizer_dir)
    task = PretrainTask(
        settings,
        start,
        order,
        tokens=tokens if phases else _layout(tokens, settings),
        heldout=open_tokens(pack_dir, "heldout"),
        encoder=encoder,
        tokenizer_dir=tokenizer_dir,
        tokens_sha256=str(index["splits"]["train"]["tokens"]["sha256"]),
        context=context,
        teacher=teacher,
    )
    train_settings = _train_settings(settings, context, rows_per_epoch=order.num_sequences)
    strategy = start_strategy(task, train_settings)
    loop = TrainLoop(task, train_settings, strategy, out_dir, context.meter)
    before = loop.scores() if settings.start_from else {}
    metrics = loop.run()
    remove_second_token(start.model)
    if strategy.is_main:
        save_final(start.model, out_dir / "final", tokenizer_dir)
    return StageResult(
        counts={
            "steps": metrics["num_steps"],
            "tokens": metrics["tokens"],
            "sequences_in_data": order.num_sequences,
            "parameters": sizes.num_parameters(start.settings, encoder.vocab_size),
        },
        metrics={
            **metrics,
            "epochs": round(order.epochs_at(metrics["num_steps"]), 4),
            "uniform_loss": math.log(encoder.vocab_size),
            "model_class": type(start.model).__name__,
            **_start_metrics(start, before),
            **(_ensemble_metrics(task, teacher) if teacher else {}),
        },
    )


def _start(settings: PretrainSettings, encoder: TextEncoder, tokenizer_dir: Path) -> InitialModel:
    special_ids = {
        "bos_id": encoder.bos_id,
        "eos_id": encoder.eos_id,
        "pad_id": encoder.pad_id,
    }
    if settings.start_from:
        start = initialize_from(settings.start_from, settings.model, tokenizer_dir, special_ids)
        if settings.sequence_length > start.settings.max_position_embeddings:
            raise UserError(
                "sequence-too-long",
                f"pretrain.sequence_length = {settings.sequence_length}",
                f"{settings.start_from} reads {start.settings.max_position_embeddings} tokens",
                f"--set pretrain.sequence_length={start.settings.max_position_embeddings}",
            )
    else:
        num_rows = sizes.padded_vocab_size(encoder.vocab_size)
        if num_rows > encoder.vocab_size:
            logger.info(
                f"pretrain: {encoder.vocab_size:,} tokens are not a multiple of 64: embedding and "
                f"head get {num_rows:,} rows"
            )
        start = initialize_randomly(settings.model, num_rows, special_ids, settings.seed)
    if settings.attention == "flash-attn":
        try:
            start.model.set_attn_implementation("flash_attention_2")
        except (ImportError, ValueError) as error:
            raise UserError(
                "flash-attn-missing",
                'pretrain.attention = "flash-attn"',
                str(error).splitlines()[0],
                'pip install flash-attn, or --set pretrain.attention="auto"',
            ) from error
    return start


def _start_metrics(start: InitialModel, before: dict[str, float]) -> dict[str, Any]:
    metrics: dict[str, Any] = {f"{name}_at_start": value for name, value in before.items()}
    if start.num_shared_tokens is not None:
        metrics["num_shared_tokens"] = start.num_shared_tokens
    return metrics


def _ensemble_metrics(task: PretrainTask, teacher: Ensemble) -> dict[str, Any]:
    """Members and ensemble, to compare the final model with."""
    if not task.heldout_documents:
        return {}
    return {
        "heldout_bpb_of_members": [task.score_heldout(m) for m in teacher.members],
        "heldout_bpb_of_ensemble": task.score_heldout(teacher),
    }


def _train_settings(
    settings: PretrainSettings, context: StageContext, *, rows_per_epoch: int
) -> TrainSettings:
    return TrainSettings(
        num_steps=settings.num_steps,
        optimizer=settings.optimizer,
        schedule=settings.schedule,
        checkpoints=settings.checkpoints,
        precision=settings.precision,
        compile=settings.compile,
        attention=settings.attention,
        activation_checkpointing=settings.activation_checkpointing,
        micro_batch=settings.micro_batch,
        gradient_shards=settings.gradient_shards,
        seed=settings.seed,
        log_every_steps=settings.log_every_steps,
        evaluate_every_steps=settings.evaluate_every_steps,
        rows_per_epoch=rows_per_epoch,
        keep_best=settings.checkpoints.keep_weights == "best",
        ema_decay=settings.averaging.ema_decay,
        average_epochs=settings.averaging.last_epochs,
        overfitting_margin=settings.overfitting.margin,
        stop_when_overfitting=settings.overfitting.stop,
        sample_every_steps=settings.sample_every_steps,
        trackers=settings.trackers,
        run_name=context.run_name,
        usd_per_gpu_hour=context.energy.usd_per_gpu_hour,
    )


def _check_tokenizer(index: Mapping[str, Any], encoder: TextEncoder, pack_dir: Path) -> None:
    if index["tokenizer"] != encoder.fingerprint:
        raise UserError(
            "tokens-other-tokenizer",
            str(pack_dir),
            f"packed with tokenizer {index['tokenizer'][:12]}, here is {encoder.fingerprint[:12]}",
            "run `ttl pack RECIPE`",
        )


def _decay_in_last_phase(
    settings: PretrainSettings, phases: Sequence[Mapping[str, Any]], pack_dir: Path
) -> PretrainSettings:
    if not phases:
        raise UserError(
            "no-last-phase",
            str(pack_dir),
            "was packed without phases, and pretrain.decay_in_last_phase = true",
            "--set pretrain.decay_in_last_phase=false",
        )
    schedule = settings.schedule.model_copy(update={"decay_fraction": phases[-1]["share"]})
    return settings.model_copy(update={"schedule": schedule})


def _order(
    tokens: TokenFile,
    settings: PretrainSettings,
    pack_dir: Path,
    phases: Sequence[Mapping[str, Any]],
) -> SequenceOrder | PhasedOrder:
    num_sequences = tokens.num_sequences(settings.sequence_length)
    rows_per_step = settings.tokens_per_step // settings.sequence_length
    if num_sequences < rows_per_step:
        raise UserError(
            "too-few-tokens",
            str(pack_dir),
            f"{tokens.num_tokens:,} training tokens make {num_sequences} sequences of "
            f"{settings.sequence_length}, one step needs {rows_per_step}",
            "add text, or lower pretrain.tokens_per_step",
        )
    num_epochs = settings.num_steps * rows_per_step / num_sequences
    if settings.averaging.last_epochs > max(num_epochs, 1):
        raise UserError(
            "averaging-too-long",
            f"pretrain.averaging.last_epochs = {settings.averaging.last_epochs}",
            f"the training has {num_epochs:.3g} epochs of {num_sequences:,} rows",
            f"--set pretrain.averaging.last_epochs={int(num_epochs) if num_epochs >= 2 else 0}, "
            "or more num_steps",
        )
    if phases:
        if num_epochs > 1:
            most = num_sequences // rows_per_step
            raise UserError(
                "phases-too-short",
                str(pack_dir),
                f"its phases have {num_sequences:,} rows of {settings.sequence_length}, the "
                f"training reads {settings.num_steps * rows_per_step:,}",
                f"--set pretrain.num_steps={most}, or more pack.num_tokens",
            )
        ends = np.cumsum([phase["num_tokens"] for phase in phases])
        # A row that reaches into the next phase belongs to the one that it begins in.
        starts = [0, *(-(-int(end) // settings.sequence_length) for end in ends[:-1])]
        return PhasedOrder(
            (*starts, num_sequences), settings.num_steps, rows_per_step, settings.seed
        )
    return SequenceOrder(num_sequences, rows_per_step, settings.seed, settings.shuffle_documents)


def _layout(tokens: TokenFile, settings: PretrainSettings) -> TokenFile | DocumentLayout:
    if not settings.shuffle_documents:
        return tokens
    return DocumentLayout(tokens, settings.sequence_length, settings.seed)
