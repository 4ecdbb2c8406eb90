"""Training one classifier with one seed; the epoch is chosen on the validation split.

The test split is read once, with the weights of the epoch that was best on validation. The paper
chose the epoch on the test split itself.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaForSequenceClassification, Qwen3ForSequenceClassification
from typing_extensions import override

from teenytinyllama.artifacts.manifest import write_json
from teenytinyllama.modeling.causal_attention import causal_states
from teenytinyllama.modeling.lora import CLASSIFIER_HEADS, add_lora
from teenytinyllama.modeling.model_size import flops_per_token_of
from teenytinyllama.settings.post_training import FinetuneSettings
from teenytinyllama.settings.training import CheckpointSettings, OptimizerSettings, ScheduleSettings
from teenytinyllama.stages.finetune.classification_metrics import confusion, scores_of
from teenytinyllama.stages.finetune.classifier_models import FineTunableModel
from teenytinyllama.stages.finetune.length_grouping import EncodedExample, LengthGroupedOrder, pad
from teenytinyllama.stages.interface import StageContext
from teenytinyllama.training import checkpoints
from teenytinyllama.training.distributed import load_weights
from teenytinyllama.training.launch import start_strategy
from teenytinyllama.training.loop import TrainLoop
from teenytinyllama.training.losses import IGNORED, CausalLoss
from teenytinyllama.training.schedule_check import check_training
from teenytinyllama.training.task import MicroBatch, TrainSettings, TrainTask

# B micro-batch, T sequence, C labels
RESULT_NAME = "result.json"
MEASURES = ("accuracy", "macro_f1")
PREDICTION_TOKENS = 8192


class LabelLoss(CausalLoss):
    """A sequence classifier with its summed loss.

    A model with an `lm_head` also keeps learning to predict next tokens: `token_weight` times the
    loss of each next token of an example is added to the loss of its label.
    """

    def __init__(self, model: Any, pad_id: int, *, token_weight: float = 0.0) -> None:
        super().__init__(model)
        self.pad_id = pad_id
        self.token_weight = token_weight

    def forward(
        self, input_ids: Tensor, labels: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Summed cross-entropy: `input_ids` (B, T) padded on the right, `labels` (B,)."""
        if not hasattr(self.model, "lm_head"):
            logits = logits_of(self.model, input_ids, self.pad_id, token_type_ids)  # (B, C)
            return functional.cross_entropy(logits.float(), labels, reduction="sum")
        is_text = input_ids != self.pad_id  # (B, T)
        hidden = self.states(self.model.model.embed_tokens(input_ids))  # (B, T, H)
        last = is_text.sum(dim=1) - 1  # (B,)
        states = hidden[torch.arange(len(last), device=last.device), last]  # (B, H)
        logits = self.model.score(states)
        following = torch.where(is_text, input_ids, IGNORED)[:, 1:]  # (B, T-1)
        language = self.head_loss(hidden[:, :-1], following)
        label_loss = functional.cross_entropy(logits.float(), labels, reduction="sum")
        return label_loss + self.token_weight * language


def logits_of(
    model: Any, input_ids: Tensor, pad_id: int, token_type_ids: Tensor | None = None
) -> Tensor:
    """Logits (B, C) of rows padded on the right.

    A causal model does not attend to later tokens, so it needs no mask over the padding; its
    pooling takes the last token that is not padding. An encoder attends both ways and gets the
    mask, and `token_type_ids` (B, T) where it takes them.
    """
    if isinstance(model, LlamaForSequenceClassification | Qwen3ForSequenceClassification):
        states = causal_states(model.model, model.model.embed_tokens(input_ids))  # (B, T, H)
        places = torch.arange(input_ids.shape[1], device=input_ids.device)  # (T,)
        last = (places * (input_ids != pad_id)).argmax(dim=1)  # (B,)
        pooled: Tensor = model.score(states)[torch.arange(len(last), device=last.device), last]
        return pooled
    if is_causal(model):
        out = model(input_ids=input_ids, use_cache=False)
    else:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        out = model(input_ids=input_ids, attention_mask=(input_ids != pad_id).long(), **types)
    logits: Tensor = out.logits
    return logits


def is_causal(model: Any) -> bool:
    """Whether tokens attend only to earlier ones."""
    return bool(
        model.config.model_type in ("llama", "qwen3", "gpt2", "gpt_neox", "mistral", "qwen2")
    )


@dataclass(frozen=True)
class Splits:
    """The encoded splits of one labelled set."""

    train: Sequence[EncodedExample]
    validation: Sequence[EncodedExample]
    test: Sequence[EncodedExample]
    label_names: list[str]
    fingerprint: str


class ClassificationTask(TrainTask):
    """One classifier on the train split of a labelled set, scored on the validation split."""

    order: LengthGroupedOrder

    def __init__(
        self,
        model: Any,
        candidate: FineTunableModel,
        splits: Splits,
        settings: FinetuneSettings,
        *,
        seed: int,
    ) -> None:
        self.splits, self.pad_id = splits, candidate.pad_id
        self._write_files = candidate.write_files
        lengths = [len(row.ids) for row in splits.train]
        mean_length = math.ceil(sum(lengths) / len(lengths))
        # By a constant, not by the tokens of a micro-batch: the same however a step is cut.
        token_weight = settings.language_model_weight / mean_length
        identity = {"examples": splits.fingerprint, "labels": str(len(splits.label_names))}
        if settings.language_model_weight:
            identity["language_model_weight"] = str(settings.language_model_weight)
        if settings.pooling != "last":
            identity["pooling"] = settings.pooling
        super().__init__(
            LabelLoss(model, self.pad_id, token_weight=token_weight),
            LengthGroupedOrder(lengths, settings.examples_per_step, seed),
            tokens_per_row=mean_length,
            flops_per_token=flops_per_token_of(model, mean_length),
            identity=identity,
        )

    @override
    def micro_batch(self, step: int, rows: NDArray[np.int64]) -> MicroBatch:
        examples = [self.splits.train[int(row)] for row in rows]
        return MicroBatch(
            weight=float(len(examples)),
            num_tokens=len(examples) * max(len(one.ids) for one in examples),
            load=partial(pad, examples, self.pad_id),
        )

    @override
    def write_model_files(self, folder: Path) -> None:
        self.model.config.save_pretrained(folder)
        self._write_files(folder)

    @override
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        scores = scores_of(self.confusion_on(model, self.splits.validation))
        return {f"validation_{measure}": float(scores[measure]) for measure in MEASURES}

    def confusion_on(self, model: Any, rows: Sequence[EncodedExample]) -> list[list[int]]:
        """Counts of examples by their label (row) and the predicted one (column)."""
        predicted = [int(np.argmax(logits)) for logits in predict(model, rows, self.pad_id)]
        return confusion([row.label for row in rows], predicted, len(self.splits.label_names))


def train_one(
    candidate: FineTunableModel,
    splits: Splits,
    settings: FinetuneSettings,
    *,
    seed: int,
    out_dir: Path,
    context: StageContext,
) -> dict[str, Any]:
    """Train with one seed, keep the best epoch in `.best/`, and return its scores.

    A finished training is not repeated: its result is in `result.json`.
    """
    processes, result_path = context.processes, out_dir / RESULT_NAME
    found: dict[str, Any] = {}
    if processes.is_leader and result_path.is_file():
        found = json.loads(result_path.read_text(encoding="utf-8"))
    if found := processes.broadcast(found):
        return found
    model = candidate.make(splits.label_names, seed)
    lora = settings.lora
    merge_lora = add_lora(model, lora, seed=seed, trainable=CLASSIFIER_HEADS) if lora else None
    task = ClassificationTask(model, candidate, splits, settings, seed=seed)
    per_epoch = task.order.steps_per_epoch
    train_settings = train_settings_of(settings, per_epoch, seed=seed, context=context)
    check_training(
        "finetune",
        train_settings.schedule,
        num_epochs=settings.num_epochs,
        num_steps=train_settings.num_steps,
        setting="warmup_steps",
    )
    strategy = start_strategy(task, train_settings)
    loop = TrainLoop(task, train_settings, strategy, out_dir, context.meter)
    metrics = loop.run()
    epochs = loop.state.evaluations
    best = best_epoch([scores[f"validation_{settings.choose_by}"] for scores in epochs])
    checkpoint = out_dir / checkpoints.folder_name(best * per_epoch)
    load_weights(model, load_file(checkpoint / "model.safetensors"))
    if merge_lora:
        merge_lora()
    if hasattr(model, "lm_head"):
        del model.lm_head  # only training needs it; a classifier is published without one
    model.float().to(strategy.device).eval()
    table = task.confusion_on(model, splits.test)
    result = {
        "seed": seed,
        **scores_of(table),
        "confusion": table,
        "best_epoch": best,
        **{
            f"validation_{measure}": [scores[f"validation_{measure}"] for scores in epochs]
            for measure in MEASURES
        },
        "examples_per_s": settings.num_epochs
        * len(splits.train)
        / max(metrics["training_seconds"], 1e-9),
        "training_seconds": metrics["training_seconds"],
        "energy_kwh": metrics["energy_kwh"],
        "num_skipped_steps": metrics["num_skipped_steps"],
    }
    processes.wait()  # all have read the checkpoint that is removed now
    if processes.is_leader:
        shutil.rmtree(out_dir / ".best", ignore_errors=True)
        model.save_pretrained(out_dir / ".best")
        write_json(result_path, result)
        for _, path in checkpoints.list_checkpoints(out_dir):
            shutil.rmtree(path)
    return result


def train_settings_of(
    settings: FinetuneSettings, per_epoch: int, *, seed: int, context: StageContext
) -> TrainSettings:
    """Settings of one training, with a checkpoint and scores after every `per_epoch` steps."""
    return TrainSettings(
        num_steps=settings.num_epochs * per_epoch,
        optimizer=OptimizerSettings(
            peak_learning_rate=settings.learning_rate,
            betas=(0.9, 0.999),
            weight_decay=settings.weight_decay,
        ),
        schedule=ScheduleSettings(kind="linear", warmup_steps=settings.warmup_steps),
        checkpoints=CheckpointSettings(permanent_every_steps=per_epoch),
        precision=settings.precision,
        # Batches have many widths: each would be compiled.
        compile=False,
        seed=seed,
        log_every_steps=max(1, per_epoch // 10),
        evaluate_every_steps=per_epoch,
        usd_per_gpu_hour=context.energy.usd_per_gpu_hour,
    )


def best_epoch(scores: Sequence[float]) -> int:
    """The epoch, from 1, with the best score; of equals the earliest.

    >>> best_epoch([0.7, 0.9, 0.9])
    2
    """
    return 1 + max(range(len(scores)), key=lambda i: (scores[i], -i))


def predict(model: Any, rows: Sequence[EncodedExample], pad_id: int) -> list[Any]:
    """Logits (C,) of each example, in order; sorted by length meanwhile, to pad little."""
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i].ids), i))
    device = next(model.parameters()).device
    found: dict[int, Any] = {}
    at = 0
    with torch.no_grad():
        while at < len(order):
            width = len(rows[order[min(at + 63, len(order) - 1)]].ids)
            size = max(1, min(64, PREDICTION_TOKENS // width))
            part = order[at : at + size]
            arrays = pad([rows[i] for i in part], pad_id)
            del arrays["labels"]
            inputs = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
            logits = logits_of(model, pad_id=pad_id, **inputs).float().cpu().numpy()
            found.update(zip(part, logits, strict=True))
            at += size
    return [found[i] for i in range(len(rows))]
