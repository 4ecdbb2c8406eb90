"""Stage finetune: base model to classifiers, one per labelled set (paper Table 5).

Leaves `<task>/final/`, a plain `AutoModelForSequenceClassification` with label names and
tokenizer, and `<task>/scores.json`. A killed run resumes with the task, seed and step it was at.
"""

from __future__ import annotations

import json
import logging
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from teenytinyllama.artifacts.manifest import sync_folder, sync_tree, write_json
from teenytinyllama.artifacts.tokenizer import load_tokenizer
from teenytinyllama.errors import UserError
from teenytinyllama.modeling.lora import peft_parts
from teenytinyllama.settings.datasets import LabelledSet
from teenytinyllama.settings.post_training import FinetuneSettings
from teenytinyllama.stages.finetune.classification_metrics import (
    bag_of_words_baseline,
    check_library,
    majority_baseline,
    mean_and_spread,
    standard_error,
    sum_of_tables,
)
from teenytinyllama.stages.finetune.classification_task import Splits, train_one
from teenytinyllama.stages.finetune.classifier_models import (
    FineTunableModel,
    other_model,
    own_model,
)
from teenytinyllama.stages.finetune.classify import CLASSIFIER_NAME
from teenytinyllama.stages.finetune.labelled_dataset import SPLITS, LabelledData, read_labelled
from teenytinyllama.stages.interface import StageContext, StageResult

logger = logging.getLogger(__name__)


SCORES_NAME = "scores.json"


def run(
    *,
    settings: FinetuneSettings,
    context: StageContext,
    out_dir: Path,
    tokenizer_dir: Path,
    pretrain_dir: Path,
) -> StageResult:
    """Train a classifier per labelled set; return counts of examples and metrics per task."""
    encoder = load_tokenizer(tokenizer_dir)
    max_length = _max_length(settings, pretrain_dir)
    own_one = partial(
        own_model,
        pretrain_dir,
        tokenizer_dir,
        encoder,
        max_length,
        keeps_head=settings.language_model_weight > 0,
        takes_mean=settings.pooling == "mean",
    )
    own = own_one()
    _check_tasks(settings)
    # Problems of any set or model are reported before the first training.
    check_library()
    if settings.lora:
        peft_parts()
    sets = {task.name: read_labelled(task, context.language) for task in settings.tasks}
    others = [other_model(place, settings.max_length) for place in settings.models]
    for other in others:
        other.make(["a", "b"], 0)
    if settings.random_twin:
        others.append(own_one(is_random=True))
    _check_names(others)
    counts: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    processes = context.processes
    for task in settings.tasks:
        task_dir = out_dir / task.name
        done = task_dir / SCORES_NAME
        if not processes.broadcast(done.is_file()):
            logger.info(f"finetune: {task.name}")
            scores = _one_task(task, sets[task.name], own, others, settings, context, task_dir)
            if processes.is_leader:
                write_json(done, scores)
                for leftover in task_dir.glob("**/.best"):
                    shutil.rmtree(leftover)
        found = processes.broadcast(
            json.loads(done.read_text(encoding="utf-8")) if processes.is_leader else None
        )
        counts[task.name], metrics[task.name] = found["counts"], found["metrics"]
    return StageResult(counts={"tasks": counts}, metrics={"tasks": metrics})


def _check_tasks(settings: FinetuneSettings) -> None:
    names = [task.name for task in settings.tasks]
    for name in names:
        if names.count(name) > 1:
            what = f"{names.count(name)} tasks have this name"
            raise UserError("task-twice", f"finetune.tasks {name}", what, "rename one of them")


def _check_names(candidates: list[FineTunableModel]) -> None:
    """Raise UserError where two models would share a folder, or use one of the run's own model."""
    names = [candidate.name for candidate in candidates]
    for name in names:
        if names.count(name) > 1 or name in ("final", "own") or name.startswith("seed-"):
            what = f'"{name}" is already taken'
            raise UserError("model-name", "finetune.models", what, "rename the model's folder")


def _max_length(settings: FinetuneSettings, pretrain_dir: Path) -> int:
    path = pretrain_dir / "final" / "config.json"
    context = int(json.loads(path.read_text(encoding="utf-8"))["max_position_embeddings"])
    if settings.max_length > context:
        logger.info(
            f"finetune: max_length = {settings.max_length}, the model reads {context} tokens"
        )
    return min(settings.max_length, context)


def _one_task(
    task: LabelledSet,
    data: LabelledData,
    own: FineTunableModel,
    others: list[FineTunableModel],
    settings: FinetuneSettings,
    context: StageContext,
    task_dir: Path,
) -> dict[str, Any]:
    counts = _count_examples(task.name, data)
    cut: dict[str, dict[str, int]] = {}
    metrics, cut[own.name] = _train_all_seeds(own, task.name, data, settings, context, task_dir)
    about = {
        "task": task.name,
        "text_columns": task.text_columns,
        "max_length": own.max_length,
        "labels": data.label_names,
    }
    if context.processes.is_leader:
        write_json(task_dir / "final" / CLASSIFIER_NAME, about)
    majority, bag = majority_baseline(data), bag_of_words_baseline(data)
    baselines = {
        "majority_accuracy": majority["accuracy"],
        "majority_macro_f1": majority["macro_f1"],
        "bag_of_words_accuracy": bag["accuracy"],
        "bag_of_words_macro_f1": bag["macro_f1"],
    }
    for other in others:
        folder = task_dir / other.name
        its, cut[other.name] = _train_all_seeds(other, task.name, data, settings, context, folder)
        for key in ("accuracy", "accuracy_spread", "macro_f1", "macro_f1_spread", "seeds"):
            baselines[f"{other.name}_{key}"] = its[key]
        if context.processes.is_leader:
            shutil.rmtree(folder / "final")
    counts["texts_truncated"] = sum(cut[own.name].values())
    counts["texts_truncated_by"] = cut
    return {"counts": counts, "metrics": {**metrics, **baselines}}


def _count_examples(name: str, data: LabelledData) -> dict[str, Any]:
    """Counts of a set; warns of shared texts and missing labels, which make scores worth less."""
    shared, missing = data.shared_texts(), data.missing_labels()
    for key, number in shared.items():
        if number:
            later, _, earlier = key.partition("_texts_in_")
            logger.info(f"{name}: {number} {later} texts are also in the {earlier} split")
    for split, labels in missing.items():
        if labels:
            logger.info(f"{name}: the {split} split has no example of {', '.join(labels)}")
    if data.columns_not_used:
        found = ", ".join(f"{key} in {n}" for key, n in data.columns_not_used.most_common())
        logger.info(
            f"{name}: columns with text that is not read: {found} examples; "
            "text_columns of the task names what is read"
        )
    return {
        "columns_not_used": dict(sorted(data.columns_not_used.items())),
        **{f"examples_{split}": len(data.splits[split]) for split in SPLITS},
        **shared,
        "labels": data.label_names,
        "missing_labels": missing,
    }


def _train_all_seeds(
    candidate: FineTunableModel,
    task_name: str,
    data: LabelledData,
    settings: FinetuneSettings,
    context: StageContext,
    out_dir: Path,
) -> tuple[dict[str, Any], dict[str, int]]:
    """Train with every seed; return metrics over them and the number of texts cut per split."""
    encoded = {name: [candidate.encode(one) for one in data.splits[name]] for name in SPLITS}
    cut = {name: sum(row.was_cut for row in rows) for name, rows in encoded.items()}
    if any(cut.values()):
        texts = ", ".join(f"{number} {name}" for name, number in cut.items())
        logger.info(
            f"{task_name}: {candidate.name} cuts {texts} texts at {candidate.max_length} tokens"
        )
    splits = Splits(
        train=encoded["train"],
        validation=encoded["validation"],
        test=encoded["test"],
        label_names=data.label_names,
        fingerprint=data.fingerprint(),
    )
    results = [
        train_one(
            candidate,
            splits,
            settings,
            seed=seed,
            out_dir=out_dir / f"seed-{seed}",
            context=context,
        )
        for seed in settings.seeds
    ]
    chosen_by = f"validation_{settings.choose_by}"
    best = max(results, key=lambda r: (max(r[chosen_by]), -r["seed"]))
    if context.processes.is_leader:
        _publish(out_dir / f"seed-{best['seed']}" / ".best", out_dir / "final", candidate)
    accuracy, spread = mean_and_spread([r["accuracy"] for r in results])
    macro_f1, f1_spread = mean_and_spread([r["macro_f1"] for r in results])
    num_items = len(data.splits["test"])
    return {
        # Over all seeds.
        "accuracy": accuracy,
        "accuracy_spread": spread,
        "macro_f1": macro_f1,
        "macro_f1_spread": f1_spread,
        "standard_error": standard_error(accuracy, num_items),
        "num_items": num_items,
        "confusion": sum_of_tables([r["confusion"] for r in results]),
        # Of the seed whose classifier is in `final/`.
        "published": {name: best[name] for name in ("seed", "best_epoch", "accuracy", "macro_f1")},
        "examples_per_s": sum(r["examples_per_s"] for r in results) / len(results),
        "seeds": results,
    }, cut


def _publish(best_dir: Path, final_dir: Path, candidate: FineTunableModel) -> None:
    """Write `final/`: the classifier that was best on validation, with its tokenizer."""
    partial = final_dir.with_name(".partial-final")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(final_dir, ignore_errors=True)
    shutil.copytree(best_dir, partial)
    candidate.write_files(partial)
    sync_tree(partial)
    partial.rename(final_dir)
    sync_folder(final_dir.parent)
