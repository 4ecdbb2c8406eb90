"""Tokens per second, MFU and memory of a training step: ours and the peers in turn.

    python bench/train_speed.py --model 160m --sequence-length 512 --rounds 3        # CPU, minutes
    python bench/train_speed.py --model 460m --sequence-length 2048 --tokens-per-step 131072

Every contestant trains the same Llama on the same random tokens in the same precision, each in a
process of its own; a round runs all contestants in turn, and ratios are taken within a round.
Peers at their best: `trainer` is transformers.Trainer with the fused optimizer (and
`trainer-compile` with torch.compile), `litgpt` its model and loss in a plain loop (and
`litgpt-compile` with torch.compile), `paper` the loop of the paper's code: eager, loss read at
every micro-step, AdamW not fused. Ours compiles, as a run of hours would.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHAPES = {
    "160m": {},
    "460m": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    },
    "20m": {
        "hidden_size": 384,
        "intermediate_size": 1024,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
    },
    "toy": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    },
}
VOCAB_SIZE = 32_000
WARMUP_STEPS = 3


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=SHAPES, default="160m")
    parser.add_argument("--sequence-length", type=int, default=512)
    parser.add_argument("--tokens-per-step", type=int, default=4096)
    parser.add_argument("--micro-batch", type=int, default=0, help="rows; 0: automatic")
    parser.add_argument("--peer-micro-batch", type=int, default=4, help="rows of the peers")
    parser.add_argument("--precision", choices=["fp32", "bf16-mixed"], default="bf16-mixed")
    parser.add_argument("--steps", type=int, default=6, help="measured steps of one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contestants", default="ours,trainer,paper")
    parser.add_argument("--compile", choices=["yes", "no"], default="yes", help="ours")
    parser.add_argument("--optimizer", choices=["adamw", "muon"], default="adamw")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    from teenytinyllama import hardware

    # What ours computes in: peers have no way around a CPU's missing kernels for bfloat16.
    args.precision = hardware.precision_on(hardware.present_device(), args.precision)
    return args


def settings_of(args: argparse.Namespace):
    from teenytinyllama.settings.training import ModelSettings

    return ModelSettings(**SHAPES[args.model], max_position_embeddings=args.sequence_length)


def build(args: argparse.Namespace):
    from teenytinyllama.modeling.initialization import build_model, llama_config

    config = llama_config(settings_of(args), VOCAB_SIZE, bos_id=1, eos_id=2, pad_id=3)
    return build_model(config, seed=0)


def rows_of(args: argparse.Namespace, step: int, count: int):
    import numpy as np

    random = np.random.default_rng(step)
    return random.integers(4, VOCAB_SIZE, (count, args.sequence_length + 1), dtype=np.int64)


def peak_memory_bytes() -> int:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def training_of(args: argparse.Namespace, **changes):
    """Our task on random rows, its settings with `changes`, and a meter."""
    import numpy as np

    from teenytinyllama.energy import EnergyMeter
    from teenytinyllama.modeling import model_size as sizes
    from teenytinyllama.settings.base import EnergySettings
    from teenytinyllama.settings.training import (
        CheckpointSettings,
        OptimizerSettings,
        ScheduleSettings,
    )
    from teenytinyllama.training.losses import NextTokenLoss
    from teenytinyllama.training.task import MicroBatch, TrainSettings, TrainTask

    length = args.sequence_length
    rows = args.tokens_per_step // length

    class RandomRows(TrainTask):
        def micro_batch(self, step: int, numbers):
            cut = rows_of(args, step, rows)[numbers]
            num_tokens = len(cut) * length
            arrays = {"input_ids": cut[:, :-1], "labels": cut[:, 1:]}
            return MicroBatch(float(num_tokens), num_tokens, lambda: arrays)

        def write_model_files(self, folder: Path) -> None:
            pass

    class InOrder:
        rows_per_step = rows

        def rows_of_step(self, step: int):
            return np.arange(rows)

    task = RandomRows(
        NextTokenLoss(build(args)),
        InOrder(),
        tokens_per_row=length,
        flops_per_token=sizes.flops_per_token(settings_of(args), VOCAB_SIZE, length),
        identity={},
    )
    plan = {
        "num_steps": WARMUP_STEPS + args.steps,
        "optimizer": OptimizerSettings(kind=args.optimizer),
        "schedule": ScheduleSettings(warmup_steps=2),
        "checkpoints": CheckpointSettings(every_minutes=1000),
        "precision": args.precision,
        "compile": args.compile == "yes",
        "micro_batch": args.micro_batch,
        "log_every_steps": 1,
    }
    return task, TrainSettings(**plan | changes), EnergyMeter(EnergySettings())


def ours(args: argparse.Namespace) -> list[float]:
    from teenytinyllama.training.launch import start_strategy
    from teenytinyllama.training.loop import TrainLoop

    task, settings, meter = training_of(args)
    with tempfile.TemporaryDirectory() as folder:
        loop = TrainLoop(task, settings, start_strategy(task, settings), Path(folder), meter)
        loop._save = lambda: None  # a step's speed, not the disk's
        loop.run()
        lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").open()]
    return [line["tokens_per_s"] for line in lines[WARMUP_STEPS:]]


def trainer(args: argparse.Namespace, *, compiled: bool = False) -> list[float]:
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    rows = args.tokens_per_step // args.sequence_length
    micro = min(args.peer_micro_batch, rows)
    block = torch.from_numpy(rows_of(args, 0, rows * (WARMUP_STEPS + args.steps))[:, :-1].copy())

    class Rows(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(block)

        def __getitem__(self, index: int):
            return {"input_ids": block[index], "labels": block[index]}

    rates: list[float] = []

    class Clock(TrainerCallback):
        started = 0.0

        def on_step_begin(self, *_, **__):
            self.started = time.perf_counter()

        def on_step_end(self, *_, **__):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            rates.append(args.tokens_per_step / (time.perf_counter() - self.started))

    with tempfile.TemporaryDirectory() as folder:
        options = TrainingArguments(
            folder,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=rows // micro,
            max_steps=WARMUP_STEPS + args.steps,
            bf16=args.precision == "bf16-mixed",
            tf32=True if torch.cuda.is_available() else None,
            use_cpu=not torch.cuda.is_available(),
            optim="adamw_torch_fused",
            torch_compile=compiled,
            report_to="none",
            save_strategy="no",
            logging_steps=10_000,
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(),
        )
        Trainer(model=build(args), args=options, train_dataset=Rows(), callbacks=[Clock()]).train()
    return rates[WARMUP_STEPS:]


def paper(args: argparse.Namespace) -> list[float]:
    """The published loop: eager, AdamW not fused, the loss read at every micro-step."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build(args).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, weight_decay=0.01, foreach=False)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    rows = args.tokens_per_step // args.sequence_length
    micro = min(args.peer_micro_batch, rows)
    rates, total = [], 0.0
    for step in range(WARMUP_STEPS + args.steps):
        started = time.perf_counter()
        block = torch.from_numpy(rows_of(args, step, rows)[:, :-1].copy())
        for at in range(0, rows, micro):
            ids = block[at : at + micro].to(device)
            enabled = args.precision == "bf16-mixed"
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled):
                loss = model(input_ids=ids, labels=ids).loss / (rows // micro)
            total += loss.detach().float().item()
            loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        rates.append(args.tokens_per_step / (time.perf_counter() - started))
    return rates[WARMUP_STEPS:]


def litgpt(args: argparse.Namespace, *, compiled: bool = False) -> list[float]:
    """litgpt's Llama and chunked loss, in its pretrain loop's order of operations."""
    import torch
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.utils import chunked_cross_entropy

    shape = settings_of(args)
    config = Config(
        name="bench",
        block_size=args.sequence_length,
        vocab_size=VOCAB_SIZE,
        padded_vocab_size=VOCAB_SIZE,
        n_layer=shape.num_hidden_layers,
        n_head=shape.num_attention_heads,
        n_embd=shape.hidden_size,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
        intermediate_size=shape.intermediate_size,
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = GPT(config).to(device)
    if compiled:
        model = torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, weight_decay=0.1, fused=True)
    rows = args.tokens_per_step // args.sequence_length
    micro = min(args.peer_micro_batch, rows)
    rates = []
    for step in range(WARMUP_STEPS + args.steps):
        started = time.perf_counter()
        block = torch.from_numpy(rows_of(args, step, rows))
        for at in range(0, rows, micro):
            ids = block[at : at + micro].to(device)
            enabled = args.precision == "bf16-mixed"
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled):
                logits = model(ids[:, :-1].contiguous())
                loss = chunked_cross_entropy(logits, ids[:, 1:].contiguous())
            (loss / (rows // micro)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        rates.append(args.tokens_per_step / (time.perf_counter() - started))
    return rates[WARMUP_STEPS:]


CONTESTANTS = {
    "ours": ours,
    "trainer": trainer,
    "trainer-compile": lambda args: trainer(args, compiled=True),
    "paper": paper,
    "litgpt": litgpt,
    "litgpt-compile": lambda args: litgpt(args, compiled=True),
}


def run_one(args: argparse.Namespace) -> None:
    """Run one contestant in this process and print one JSON line."""
    import torch

    from teenytinyllama import hardware
    from teenytinyllama.datasheets import peak_tflops
    from teenytinyllama.modeling import model_size as sizes

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float32 if args.precision == "fp32" else torch.bfloat16
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    peak = hardware.matmul_flops_per_s(dtype, device)
    rates = CONTESTANTS[args.one](args)
    # Measured again, because other programs may have lowered the first one.
    peak = max(peak, hardware.matmul_flops_per_s(dtype, device))
    flops = sizes.flops_per_token(settings_of(args), VOCAB_SIZE, args.sequence_length)
    sheet = peak_tflops(hardware.device_name(device))
    rate = statistics.median(rates)
    print(
        json.dumps(
            {
                "contestant": args.one,
                "tokens_per_s": rate,
                "mfu": sheet and rate * flops / (sheet * 1e12),
                "share_of_measured_peak": rate * flops / peak,
                "matmul_peak_tflops": peak / 1e12,
                "peak_memory_gb": peak_memory_bytes() / 1e9,
                "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
            }
        ),
        flush=True,
    )


def main() -> None:
    args = parse()
    if args.one:
        run_one(args)
        return
    names = args.contestants.split(",")
    results: dict[str, list[dict]] = {name: [] for name in names}
    for _ in range(args.rounds):
        for name in names:
            command = [sys.executable, __file__, *sys.argv[1:], "--one", name]
            done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
            if done.returncode:
                print(json.dumps({"contestant": name, "failed": done.stderr[-1500:]}), flush=True)
                continue
            line = done.stdout.strip().splitlines()[-1]
            results[name].append(json.loads(line))
            print(line, flush=True)
    mine = results["ours"]
    what = f"{args.model}, {args.sequence_length} tokens, {args.precision}"
    goals = {"trainer": 1.3, "paper": 5.0}
    least = {"mfu": 0.55 if args.model == "460m" else 0.5}
    if mine and mine[0]["device"] == "cpu":
        goals, least = {}, {"share_of_measured_peak": 0.8 if args.precision == "fp32" else 0.65}
    units = {"tokens_per_s": "tokens/s", "mfu": "share", "share_of_measured_peak": "share"}
    for key, unit in (units | {"peak_memory_gb": "GB"}).items():
        values = [r[key] for r in mine if r[key] is not None]
        figure(f"{key}, {what}", values, unit, "", least.get(key))
    for name in names:
        if name == "ours" or not results[name]:
            continue
        pairs = list(zip(mine, results[name], strict=False))
        speed = [a["tokens_per_s"] / b["tokens_per_s"] for a, b in pairs]
        memory = [a["peak_memory_gb"] / b["peak_memory_gb"] for a, b in pairs]
        figure(f"speed, {what}", speed, "ratio", name, goals.get(name, 1.15))
        figure(f"memory, {what}", memory, "ratio", name, 0.7, lower=True)


def figure(name, values, unit, peer, goal, *, lower=False) -> None:
    """One JSON line, the form of every script in bench/."""
    if not values:
        return
    median = statistics.median(values)
    holds = None if goal is None else (median <= goal if lower else median >= goal)
    line = {
        "figure": name,
        "value": round(median, 4),
        "spread": [round(min(values), 4), round(max(values), 4)],
        "unit": unit,
        "peer": peer,
        "goal": goal,
        "holds": holds,
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
