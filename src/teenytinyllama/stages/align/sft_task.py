"""What supervised fine-tuning trains: the assistant's words in packed conversations."""

# B micro-batch, T sequence, H hidden, S supervised places of a micro-batch

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

from teenytinyllama.artifacts.tokenizer import TextEncoder
from teenytinyllama.modeling.loading import copy_tokenizer
from teenytinyllama.modeling.model_size import flops_per_token_of
from teenytinyllama.settings.post_training import AlignSettings, DpoSettings
from teenytinyllama.stages.align.chat_dataset import ChatData
from teenytinyllama.stages.align.conversation_packing import Rendered, best_fit, lay_out
from teenytinyllama.stages.interface import StageContext
from teenytinyllama.training.data_order import SequenceOrder
from teenytinyllama.training.losses import CausalLoss
from teenytinyllama.training.task import MicroBatch, TrainSettings, TrainTask


class AnswerLoss(CausalLoss):
    """A causal model with the summed loss of its answers.

    The head is applied to supervised places only: prompts and padding cost no logits.
    """

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, places: Tensor, targets: Tensor
    ) -> Tensor:
        """Summed loss: `input_ids`, `position_ids` (B, T), `places`, `targets` (S,)."""
        embedded = self.model.model.embed_tokens(input_ids)  # (B, T, H)
        hidden = self.states(embedded, position_ids)
        supervised = hidden.flatten(0, 1).index_select(0, places)  # (S, H)
        return self.head_loss(supervised, targets)


class SftTask(TrainTask):
    """Supervised fine-tuning on conversations, several to a row."""

    order: SequenceOrder
    isolates_texts = True

    def __init__(
        self,
        model: Any,
        data: ChatData,
        settings: AlignSettings,
        encoder: TextEncoder,
        tokenizer_dir: Path,
    ) -> None:
        length = settings.sequence_length
        self.data, self.length, self.pad_id = data, length, encoder.pad_id
        self.rows = best_fit([one.num_inputs for one in data.train], length)
        self.tokenizer_dir = tokenizer_dir
        super().__init__(
            AnswerLoss(model),
            SequenceOrder(len(self.rows), settings.tokens_per_step // length, settings.seed),
            tokens_per_row=length,
            flops_per_token=flops_per_token_of(model, length),
            identity={
                "conversations": data.fingerprint(),
                "tokenizer": encoder.fingerprint[:16],
                "sequence_length": str(length),
            },
        )

    @override
    def micro_batch(self, step: int, rows: NDArray[np.int64]) -> MicroBatch:
        members = [self.rows[int(row)] for row in rows]
        supervised = sum(self.data.train[i].num_supervised for row in members for i in row)
        return MicroBatch(
            weight=float(supervised),
            num_tokens=len(members) * self.length,
            load=partial(lay_out, self.data.train, members, self.length, pad_id=self.pad_id),
        )

    @override
    def write_model_files(self, folder: Path) -> None:
        self.model.config.save_pretrained(folder)
        self.model.generation_config.save_pretrained(folder)
        copy_tokenizer(self.tokenizer_dir, folder)

    @override
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {"heldout_loss": self.heldout_loss(model)}

    def heldout_loss(self, model: nn.Module) -> float:
        """Nats per supervised token of the held-out conversations."""
        return answer_loss(model, self.data.heldout, self.length, self.pad_id)


def train_settings_of(
    settings: AlignSettings,
    phase: AlignSettings | DpoSettings,
    num_steps: int,
    context: StageContext,
    *,
    compile: bool | None = None,
) -> TrainSettings:
    """Settings of SFT or DPO; `phase` has the optimizer and its schedule."""
    return TrainSettings(
        num_steps=num_steps,
        optimizer=phase.optimizer,
        schedule=phase.schedule,
        checkpoints=settings.checkpoints,
        precision=settings.precision,
        compile=compile,
        seed=settings.seed,
        log_every_steps=max(1, min(10, num_steps // 10)),
        usd_per_gpu_hour=context.energy.usd_per_gpu_hour,
    )


def answer_loss(model: Any, conversations: Sequence[Rendered], length: int, pad_id: int) -> float:
    """Nats per supervised token of some conversations, in rows of `length` tokens."""
    loss = AnswerLoss(model)
    device = next(model.parameters()).device
    total, was_training = 0.0, model.training
    model.eval()
    with torch.no_grad():
        for row in best_fit([one.num_inputs for one in conversations], length):
            arrays = lay_out(conversations, [row], length, pad_id=pad_id)
            tensors = {name: torch.from_numpy(a).to(device) for name, a in arrays.items()}
            total += float(loss(**tensors))
    model.train(was_training)
    return total / sum(one.num_supervised for one in conversations)
