"""ROOM finetune: base model to classifiers, one per labelled set (paper Table 5).

Leaves `<task>/final/`, a plain `AutoModelForSequenceClassification` with label names and
tokenizer, and `<task>/scores.json`. Killed at any moment, it goes on with the task, the seed and
the step it was at.
"""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from teenytinyllama.context import RoomContext
from teenytinyllama.errors import UserError
from teenytinyllama.formats.encoding import load_tokenizer
from teenytinyllama.formats.manifest import Outcome, write_json
from teenytinyllama.progress import say
from teenytinyllama.recipe import FinetuneSettings, LabelledSet
from teenytinyllama.stages.finetune.classify import CLASSIFIER_NAME
from teenytinyllama.stages.finetune.labelled import SPLITS, LabelledData, read_labelled
from teenytinyllama.stages.finetune.measures import bag_of_words, majority, mean_and_spread
from teenytinyllama.stages.finetune.models import Learner, other_learner, own_learner
from teenytinyllama.stages.finetune.training import Splits, train_one

SCORES_NAME = "scores.json"


def run(
    *,
    settings: FinetuneSettings,
    context: RoomContext,
    out_dir: Path,
    tokenizer_dir: Path,
    pretrain_dir: Path,
) -> Outcome:
    """Train a classifier per labelled set; return counts of examples and figures per task."""
    encoder = load_tokenizer(tokenizer_dir)
    max_length = _max_length(settings, pretrain_dir)
    own_one = partial(
        own_learner,
        pretrain_dir,
        tokenizer_dir,
        encoder,
        max_length,
        keeps_head=settings.language_model_weight > 0,
        takes_mean=settings.pooling == "mean",
    )
    own = own_one()
    others = [other_learner(place, max_length) for place in settings.models]
    if settings.random_twin:
        others.append(own_one(is_random=True))
    _check_names(settings)
    # All sets are read before the first training: a fault in the last one is said at once.
    sets = {task.name: read_labelled(task, context.language) for task in settings.tasks}
    counts: dict[str, Any] = {}
    figures: dict[str, Any] = {}
    for task in settings.tasks:
        task_dir = out_dir / task.name
        done = task_dir / SCORES_NAME
        if not done.is_file():
            say(f"finetune: {task.name}")
            scores = _one_task(task, sets[task.name], own, others, settings, context, task_dir)
            write_json(done, scores)
            for leftover in task_dir.glob("**/.best"):
                shutil.rmtree(leftover)
        found = json.loads(done.read_text(encoding="utf-8"))
        counts[task.name], figures[task.name] = found["counts"], found["figures"]
    return Outcome(counts={"tasks": counts}, figures={"tasks": figures})


def _check_names(settings: FinetuneSettings) -> None:
    names = [task.name for task in settings.tasks]
    for name in names:
        if names.count(name) > 1:
            what = f"{names.count(name)} tasks have this name"
            raise UserError("task-twice", f"finetune.tasks {name}", what, "rename one of them")


def _max_length(settings: FinetuneSettings, pretrain_dir: Path) -> int:
    path = pretrain_dir / "final" / "config.json"
    context = int(json.loads(path.read_text(encoding="utf-8"))["max_position_embeddings"])
    if settings.max_length > context:
        say(f"finetune: max_length = {settings.max_length}, the model reads {context} tokens")
    return min(settings.max_length, context)


def _one_task(
    task: LabelledSet,
    data: LabelledData,
    own: Learner,
    others: list[Learner],
    settings: FinetuneSettings,
    context: RoomContext,
    task_dir: Path,
) -> dict[str, Any]:
    figures, splits = _train_all_seeds(own, data, settings, context, task_dir)
    about = {
        "task": task.name,
        "text_columns": task.text_columns,
        "max_length": own.max_length,
        "labels": data.label_names,
    }
    write_json(task_dir / "final" / CLASSIFIER_NAME, about)
    counts = {
        **{f"examples_{name}": len(data.splits[name]) for name in SPLITS},
        "texts_truncated": sum(
            row.was_cut for rows in (splits.train, splits.validation, splits.test) for row in rows
        ),
        "test_texts_in_train": data.num_test_texts_in_train(),
        "labels": data.label_names,
    }
    if counts["test_texts_in_train"]:
        say(f"{task.name}: {counts['test_texts_in_train']} test texts stand in the train split too")
    plain, bag = majority(data), bag_of_words(data)
    baselines = {
        "majority_accuracy": plain["accuracy"],
        "majority_macro_f1": plain["macro_f1"],
        "bag_of_words_accuracy": bag["accuracy"],
        "bag_of_words_macro_f1": bag["macro_f1"],
    }
    for other in others:
        its, _ = _train_all_seeds(other, data, settings, context, task_dir / other.name)
        baselines[f"{other.name}_accuracy"] = its["accuracy"]
        baselines[f"{other.name}_accuracy_spread"] = its["accuracy_spread"]
        baselines[f"{other.name}_macro_f1"] = its["macro_f1"]
        baselines[f"{other.name}_macro_f1_spread"] = its["macro_f1_spread"]
        baselines[f"{other.name}_seeds"] = its["seeds"]
        shutil.rmtree(task_dir / other.name / "final")
    return {"counts": counts, "figures": {**figures, **baselines}}


def _train_all_seeds(
    learner: Learner,
    data: LabelledData,
    settings: FinetuneSettings,
    context: RoomContext,
    out_dir: Path,
) -> tuple[dict[str, Any], Splits]:
    encoded = {name: [learner.encode(one) for one in data.splits[name]] for name in SPLITS}
    splits = Splits(
        train=encoded["train"],
        validation=encoded["validation"],
        test=encoded["test"],
        num_labels=len(data.label_names),
        fingerprint=data.fingerprint(),
    )
    results = [
        train_one(
            lambda seed=seed: learner.make(data.label_names, seed),  # type: ignore[misc]
            splits,
            settings,
            seed=seed,
            pad_id=learner.pad_id,
            out_dir=out_dir / f"seed-{seed}",
            context=context,
            write_model_files=learner.write_files,
        )
        for seed in settings.seeds
    ]
    chosen_by = f"validation_{settings.choose_by}"
    best = max(results, key=lambda r: (max(r[chosen_by]), -r["seed"]))
    _publish(out_dir / f"seed-{best['seed']}" / ".best", out_dir / "final", learner)
    accuracy, spread = mean_and_spread([r["accuracy"] for r in results])
    macro_f1, f1_spread = mean_and_spread([r["macro_f1"] for r in results])
    return {
        "accuracy": accuracy,
        "accuracy_spread": spread,
        "macro_f1": macro_f1,
        "macro_f1_spread": f1_spread,
        "standard_error": best["standard_error"],
        "num_items": len(data.splits["test"]),
        "best_epoch": best["best_epoch"],
        "confusion": best["confusion"],
        "examples_per_s": sum(r["examples_per_s"] for r in results) / len(results),
        "seeds": results,
    }, splits


def _publish(best_dir: Path, final_dir: Path, learner: Learner) -> None:
    """`final/`: the model of the seed that was best on validation, with its tokenizer."""
    partial = final_dir.with_name(".partial-final")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(final_dir, ignore_errors=True)
    shutil.copytree(best_dir, partial)
    learner.write_files(partial)
    partial.rename(final_dir)
