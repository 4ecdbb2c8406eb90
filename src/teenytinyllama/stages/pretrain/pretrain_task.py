"""What pre-training trains: next tokens of packed sequences (paper 3.4)."""

# B micro-batch, T sequence

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn
from typing_extensions import override

from teenytinyllama.artifacts.conversations import SPECIAL_IDS
from teenytinyllama.artifacts.manifest import fingerprint_of
from teenytinyllama.artifacts.tokenizer import TextEncoder
from teenytinyllama.artifacts.tokens import TokenFile
from teenytinyllama.inference.bits_per_byte import EncodedDocument, score_documents
from teenytinyllama.inference.generation import generate
from teenytinyllama.languages import prompts_of
from teenytinyllama.modeling import model_size as sizes
from teenytinyllama.modeling.initialization import InitialModel
from teenytinyllama.modeling.loading import copy_tokenizer
from teenytinyllama.settings.pretraining import PretrainSettings
from teenytinyllama.stages.interface import StageContext
from teenytinyllama.stages.pretrain.document_layout import DocumentLayout
from teenytinyllama.stages.pretrain.input_masking import mask_inputs
from teenytinyllama.stages.pretrain.repetition import repeat_passages
from teenytinyllama.training.data_order import PhasedOrder, SequenceOrder
from teenytinyllama.training.distillation import DistillationLoss, Ensemble
from teenytinyllama.training.losses import IGNORED, NextTokenLoss
from teenytinyllama.training.regularization import add_dropout
from teenytinyllama.training.task import MicroBatch, TrainTask

UNK = SPECIAL_IDS["<unk>"]
SAMPLE_TOKENS = 64
# Held-out tokens read during training; the evaluate stage reads all of them.
MAX_HELDOUT_TOKENS = 262_144


class PretrainTask(TrainTask):
    """Next-token prediction on the sequences of a pack folder."""

    order: SequenceOrder | PhasedOrder

    def __init__(
        self,
        settings: PretrainSettings,
        start: InitialModel,
        order: SequenceOrder | PhasedOrder,
        *,
        tokens: TokenFile | DocumentLayout,
        heldout: TokenFile,
        encoder: TextEncoder,
        tokenizer_dir: Path,
        tokens_sha256: str,
        context: StageContext,
        teacher: Ensemble | None = None,
    ) -> None:
        length = settings.sequence_length
        add_dropout(start.model, settings.dropout)
        second = settings.second_token_weight
        flops = sizes.flops_per_token(start.settings, encoder.vocab_size, length)
        options = {"z_loss": settings.z_loss, "second_token_weight": second}
        if teacher is None:
            loss = NextTokenLoss(start.model, **options)
        else:
            weight = settings.ensemble.teacher_weight
            loss = DistillationLoss(start.model, teacher, teacher_weight=weight, **options)
            flops = round(flops * (1 + len(teacher.members) / 3))  # forward passes only
        if second:
            flops += sizes.second_token_flops(start.settings, encoder.vocab_size)
        super().__init__(
            loss,
            order,
            tokens_per_row=length,
            flops_per_token=flops,
            identity={
                "tokens": tokens_sha256[:16],
                "tokenizer": encoder.fingerprint[:16],
                "model": fingerprint_of(start.settings.model_dump(mode="json")),
            },
            initial_optimizer=start.optimizer,
        )
        self.isolates_texts = settings.isolate_documents
        self.settings, self.tokens, self.encoder = settings, tokens, encoder
        self.tokenizer_dir = tokenizer_dir
        self.score_model = context.score_model
        self.processes = context.processes
        self.prompts = settings.sample_prompts or prompts_of(context.language)
        self.heldout_documents = _first_documents(heldout, encoder)

    @override
    def micro_batch(self, step: int, rows: NDArray[np.int64]) -> MicroBatch:
        num_tokens = len(rows) * self.settings.sequence_length
        load = partial(read_rows, self.tokens, self.settings, step, rows)
        return MicroBatch(float(num_tokens), num_tokens, load)

    @override
    def write_model_files(self, folder: Path) -> None:
        self.model.config.save_pretrained(folder)
        copy_tokenizer(self.tokenizer_dir, folder)

    @override
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        scores = super().evaluate(model)
        if scores and self.score_model:
            scores |= self.score_model(model, self.tokenizer_dir)
        return scores

    @override
    def score_heldout(self, model: nn.Module) -> float | None:
        """Bits per byte of a model, or of an ensemble; None without held-out text."""
        if not self.heldout_documents:
            return None
        length = self.settings.sequence_length
        score = score_documents(
            model,
            self.heldout_documents,
            context_length=length,
            batch_tokens=max(8192, length),
            processes=self.processes,
        )
        return score.bits_per_byte

    @override
    def sample(self, model: nn.Module) -> list[dict[str, Any]]:
        encoder = self.encoder
        ids = [[encoder.bos_id, *encoder.encode(prompt)] for prompt in self.prompts]
        space = self.model.config.max_position_embeddings - max(len(row) for row in ids)
        outputs = generate(
            model,
            ids,
            max_new_tokens=max(1, min(SAMPLE_TOKENS, space)),
            stop_ids=[encoder.eos_id],
        )
        return [
            {"prompt": prompt, "text": encoder.decode([*row, *new])}
            for prompt, row, new in zip(self.prompts, ids, outputs, strict=True)
        ]

    @override
    def describe_step(self, step: int) -> dict[str, Any]:
        """The sequences and documents in a step, for the record of a skipped one."""
        rows = self.order.rows_of_step(step)
        length = self.settings.sequence_length
        documents = {d for row in rows for d in self.tokens.documents_in(int(row), length)}
        return {"sequences": rows.tolist(), "documents": sorted(documents)}


def read_rows(
    tokens: TokenFile | DocumentLayout,
    settings: PretrainSettings,
    step: int,
    rows: NDArray[np.int64],
) -> dict[str, NDArray[Any]]:
    """`input_ids` and `labels` (B, T) of some sequences, and `position_ids` where isolated."""
    length, bos = settings.sequence_length, TextEncoder.bos_id
    block = np.stack([tokens.sequence(int(row), length) for row in rows])  # (B, T + 1)
    block = repeat_passages(block, rows, settings.repetition, step=step, seed=settings.seed)
    arrays: dict[str, NDArray[Any]] = {"input_ids": block[:, :-1], "labels": block[:, 1:]}
    if settings.isolate_documents:
        arrays["position_ids"] = positions_in_documents(block[:, :-1], bos)
        # The last token of one document does not predict the first of the next.
        arrays["labels"] = np.where(block[:, 1:] == bos, IGNORED, block[:, 1:])
    if share := settings.mask_inputs:
        arrays["input_ids"] = mask_inputs(
            block[:, :-1], rows, share, mask_id=UNK, kept_id=bos, step=step, seed=settings.seed
        )
    return arrays


def positions_in_documents(ids: NDArray[np.int64], bos: int) -> NDArray[np.int64]:
    """Positions (B, T) that restart at every BOS, so that attention keeps to one document.

    >>> positions_in_documents(np.array([[7, 8, 1, 9, 9]]), bos=1).tolist()
    [[0, 1, 0, 1, 2]]
    """
    places = np.arange(ids.shape[1])
    starts = np.where(ids == bos, places, 0)
    positions: NDArray[np.int64] = places - np.maximum.accumulate(starts, axis=1)
    return positions


def _first_documents(heldout: TokenFile, encoder: TextEncoder) -> list[EncodedDocument]:
    """Held-out documents, in order, up to `MAX_HELDOUT_TOKENS` tokens."""
    documents, num_tokens = [], 0
    for number in range(heldout.num_documents):
        ids = heldout.document(number)
        num_tokens += len(ids)
        if num_tokens > MAX_HELDOUT_TOKENS:
            break
        documents.append(EncodedDocument(ids, len(encoder.decode(ids).encode("utf-8"))))
    return documents
