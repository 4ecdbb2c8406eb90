"""Examples per second of `finetune` against `transformers.Trainer` as in the paper's model cards.

The peer: Trainer with AutoModelForSequenceClassification, batches of 16 in random order, padded to
the longest of the batch, fp32, AdamW. Both see the same examples in the same number of steps; time
runs from the start of the second step to the start of the last.

    python bench/finetune_speed.py --tokenizer DIR [--task ../shared/data/tasks/toldbr]
        [--text text] [--label toxic] [--precision bf16-mixed]

The default is fp32 on both sides; `--precision` changes ours alone (`finetune.precision`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from transformers import (
    AutoTokenizer,
    DataCollatorWithPadding,
    LlamaForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from teenytinyllama.artifacts.tokenizer import load_tokenizer
from teenytinyllama.energy import EnergyMeter
from teenytinyllama.modeling.initialization import build_model, llama_config
from teenytinyllama.modeling.loading import save_final
from teenytinyllama.settings.base import EnergySettings
from teenytinyllama.settings.datasets import LabelledSet
from teenytinyllama.settings.post_training import FinetuneSettings
from teenytinyllama.settings.training import ModelSettings
from teenytinyllama.stages.finetune.classification_task import (
    ClassificationTask,
    Splits,
    train_settings_of,
)
from teenytinyllama.stages.finetune.classifier_models import own_model
from teenytinyllama.stages.finetune.labelled_dataset import read_labelled
from teenytinyllama.stages.interface import StageContext
from teenytinyllama.training.launch import start_strategy
from teenytinyllama.training.loop import TrainLoop

MODEL = ModelSettings(
    hidden_size=256,
    intermediate_size=1024,
    num_hidden_layers=6,
    num_attention_heads=8,
    max_position_embeddings=512,
)
BATCH = 16
# On a CPU the processor's own seconds: what else runs there does not count.
CLOCK = time.perf_counter if torch.cuda.is_available() else time.process_time


def rate(starts):
    """Examples per second over the steps after the first."""
    return BATCH * (len(starts) - 2) / (starts[-1] - starts[1])


def ours(candidate, splits, out_dir, precision):
    starts = []

    class Timed(ClassificationTask):
        def batches(self, step, num_rows, num_processes=1):
            starts.append(CLOCK())
            return super().batches(step, num_rows, num_processes)

    plan = FinetuneSettings(
        tasks=(LabelledSet(name="t", kind="storybook"),),
        num_epochs=1,
        examples_per_step=BATCH,
        precision=precision,
    )
    task = Timed(candidate.make(splits.label_names, 0), candidate, splits, plan, seed=0)
    task.write_model_files = lambda folder: None
    energy = EnergySettings()
    context = StageContext("bench", "pt", energy, EnergyMeter(energy))
    settings = train_settings_of(plan, task.order.steps_per_epoch, seed=0, context=context)
    TrainLoop(task, settings, start_strategy(task, settings), out_dir, context.meter).run()
    return rate(starts)


class Clock(TrainerCallback):
    def __init__(self):
        self.starts = []

    def on_step_begin(self, args, state, control, **kwargs):
        self.starts.append(CLOCK())


def trainer(base, rows, tokenizer, out_dir, num_labels):
    model = LlamaForSequenceClassification.from_pretrained(
        base / "final", num_labels=num_labels, dtype=torch.float32
    )
    model.config.pad_token_id = tokenizer.pad_token_id
    data = Dataset.from_list([{"input_ids": list(r.ids), "label": r.label} for r in rows])
    clock = Clock()
    arguments = TrainingArguments(
        str(out_dir), learning_rate=4e-5, per_device_train_batch_size=BATCH, num_train_epochs=1,
        weight_decay=0.01, report_to="none", save_strategy="no", logging_strategy="no",
        use_cpu=not torch.cuda.is_available(), disable_tqdm=True,
    )  # fmt: skip
    Trainer(
        model=model, args=arguments, train_dataset=data, processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer), callbacks=[clock],
    ).train()  # fmt: skip
    return rate(clock.starts)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--task", default="")
    parser.add_argument("--text", nargs="+", default=["text"])
    parser.add_argument("--label", default="label")
    parser.add_argument("--examples", type=int, default=640)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--precision", choices=("fp32", "bf16-mixed"), default="fp32")
    args = parser.parse_args()
    encoder = load_tokenizer(args.tokenizer)
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    task = LabelledSet(
        name="t", kind="files" if args.task else "storybook", path=args.task,
        text_columns=tuple(args.text), label_column=args.label,
    )  # fmt: skip
    data = read_labelled(task)
    ratios, rates = [], []
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "pretrain"
        config = llama_config(MODEL, encoder.vocab_size, bos_id=1, eos_id=2, pad_id=3)
        base.mkdir()
        save_final(build_model(config, seed=0), base / "final", args.tokenizer)
        candidate = own_model(base, args.tokenizer, encoder, 256)
        rows = [candidate.encode(one) for one in data.splits["train"][: args.examples]]
        splits = Splits(rows, rows[:16], rows[:16], data.label_names, "bench")
        for pair in range(args.pairs):
            out = Path(folder) / str(pair)
            mine = ours(candidate, splits, out, args.precision)
            theirs = trainer(base, rows, tokenizer, out / "trainer", len(data.label_names))
            ratios.append(mine / theirs)
            rates.append(mine)
            print(f"ours {mine:.1f}, Trainer {theirs:.1f} examples/s: {ratios[-1]:.2f}x")
    lengths = [len(row.ids) for row in rows]
    value = statistics.median(ratios)
    print(json.dumps({
        "figure": "fine-tuning examples/s against transformers.Trainer", "value": round(value, 3),
        "spread": [round(min(ratios), 3), round(max(ratios), 3)], "unit": "ratio",
        "peer": "transformers.Trainer, random batches of 16, padded to their longest",
        "precision": args.precision,
        "ours": round(statistics.median(rates), 1),
        "mean_tokens": round(statistics.mean(lengths), 1), "max_tokens": max(lengths),
        "goal": 2.0, "holds": value >= 2.0,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
