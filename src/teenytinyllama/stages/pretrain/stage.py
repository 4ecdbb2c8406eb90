"""STAGE pretrain: token sequences to a base model (paper 3.4, 3.5).

Leaves `step-NNNNNNN/` checkpoints, `metrics.jsonl`, `samples.jsonl`, and `final/`: a plain
Hugging Face Llama with its tokenizer. Killed at any moment, it goes on from the newest whole
checkpoint and ends in the same bytes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from teenytinyllama import hardware
from teenytinyllama.artifacts.manifest import fingerprint_of
from teenytinyllama.artifacts.tokenizer import TextEncoder, load_tokenizer
from teenytinyllama.artifacts.tokens import TokenFile, open_tokens, read_index
from teenytinyllama.errors import UserError
from teenytinyllama.inference.bits_per_byte import EncodedDocument, score_documents
from teenytinyllama.inference.generation import generate
from teenytinyllama.languages import prompts_of
from teenytinyllama.modeling import model_size as sizes
from teenytinyllama.modeling.initialization import (
    InitialModel,
    initialize_from,
    initialize_randomly,
)
from teenytinyllama.modeling.loading import copy_tokenizer, save_final
from teenytinyllama.settings.pretraining import PretrainSettings
from teenytinyllama.stages.interface import ScoreModel, StageContext, StageResult
from teenytinyllama.stages.pretrain.repetition import repeat_passages
from teenytinyllama.training.data_order import SequenceOrder
from teenytinyllama.training.loop import Loop
from teenytinyllama.training.losses import IGNORED, NextTokenLoss
from teenytinyllama.training.task import Job, MicroBatch, TrainSettings

logger = logging.getLogger(__name__)


SAMPLE_TOKENS = 64
# Held-out tokens read during training; the evaluate stage reads all of them.
MAX_HELDOUT_TOKENS = 262_144


def run(
    *,
    settings: PretrainSettings,
    context: StageContext,
    out_dir: Path,
    tokenizer_dir: Path,
    pack_dir: Path,
) -> StageResult:
    """Train from scratch; return counts of steps and tokens, and figures of speed and loss."""
    hardware.check_precision(settings.precision, hardware.present_device())
    encoder = load_tokenizer(tokenizer_dir)
    index = read_index(pack_dir)
    _check_tokenizer(index, encoder, pack_dir)
    tokens = open_tokens(pack_dir, "train", verify=True)
    heldout = open_tokens(pack_dir, "heldout")
    order = _order(tokens, settings, pack_dir)
    start = _start(settings, encoder, tokenizer_dir)
    model = start.model

    def write_model_files(folder: Path) -> None:
        model.config.save_pretrained(folder)
        copy_tokenizer(tokenizer_dir, folder)

    job = Job(
        objective=NextTokenLoss(model, z_loss=settings.z_loss),
        micro_batches=_micro_batches(tokens, order, settings),
        rows_per_step=order.rows_per_step,
        tokens_per_row=settings.sequence_length,
        flops_per_token=sizes.flops_per_token(
            start.settings, encoder.vocab_size, settings.sequence_length
        ),
        identity={
            "tokens": str(index["splits"]["train"]["tokens"]["sha256"])[:16],
            "tokenizer": encoder.fingerprint[:16],
            "model": fingerprint_of(start.settings.model_dump(mode="json")),
        },
        write_model_files=write_model_files,
        initial_optimizer=start.optimizer,
        evaluate=_evaluation(heldout, encoder, settings, context.score_model, tokenizer_dir),
        sample=_sampling(encoder, settings, context.language),
        describe_step=lambda step: _describe_step(tokens, order, settings, step),
    )
    loop = Loop(job, _loop_settings(settings, context), out_dir, context.meter)
    before = job.evaluate(loop.model) if settings.start_from and job.evaluate else {}
    metrics = loop.run()
    if loop.is_main:
        save_final(model, out_dir / "final", tokenizer_dir)
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
            **_start_figures(start, before),
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
                'pip install flash-attn, or --set pretrain.attention="sdpa"',
            ) from error
    return start


def _start_figures(start: InitialModel, before: dict[str, float]) -> dict[str, Any]:
    metrics: dict[str, Any] = {f"{name}_at_start": value for name, value in before.items()}
    if start.num_shared_tokens is not None:
        metrics["num_shared_tokens"] = start.num_shared_tokens
    return metrics


def _loop_settings(settings: PretrainSettings, context: StageContext) -> TrainSettings:
    return TrainSettings(
        num_steps=settings.num_steps,
        optimizer=settings.optimizer,
        schedule=settings.schedule,
        checkpoints=settings.checkpoints,
        precision=settings.precision,
        compile=settings.compile,
        activation_checkpointing=settings.activation_checkpointing,
        micro_batch=settings.micro_batch,
        gradient_shards=settings.gradient_shards,
        seed=settings.seed,
        log_every_steps=settings.log_every_steps,
        evaluate_every_steps=settings.evaluate_every_steps,
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


def _order(tokens: TokenFile, settings: PretrainSettings, pack_dir: Path) -> SequenceOrder:
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
    return SequenceOrder(num_sequences, rows_per_step, settings.seed)


def _micro_batches(
    tokens: TokenFile, order: SequenceOrder, settings: PretrainSettings
) -> Callable[[int, int], Sequence[MicroBatch]]:
    length = settings.sequence_length

    def micro_batches(step: int, micro_batch: int) -> Sequence[MicroBatch]:
        rows = order.rows_of_step(step)
        cuts = [rows[at : at + micro_batch] for at in range(0, len(rows), micro_batch)]
        return [
            MicroBatch(
                weight=float(len(cut) * length),
                num_tokens=len(cut) * length,
                load=lambda cut=cut: _load(tokens, cut, settings, step),  # type: ignore[misc]
            )
            for cut in cuts
        ]

    return micro_batches


def _load(
    tokens: TokenFile, rows: NDArray[np.int64], settings: PretrainSettings, step: int
) -> dict[str, NDArray[Any]]:
    length, bos = settings.sequence_length, TextEncoder.bos_id
    block = np.stack([tokens.sequence(int(row), length) for row in rows])  # (B, T + 1)
    block = repeat_passages(block, rows, settings.repetition, step=step, seed=settings.seed)
    arrays: dict[str, NDArray[Any]] = {"input_ids": block[:, :-1], "labels": block[:, 1:]}
    if settings.isolate_documents:
        arrays["position_ids"] = positions_in_documents(block[:, :-1], bos)
        # The last token of one document does not predict the first of the next.
        arrays["labels"] = np.where(block[:, 1:] == bos, IGNORED, block[:, 1:])
    return arrays


def positions_in_documents(ids: NDArray[np.int64], bos: int) -> NDArray[np.int64]:
    """Positions that start again at every BOS: attention then keeps to one document.

    >>> positions_in_documents(np.array([[7, 8, 1, 9, 9]]), bos=1).tolist()
    [[0, 1, 0, 1, 2]]
    """
    places = np.arange(ids.shape[1])
    starts = np.where(ids == bos, places, 0)
    positions: NDArray[np.int64] = places - np.maximum.accumulate(starts, axis=1)
    return positions


def _evaluation(
    heldout: TokenFile,
    encoder: TextEncoder,
    settings: PretrainSettings,
    score_model: ScoreModel | None,
    tokenizer_dir: Path,
) -> Callable[[nn.Module], dict[str, float]] | None:
    documents, num_tokens = [], 0
    for number in range(heldout.num_documents):
        ids = heldout.document(number)
        num_tokens += len(ids)
        if num_tokens > MAX_HELDOUT_TOKENS:
            break
        documents.append(EncodedDocument(ids, len(encoder.decode(ids).encode("utf-8"))))
    if not documents:
        return None

    def evaluate(model: nn.Module) -> dict[str, float]:
        score = score_documents(
            model,
            documents,
            context_length=settings.sequence_length,
            batch_tokens=max(8192, settings.sequence_length),
        )
        tasks = score_model(model, tokenizer_dir) if score_model else {}
        return {"heldout_bpb": score.bits_per_byte, **tasks}

    return evaluate


def _sampling(
    encoder: TextEncoder, settings: PretrainSettings, language: str
) -> Callable[[nn.Module], list[dict[str, Any]]]:
    prompts = settings.sample_prompts or prompts_of(language)

    def sample(model: nn.Module) -> list[dict[str, Any]]:
        ids = [[encoder.bos_id, *encoder.encode(prompt)] for prompt in prompts]
        positions: int = model.config.max_position_embeddings  # type: ignore[union-attr, assignment]
        space = positions - max(len(row) for row in ids)
        outputs = generate(
            model,
            ids,
            max_new_tokens=max(1, min(SAMPLE_TOKENS, space)),
            stop_ids=[encoder.eos_id],
        )
        return [
            {"prompt": prompt, "text": encoder.decode([*row, *new])}
            for prompt, row, new in zip(prompts, ids, outputs, strict=True)
        ]

    return sample


def _describe_step(
    tokens: TokenFile, order: SequenceOrder, settings: PretrainSettings, step: int
) -> dict[str, Any]:
    """Which sequences and which documents stand in a step, for the record of a skipped one."""
    rows = order.rows_of_step(step)
    starts = rows.astype(np.uint64) * np.uint64(settings.sequence_length)
    ends = starts + np.uint64(settings.sequence_length)
    first = np.searchsorted(tokens.document_starts, starts, side="right") - 1
    last = np.searchsorted(tokens.document_starts, ends, side="left") - 1
    documents = sorted({int(d) for a, b in zip(first, last, strict=True) for d in range(a, b + 1)})
    return {"sequences": [int(row) for row in rows], "documents": documents}
