"""One training of one classifier: through the one loop, epoch chosen on the validation split.

The test split is read once, by the epoch that was best on validation. The paper chose the epoch
on the test split itself.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from teenytinyllama.artifacts.manifest import write_json
from teenytinyllama.modeling.lora import CLASSIFIER_HEADS, add_lora
from teenytinyllama.modeling.model_size import flops_per_token_of
from teenytinyllama.settings.post_training import FinetuneSettings
from teenytinyllama.settings.training import CheckpointSettings, OptimizerSettings, ScheduleSettings
from teenytinyllama.stages.finetune.classification_metrics import confusion, scores_of
from teenytinyllama.stages.finetune.length_grouping import Encoded, LengthGroupedOrder, pad
from teenytinyllama.stages.interface import StageContext
from teenytinyllama.training import checkpoints
from teenytinyllama.training.distributed import load_weights
from teenytinyllama.training.loop import Loop
from teenytinyllama.training.losses import IGNORED, head_loss
from teenytinyllama.training.metrics_logger import METRICS_NAME
from teenytinyllama.training.task import Job, MicroBatch, TrainSettings

# B micro-batch, T sequence, C labels
RESULT_NAME = "result.json"
MEASURES = ("accuracy", "macro_f1")
PREDICTION_TOKENS = 8192


class LabelLoss(nn.Module):
    """A sequence classifier with its summed loss.

    A model with an `lm_head` is one that goes on learning the language of the texts: to the loss of
    an example `token_weight` times that of each of its next tokens is added.
    """

    def __init__(self, model: Any, pad_id: int, *, token_weight: float = 0.0) -> None:
        super().__init__()
        self.model = model
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
        hidden = self.model.model(input_ids=input_ids, use_cache=False).last_hidden_state
        last = is_text.sum(dim=1) - 1  # (B,)
        states = hidden[torch.arange(len(last), device=last.device), last]  # (B, H)
        logits = self.model.score(states)
        following = torch.where(is_text, input_ids, IGNORED)[:, 1:]  # (B, T-1)
        language = head_loss(self.model, hidden[:, :-1], following)
        label_loss = functional.cross_entropy(logits.float(), labels, reduction="sum")
        return label_loss + self.token_weight * language


def logits_of(
    model: Any, input_ids: Tensor, pad_id: int, token_type_ids: Tensor | None = None
) -> Tensor:
    """Logits (B, C) of rows padded on the right.

    A causal model never looks at what comes after, so it needs no mask over the padding; its
    pooling takes the last token that is none. An encoder looks both ways and gets the mask, and
    where it tells the texts of a pair apart by `token_type_ids` (B, T), these.
    """
    if is_causal(model):
        out = model(input_ids=input_ids, use_cache=False)
    else:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        out = model(input_ids=input_ids, attention_mask=(input_ids != pad_id).long(), **types)
    logits: Tensor = out.logits
    return logits


def is_causal(model: Any) -> bool:
    """Whether a token sees only those before it."""
    return bool(model.config.model_type in ("llama", "gpt2", "gpt_neox", "mistral", "qwen2"))


@dataclass(frozen=True)
class Splits:
    """The encoded splits of one labelled set."""

    train: Sequence[Encoded]
    validation: Sequence[Encoded]
    test: Sequence[Encoded]
    num_labels: int
    fingerprint: str


def train_one(
    make_model: Callable[[], Any],
    splits: Splits,
    settings: FinetuneSettings,
    *,
    seed: int,
    pad_id: int,
    out_dir: Path,
    context: StageContext,
    write_model_files: Callable[[Path], None],
) -> dict[str, Any]:
    """Train with one seed, keep the best epoch in `best/`, and return its scores.

    A finished training is not done again: its result stands in `result.json`.
    """
    result_path = out_dir / RESULT_NAME
    if result_path.is_file():
        found: dict[str, Any] = json.loads(result_path.read_text(encoding="utf-8"))
        return found
    model = make_model()
    lora = settings.lora
    merge_lora = add_lora(model, lora, seed=seed, trainable=CLASSIFIER_HEADS) if lora else None
    order = LengthGroupedOrder(
        [len(row.ids) for row in splits.train], settings.examples_per_step, seed
    )
    per_epoch = order.steps_per_epoch
    job = _job(model, splits, order, pad_id, write_model_files, settings)
    loop = Loop(job, _loop_settings(settings, per_epoch, seed, context), out_dir, context.meter)
    metrics = loop.run()
    epochs = _validation_scores(out_dir, per_epoch)
    best = best_epoch(epochs, settings.choose_by)
    checkpoint = out_dir / checkpoints.folder_name(best * per_epoch)
    load_weights(model, load_file(checkpoint / "model.safetensors"))
    if merge_lora:
        merge_lora()
    if hasattr(model, "lm_head"):
        del model.lm_head  # it has done its work; a classifier is published without one
    model.float().eval()
    table = _confusion_on(model, splits.test, splits.num_labels, pad_id)
    result = {
        "seed": seed,
        **scores_of(table),
        "confusion": table,
        "best_epoch": best,
        **{
            f"validation_{measure}": [epochs[epoch][measure] for epoch in sorted(epochs)]
            for measure in MEASURES
        },
        "examples_per_s": settings.num_epochs
        * len(splits.train)
        / max(metrics["training_seconds"], 1e-9),
        "training_seconds": metrics["training_seconds"],
        "energy_kwh": metrics["energy_kwh"],
        "num_skipped_steps": metrics["num_skipped_steps"],
    }
    _keep_best(model, out_dir)
    write_json(result_path, result)
    for _, path in checkpoints.list_checkpoints(out_dir):
        shutil.rmtree(path)
    return result


def _keep_best(model: Any, out_dir: Path) -> None:
    shutil.rmtree(out_dir / ".best", ignore_errors=True)
    model.save_pretrained(out_dir / ".best")


def _job(
    model: Any,
    splits: Splits,
    order: LengthGroupedOrder,
    pad_id: int,
    write_model_files: Callable[[Path], None],
    settings: FinetuneSettings,
) -> Job:
    rows = splits.train
    mean_length = math.ceil(sum(len(row.ids) for row in rows) / len(rows))
    # By a constant, not by the tokens of a micro-batch: the same however a step is cut.
    token_weight = settings.language_model_weight / mean_length
    identity = {"examples": splits.fingerprint, "labels": str(splits.num_labels)}
    if settings.language_model_weight:
        identity["language_model_weight"] = str(settings.language_model_weight)
    if settings.pooling != "last":
        identity["pooling"] = settings.pooling

    def micro_batches(step: int, micro_batch: int) -> Sequence[MicroBatch]:
        wanted = [rows[int(number)] for number in order.examples_of_step(step)]
        cuts = [wanted[at : at + micro_batch] for at in range(0, len(wanted), micro_batch)]
        return [
            MicroBatch(
                weight=float(len(cut)),
                num_tokens=len(cut) * max(len(row.ids) for row in cut),
                load=lambda cut=cut: pad(cut, pad_id),  # type: ignore[misc]
            )
            for cut in cuts
        ]

    def evaluate(trained: nn.Module) -> dict[str, float]:
        table = _confusion_on(trained, splits.validation, splits.num_labels, pad_id)
        scores = scores_of(table)
        return {f"validation_{measure}": float(scores[measure]) for measure in MEASURES}

    def write_files(folder: Path) -> None:
        model.config.save_pretrained(folder)
        write_model_files(folder)

    return Job(
        objective=LabelLoss(model, pad_id, token_weight=token_weight),
        micro_batches=micro_batches,
        rows_per_step=order.examples_per_step,
        tokens_per_row=mean_length,
        flops_per_token=flops_per_token_of(model, mean_length),
        identity=identity,
        write_model_files=write_files,
        evaluate=evaluate,
        describe_step=lambda step: {"examples": order.examples_of_step(step).tolist()},
    )


def _loop_settings(
    settings: FinetuneSettings, per_epoch: int, seed: int, context: StageContext
) -> TrainSettings:
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
        # Batches have many widths: each would be compiled anew.
        compile=False,
        seed=seed,
        log_every_steps=max(1, per_epoch // 10),
        evaluate_every_steps=per_epoch,
        usd_per_gpu_hour=context.energy.usd_per_gpu_hour,
    )


def _validation_scores(out_dir: Path, per_epoch: int) -> dict[int, dict[str, float]]:
    """Scores on the validation split after each epoch, from the loop's own log."""
    scores = {}
    for line in (out_dir / METRICS_NAME).read_text(encoding="utf-8").splitlines():
        value = json.loads(line)
        if "validation_accuracy" in value:
            scores[value["step"] // per_epoch] = {
                measure: float(value[f"validation_{measure}"]) for measure in MEASURES
            }
    return scores


def best_epoch(epochs: Mapping[int, Mapping[str, float]], measure: str) -> int:
    """The epoch with the best score on the validation split, of equals the earliest."""
    return max(epochs, key=lambda epoch: (epochs[epoch][measure], -epoch))


def _confusion_on(
    model: Any, rows: Sequence[Encoded], num_labels: int, pad_id: int
) -> list[list[int]]:
    """Examples by their label (row) and the predicted one (column)."""
    predicted = [int(np.argmax(logits)) for logits in predict(model, rows, pad_id)]
    return confusion([row.label for row in rows], predicted, num_labels)


def predict(model: Any, rows: Sequence[Encoded], pad_id: int) -> list[Any]:
    """Logits (C,) of each example, in order; read sorted by length, which changes nothing."""
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
