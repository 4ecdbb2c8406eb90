"""Supervised tokens per second of `align` against TRL's packing and the paper's padding to 2,048.

All three train the same model on the same conversations with the same precision and threads, one
row after another; time is taken from the start of one step to the start of the next, so loading,
saving and the first step do not count. What is compared is what training is for: answer tokens
learnt per second.

    python bench/sft_speed.py --tokenizer DIR [--data '../shared/data/instruct/*.jsonl.gz']
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

from teenytinyllama.artifacts.conversation_layouts import ConversationError, parse_conversation
from teenytinyllama.artifacts.records import read_records
from teenytinyllama.artifacts.tokenizer import load_tokenizer
from teenytinyllama.energy import EnergyMeter
from teenytinyllama.modeling.initialization import build_model, llama_config
from teenytinyllama.settings.base import EnergySettings, expand_path
from teenytinyllama.settings.datasets import Source
from teenytinyllama.settings.post_training import AlignSettings
from teenytinyllama.settings.training import (
    CheckpointSettings,
    ModelSettings,
    OptimizerSettings,
    ScheduleSettings,
)
from teenytinyllama.stages.align.chat_dataset import ChatData
from teenytinyllama.stages.align.conversation_packing import Rendered
from teenytinyllama.stages.align.sft_task import SftTask
from teenytinyllama.synthetic import dataset as synthetic
from teenytinyllama.training.launch import start_strategy
from teenytinyllama.training.loop import TrainLoop
from teenytinyllama.training.task import TrainSettings

LENGTH = 2048
# On a CPU the processor's own seconds: what else runs there does not count.
CLOCK = time.perf_counter if torch.cuda.is_available() else time.process_time
MODEL = ModelSettings(
    hidden_size=256,
    intermediate_size=1024,
    num_hidden_layers=6,
    num_attention_heads=8,
    max_position_embeddings=LENGTH,
)


def read(pattern, encoder, count):
    found = []
    if pattern:
        for path in expand_path(pattern):
            for record in read_records(path):
                try:
                    found.append(parse_conversation(record.fields))
                except ConversationError:
                    continue
    else:
        made = synthetic.conversations(num_conversations=20 * count, split="train")
        found = [one["messages"] for one in made]
    random.Random(0).shuffle(found)
    fitting = [
        m
        for m in found[: 3 * count]
        if len(encoder.render(m, add_generation_prompt=False)) <= LENGTH
    ]
    return fitting[:count]


def new_model(encoder):
    config = llama_config(MODEL, encoder.vocab_size, bos_id=1, eos_id=2, pad_id=3)
    return build_model(config, seed=0)


def rate(starts, rendered, num_rows):
    """Answer tokens per second: what a row holds on average, over the time of a step of one row.

    The first step does not count. Every row has 2,048 places in all three, so that a step's time
    does not depend on which row it was.
    """
    seconds = statistics.median(b - a for a, b in pairwise(starts[1:]))
    return sum(one.num_supervised for one in rendered) / num_rows / seconds


def ours(rendered, encoder, num_steps, out_dir):
    starts = []

    class Timed(SftTask):
        def batches(self, step, num_rows, num_processes=1):
            starts.append(CLOCK())
            return super().batches(step, num_rows, num_processes)

    plan = AlignSettings(
        sources=(Source(kind="storybook"),), sequence_length=LENGTH, tokens_per_step=LENGTH
    )
    task = Timed(new_model(encoder), ChatData(train=rendered), plan, encoder, None)
    task.evaluate = lambda model: {}
    task.write_model_files = lambda folder: None
    settings = TrainSettings(
        num_steps=num_steps + 2,
        optimizer=OptimizerSettings(peak_learning_rate=1e-5),
        schedule=ScheduleSettings(),
        checkpoints=CheckpointSettings(),
        precision="fp32",
        log_every_steps=1000,
    )
    meter = EnergyMeter(EnergySettings())
    TrainLoop(task, settings, start_strategy(task, settings), out_dir, meter).run()
    return rate(starts, rendered, len(task.rows))


class Clock(TrainerCallback):
    def __init__(self):
        self.starts = []

    def on_step_begin(self, args, state, control, **kwargs):
        self.starts.append(CLOCK())


def trl(conversations, rendered, tokenizer, encoder, num_steps, out_dir):
    data = Dataset.from_list([{"messages": messages} for messages in conversations])
    config = SFTConfig(
        str(out_dir), assistant_only_loss=True, packing=True, max_length=LENGTH, bf16=False,
        use_cpu=not torch.cuda.is_available(), gradient_checkpointing=False, report_to="none",
        per_device_train_batch_size=1, max_steps=num_steps + 2, save_strategy="no",
        logging_strategy="no", learning_rate=1e-5, disable_tqdm=True,
    )  # fmt: skip
    clock = Clock()
    trainer = SFTTrainer(
        model=new_model(encoder), processing_class=tokenizer, train_dataset=data, args=config,
        callbacks=[clock],
    )  # fmt: skip
    trainer.train()
    return rate(clock.starts, rendered, len(trainer.train_dataset))


def padded(rendered, encoder, num_steps):
    """The paper's way: one conversation a row, padded to 2,048, attention mask, all logits."""
    model = new_model(encoder).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    starts = []
    for one in rendered[: num_steps + 2]:
        starts.append(CLOCK())
        ids = torch.full((1, LENGTH), 3)
        ids[0, : len(one.ids)] = torch.tensor(list(one.ids))
        mask = (torch.arange(LENGTH) < len(one.ids)).long()[None]
        model(input_ids=ids, attention_mask=mask, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return rate(starts, rendered, len(rendered))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--data", default="")
    parser.add_argument("--conversations", type=int, default=400)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=3)
    args = parser.parse_args()
    encoder = load_tokenizer(args.tokenizer)
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    conversations = read(args.data, encoder, args.conversations)
    rendered = [Rendered(*encoder.render_with_mask(m)) for m in conversations]
    mean = statistics.mean(len(one.ids) for one in rendered)
    against = {"padding_to_2048": [], "trl_packing": []}
    rates = []
    for _ in range(args.pairs):
        with tempfile.TemporaryDirectory() as folder:
            mine = ours(rendered, encoder, args.steps, Path(folder) / "ours")
            theirs = trl(
                conversations, rendered, tokenizer, encoder, args.steps, Path(folder) / "trl"
            )
        against["trl_packing"].append(mine / theirs)
        against["padding_to_2048"].append(mine / padded(rendered, encoder, args.steps))
        rates.append(mine)
        said = ", ".join(f"{name} {ratios[-1]:.2f}" for name, ratios in against.items())
        print(f"ours {mine:,.0f} answer tokens/s; ratios: {said}")
    threads = torch.get_num_threads()
    print(f"{len(rendered)} conversations of {mean:.0f} tokens on average; {threads} threads")
    for name, goal in (("padding_to_2048", 3.0), ("trl_packing", 1.1)):
        ratios = against[name]
        value = statistics.median(ratios)
        print(json.dumps({
            "figure": f"SFT supervised tokens/s against {name}", "value": round(value, 3),
            "spread": [round(min(ratios), 3), round(max(ratios), 3)], "unit": "ratio",
            "peer": {"trl_packing": "TRL 1.16 SFTTrainer, packing=True, assistant_only_loss",
                     "padding_to_2048": "one row per conversation, padded"}[name],
            "ours": round(statistics.median(rates), 1), "mean_tokens": round(mean, 1),
            "goal": goal, "holds": value >= goal,
        }))  # fmt: skip


if __name__ == "__main__":
    main()
