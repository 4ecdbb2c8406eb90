"""Direct preference optimisation (Rafailov et al. 2023): better answers more likely than worse.

The reference is the model as SFT left it. Its log-probabilities are computed once, before the
first step, so its weights need not be kept. Both answers of a pair are in the same micro-batch,
packed and isolated as in SFT.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from teenytinyllama.artifacts.conversation_layouts import (
    ConversationError,
    Preference,
    is_preference,
    parse_preference,
)
from teenytinyllama.artifacts.conversations import Conversation
from teenytinyllama.artifacts.records import Record
from teenytinyllama.artifacts.tokenizer import TextEncoder
from teenytinyllama.errors import UserError
from teenytinyllama.modeling.model_size import flops_per_token_of
from teenytinyllama.settings.post_training import AlignSettings
from teenytinyllama.stages.align.chat_dataset import (
    TOO_LONG_PAIR,
    ChatData,
    check_share,
    count_unused,
    quarantine,
    records_of,
)
from teenytinyllama.stages.align.conversation_packing import Rendered, best_fit, lay_out
from teenytinyllama.stages.align.heldout_split import Candidate, candidate, choose_heldout
from teenytinyllama.stages.align.sft_task import SftTask, train_settings_of
from teenytinyllama.stages.interface import StageContext
from teenytinyllama.training.data_order import SequenceOrder
from teenytinyllama.training.launch import start_strategy
from teenytinyllama.training.loop import TrainLoop
from teenytinyllama.training.losses import CausalLoss
from teenytinyllama.training.task import MicroBatch, TrainTask

# B rows, T sequence, S supervised places, P pairs
PAIRS_PER_BATCH = 8


@dataclass(frozen=True)
class PreferencePair:
    """Two conversations that differ in their last answer, the only part with a loss."""

    chosen: Rendered
    rejected: Rendered

    @property
    def num_inputs(self) -> int:
        """Places that both take in rows."""
        return self.chosen.num_inputs + self.rejected.num_inputs


def render_last(messages: Conversation, encoder: TextEncoder) -> Rendered:
    """A conversation whose mask has only the last answer and its EOS."""
    ids, _ = encoder.render_with_mask(messages)
    prompt = len(encoder.render(messages[:-1], add_generation_prompt=True))
    return Rendered(ids, [int(at >= prompt) for at in range(len(ids))])


def read_pairs(
    settings: AlignSettings,
    encoder: TextEncoder,
    data: ChatData,
    max_tokens: int,
    language: str = "pt",
) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Training and held-out pairs; broken records go to the stage's quarantine."""
    pairs: list[PreferencePair] = []
    candidates: list[Candidate] = []
    for index, source in enumerate(settings.preferences):
        where = f"align.preferences.{index}"
        if source.kind == "storybook":
            what = "the storybook has conversations, but no preferences"
            raise UserError("source-empty", where, what, "give a file of prompt, chosen, rejected")
        read_before, quarantined_before = data.counts["preferences_read"], len(data.quarantine)
        for record in records_of(source, where, language):
            if not record.error and not source.selects(record.fields):
                data.counts["preferences_not_selected"] += 1
                continue
            data.counts["preferences_read"] += 1
            try:
                both = _parse(record)
            except ConversationError as reason:
                quarantine(data, record, str(reason), "preferences")
                continue
            pair = PreferencePair(
                render_last(both.chosen, encoder), render_last(both.rejected, encoder)
            )
            if max(len(pair.chosen.ids), len(pair.rejected.ids)) > max_tokens:
                quarantine(data, record, TOO_LONG_PAIR, "preferences")
            else:
                count_unused(data, record, source, [*both.chosen, *both.rejected])
                pairs.append(pair)
                candidates.append(
                    candidate(index, both.chosen[:-1], [both.chosen[-1], both.rejected[-1]])
                )
        num_read = data.counts["preferences_read"] - read_before
        if num_read == 0:
            fix = "check its path" + (" and `only`" if source.only else "")
            raise UserError("source-empty", where, "has no preference", fix)
        broken = data.quarantine[quarantined_before:]
        check_share(broken, where, num_read, settings.max_quarantined_fraction, "preferences")
    chosen = choose_heldout(candidates, settings.heldout_fraction)
    train = [pair for pair, is_heldout in zip(pairs, chosen, strict=True) if not is_heldout]
    heldout = [pair for pair, is_heldout in zip(pairs, chosen, strict=True) if is_heldout]
    data.counts["preferences_train"] = len(train)
    data.counts["preferences_heldout"] = len(heldout)
    if not train:
        num_long = data.reasons[TOO_LONG_PAIR]
        what = f"0 training pairs remain of {data.counts['preferences_read']}: {num_long} of them "
        what += f"are longer than {settings.sequence_length} tokens"
        fix = "raise align.sequence_length" if num_long else "give more pairs"
        raise UserError("preferences-empty", "align.preferences", what, fix)
    return train, heldout


def _parse(record: Record) -> Preference:
    if record.error:
        raise ConversationError(record.error)
    if not is_preference(record.fields):
        names = ", ".join(sorted(map(str, record.fields))[:8])
        what = f"expected prompt, chosen and rejected, found {names}"
        fix = "name conversations under align.sources"
        raise UserError("preferences-missing", record.place, what, fix)
    return parse_preference(record.fields)


class PreferenceLoss(CausalLoss):
    """A causal model with the summed DPO loss of its pairs."""

    def __init__(self, model: Any, beta: float) -> None:
        super().__init__(model)
        self.beta = beta

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        places: Tensor,
        targets: Tensor,
        owners: Tensor,
        reference: Tensor,
    ) -> Tensor:
        """Summed loss; `reference` (P, 2): the frozen model's log-probabilities of both answers."""
        now = self.log_probabilities(
            input_ids, position_ids, places, targets, owners, reference.numel()
        ).view(-1, 2)  # (P, 2): chosen, rejected
        gain = now - reference
        return -functional.logsigmoid(self.beta * (gain[:, 0] - gain[:, 1])).sum()

    def log_probabilities(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        places: Tensor,
        targets: Tensor,
        owners: Tensor,
        num_answers: int,
    ) -> Tensor:
        """Of each answer, summed in fp32; `owners` (S,): the answer of each place."""
        embedded = self.model.model.embed_tokens(input_ids)  # (B, T, H)
        hidden = self.states(embedded, position_ids)
        supervised = hidden.flatten(0, 1).index_select(0, places)  # (S, H)
        logits = self.model.lm_head(supervised).float()  # (S, V)
        each = -functional.cross_entropy(logits, targets, reduction="none")  # (S,)
        return each.new_zeros(num_answers).index_add(0, owners, each)


def lay_out_pairs(
    pairs: Sequence[PreferencePair], length: int, *, pad_id: int
) -> dict[str, NDArray[Any]]:
    """The packed arrays of some pairs; `owners` numbers the answers: chosen, rejected, chosen..."""
    both = [one for pair in pairs for one in (pair.chosen, pair.rejected)]
    rows = best_fit([one.num_inputs for one in both], length)
    arrays = lay_out(both, rows, length, pad_id=pad_id)
    members = [index for row in rows for index in row]
    counts = [both[index].num_supervised for index in members]
    arrays["owners"] = np.repeat(np.array(members, np.int64), counts)
    return arrays


def pair_log_probabilities(
    model: Any, pairs: Sequence[PreferencePair], length: int, pad_id: int
) -> NDArray[np.float32]:
    """Log-probabilities (P, 2) of both answers of each pair under the current weights."""
    device = next(model.parameters()).device
    found, loss = [], PreferenceLoss(model, beta=0.0)
    model.eval()
    with torch.no_grad():
        for at in range(0, len(pairs), PAIRS_PER_BATCH):
            part = pairs[at : at + PAIRS_PER_BATCH]
            arrays = lay_out_pairs(part, length, pad_id=pad_id)
            tensors = {name: torch.from_numpy(a).to(device) for name, a in arrays.items()}
            both = loss.log_probabilities(**tensors, num_answers=2 * len(part))
            found.append(both.view(-1, 2).cpu().numpy())
    return np.concatenate(found) if found else np.zeros((0, 2), np.float32)


def pairs_per_step(settings: AlignSettings, pairs: Sequence[PreferencePair]) -> int:
    """Pairs behind one update: no more than there are."""
    return min(settings.dpo.pairs_per_step, len(pairs))


def num_dpo_steps(settings: AlignSettings, pairs: Sequence[PreferencePair]) -> int:
    """Updates of the whole training."""
    return max(1, math.ceil(settings.dpo.num_epochs * len(pairs) / pairs_per_step(settings, pairs)))


class DpoTask(TrainTask):
    """DPO on preference pairs; the reference is the model as it is when the task is made."""

    order: SequenceOrder
    isolates_texts = True

    def __init__(
        self,
        sft: SftTask,
        pairs: Sequence[PreferencePair],
        settings: AlignSettings,
        encoder: TextEncoder,
    ) -> None:
        length = settings.sequence_length
        self.pairs, self.length, self.pad_id = pairs, length, encoder.pad_id
        self.reference = pair_log_probabilities(sft.model, pairs, length, encoder.pad_id)
        self._sft = sft
        super().__init__(
            PreferenceLoss(sft.model, settings.dpo.beta),
            SequenceOrder(len(pairs), pairs_per_step(settings, pairs), settings.seed),
            tokens_per_row=math.ceil(sum(pair.num_inputs for pair in pairs) / len(pairs)),
            flops_per_token=flops_per_token_of(sft.model, length),
            identity={"preferences": _fingerprint(pairs), "tokenizer": encoder.fingerprint[:16]},
        )

    @override
    def micro_batch(self, step: int, rows: NDArray[np.int64]) -> MicroBatch:
        pairs = [self.pairs[int(row)] for row in rows]
        num_tokens = sum(pair.num_inputs for pair in pairs)
        return MicroBatch(float(len(pairs)), num_tokens, partial(self._load, pairs, rows))

    def _load(
        self, pairs: Sequence[PreferencePair], rows: NDArray[np.int64]
    ) -> dict[str, NDArray[Any]]:
        arrays = lay_out_pairs(pairs, self.length, pad_id=self.pad_id)
        return {**arrays, "reference": self.reference[rows]}

    @override
    def write_model_files(self, folder: Path) -> None:
        self._sft.write_model_files(folder)


def train_on_preferences(
    sft: SftTask,
    train: Sequence[PreferencePair],
    heldout: Sequence[PreferencePair],
    settings: AlignSettings,
    encoder: TextEncoder,
    *,
    out_dir: Path,
    context: StageContext,
) -> dict[str, Any]:
    """Train the model of `sft` further by DPO, in place; returns metrics."""
    model, length = sft.model, settings.sequence_length
    task = DpoTask(sft, train, settings, encoder)
    before = pair_log_probabilities(model, heldout, length, encoder.pad_id)
    num_steps = num_dpo_steps(settings, train)
    # Micro-batches have many shapes: each would be compiled.
    train_settings = train_settings_of(settings, settings.dpo, num_steps, context, compile=False)
    strategy = start_strategy(task, train_settings)
    metrics = TrainLoop(task, train_settings, strategy, out_dir, context.meter).run()
    model.float().to(strategy.device)
    after = pair_log_probabilities(model, heldout, length, encoder.pad_id)
    gain = (after - before)[:, 0] - (after - before)[:, 1]
    return {
        "num_steps": metrics["num_steps"],
        "training_seconds": metrics["training_seconds"],
        "energy_kwh": metrics["energy_kwh"],
        "chosen_preferred_fraction_before": _fraction(before[:, 0] > before[:, 1]),
        "chosen_preferred_fraction": _fraction(after[:, 0] > after[:, 1]),
        "reward_accuracy": _fraction(gain > 0),
        "reward_margin_mean": float(settings.dpo.beta * gain.mean()) if len(gain) else None,
    }


def _fraction(found: NDArray[np.bool_]) -> float | None:
    return float(found.mean()) if len(found) else None


def _fingerprint(pairs: Sequence[PreferencePair]) -> str:
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(repr((list(pair.chosen.ids), list(pair.rejected.ids))).encode())
    return digest.hexdigest()[:16]
