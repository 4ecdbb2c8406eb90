"""What pre-training was worth: a base model against its own randomly initialised twin.

Both are fine-tuned in the same way, by the finetune stage itself, on five real labelled sets with
the same examples, steps and seeds, each at the learning rate and the pooling that its own
validation scores choose of the same few; beside them the majority class and TF-IDF with logistic
regression. Large splits are cut to a seeded share; how many of how many is printed. The limits are
meant to make one task a matter of minutes on one quiet core with a model of five million
parameters.

    python bench/finetune_table.py --model RUN/pretrain/final --tokenizer RUN/tokenizer
        [--tasks-dir ../shared/data/tasks] [--only ToLD-Br] [--limits 600 300 800]

`--model` is any folder with config.json and weights, a checkpoint too; it is read once, at the
start. Prints one JSON line a task and measure, then the table.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import torch

from teenytinyllama.energy import EnergyMeter
from teenytinyllama.settings.base import EnergySettings
from teenytinyllama.settings.datasets import LabelledSet
from teenytinyllama.settings.post_training import FinetuneSettings
from teenytinyllama.stages.finetune import stage as finetune
from teenytinyllama.stages.interface import StageContext

# name: (folder, text columns, label column, test split, validation split)
TASKS: dict[str, tuple[str, tuple[str, ...], str, str, str]] = {
    "ToLD-Br": ("toldbr", ("text",), "toxic", "test", "validation"),
    "SST-2-pt": ("sst2_pt", ("sentence",), "label", "validation", ""),
    "ASSIN-2": ("assin2", ("premise", "hypothesis"), "entailment_judgment", "test", "validation"),
    "FaQuAD-NLI": ("faquad_nli", ("answer", "question"), "label", "test", "validation"),
    "news-sections": ("news_section_pt", ("text",), "label", "test", "validation"),
}


def subset(source: Path, target: Path, limits: dict[str, int]) -> dict[str, list[int]]:
    """Copy a set's splits, each cut to a seeded share; returns rows kept and found."""
    target.mkdir(parents=True)
    counts = {}
    for path in sorted(source.glob("*.jsonl")):
        lines = path.read_text(encoding="utf-8").splitlines()
        limit = limits.get(path.stem, 0)
        kept = random.Random(0).sample(lines, limit) if len(lines) > limit else lines
        (target / path.name).write_text("\n".join(kept) + "\n", encoding="utf-8")
        counts[path.stem] = [len(kept), len(lines)]
    return counts


def score(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both learners' scores; each at the rate and pooling that were best for it on validation."""
    source, columns, label, test, validation = TASKS[name]
    max_train, max_validation, max_test = options.limits
    limits = {"train": max_train, "validation": max_validation, test: max_test}
    counts = subset(options.tasks_dir / source, folder / "data" / name, limits)
    task = LabelledSet(
        name=name,
        path=str(folder / "data" / name),
        text_columns=columns,
        label_column=label,
        test_split=test,
        validation_split=validation,
    )
    started = time.process_time()
    tried = {}
    for pooling, rate in product(options.poolings, options.learning_rates):
        settings = FinetuneSettings(
            tasks=(task,),
            random_twin=True,
            num_epochs=options.epochs,
            learning_rate=rate,
            warmup_steps=options.warmup_steps,
            # Refused beside the mean: the head for next tokens would read the added layer.
            language_model_weight=options.language_model_weight if pooling == "last" else 0.0,
            choose_by=options.choose_by,
            pooling=pooling,
            max_length=options.max_length,
            seeds=tuple(range(options.seeds)),
        )
        energy = EnergySettings()
        outcome = finetune.run(
            settings=settings,
            context=StageContext("bench", "pt", energy, EnergyMeter(energy)),
            out_dir=folder / f"finetune-{pooling}-{rate}",
            tokenizer_dir=options.tokenizer,
            pretrain_dir=folder / "pretrain",
        )
        tried[pooling, rate] = outcome.figures["tasks"][name]
    found = dict(next(iter(tried.values())))
    for key in ("seeds", "random-init_seeds"):
        validation = {way: on_validation(one[key], options.choose_by) for way, one in tried.items()}
        best = max(validation, key=lambda way: validation[way])
        found[key] = tried[best][key]
        found[f"{key}_chosen"] = list(best)
        found[f"{key}_validation"] = {f"{p} {r}": round(v, 4) for (p, r), v in validation.items()}
    found["counts"] = outcome.counts["tasks"][name]
    found["rows"] = counts
    found["cpu_seconds"] = round(time.process_time() - started, 1)
    return found


def on_validation(seeds: list[dict[str, Any]], measure: str) -> float:
    """Mean over seeds of the best epoch's score on the validation split."""
    return sum(max(one[f"validation_{measure}"]) for one in seeds) / len(seeds)


def line(name: str, measure: str, found: dict[str, Any]) -> dict[str, Any]:
    own = [one[measure] for one in found["seeds"]]
    twin = [one[measure] for one in found["random-init_seeds"]]
    return {
        "figure": f"finetune_table_{name}_{measure}",
        "value": round(sum(own) / len(own), 4),
        "spread": [round(min(own), 4), round(max(own), 4)],
        "unit": f"{measure} on {found['num_items']} test items, {len(own)} seeds",
        "peer": f"its randomly initialised twin: {sum(twin) / len(twin):.4f}",
        "peer_spread": [round(min(twin), 4), round(max(twin), 4)],
        "majority": round(found[f"majority_{measure}"], 4),
        "bag_of_words": round(found[f"bag_of_words_{measure}"], 4),
        "standard_error": round(found["seeds"][0]["standard_error"], 4),
        "rows_of": found["rows"],
        "chosen": found["seeds_chosen"],
        "chosen_of": found["seeds_validation"],
        "peer_chosen": found["random-init_seeds_chosen"],
        "peer_chosen_of": found["random-init_seeds_validation"],
        "texts_truncated": found["counts"]["texts_truncated"],
        "best_epochs": [one["best_epoch"] for one in found["seeds"]],
        "cpu_seconds": found["cpu_seconds"],
        "goal": "every seed above every seed of the twin",
        "holds": min(own) > max(twin),
    }


def table(lines: list[dict[str, Any]]) -> str:
    rows = ["| set | measure | majority | TF-IDF | random twin | pre-trained |", "|" + "---|" * 6]
    for one in lines:
        _, _, name, measure = one["figure"].split("_", 3)
        twin = one["peer"].rsplit(" ", 1)[1]
        cells = [f"{100 * float(v):.1f}" for v in (one["majority"], one["bag_of_words"], twin)]
        low, high = (f"{100 * v:.1f}" for v in one["peer_spread"])
        own_low, own_high = (f"{100 * v:.1f}" for v in one["spread"])
        own = f"{100 * one['value']:.1f} ({own_low} to {own_high})"
        twin = f"{cells[2]} ({low} to {high})"
        rows.append(f"| {name} | {measure} | {cells[0]} | {cells[1]} | {twin} | {own} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--tasks-dir", type=Path, default=Path("../shared/data/tasks"))
    parser.add_argument("--only", default="")
    parser.add_argument("--limits", type=int, nargs=3, default=[600, 300, 800])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[2e-4, 1e-3])
    parser.add_argument("--warmup-steps", type=int, default=0)
    parser.add_argument("--language-model-weight", type=float, default=0.0)
    parser.add_argument("--choose-by", choices=("accuracy", "macro_f1"), default="accuracy")
    parser.add_argument("--poolings", choices=("last", "mean"), nargs="+", default=["last"])
    parser.add_argument("--max-length", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        shutil.copytree(
            options.model,
            folder / "pretrain" / "final",
            ignore=shutil.ignore_patterns("optimizer*"),
        )
        for name in TASKS:
            if options.only not in name:
                continue
            found = score(name, options, folder)
            for measure in ("accuracy", "macro_f1"):
                lines.append(line(name, measure, found))
                print(json.dumps(lines[-1]), flush=True)
    print(table(lines))


if __name__ == "__main__":
    main()
