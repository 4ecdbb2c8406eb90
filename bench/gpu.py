"""Every GPU figure of the README, in one call of under nine minutes.

    python bench/gpu.py --name h100                     # on a card
    python bench/gpu.py --toy                           # the same parts on a CPU, tiny

Parts run one after another, the most telling first, each in a process of its own; one for which no
time is left is named in the output as skipped. Figures go to bench/results/gpu_NAME.jsonl as well.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
MINUTES = 8.5
# What a kernel belongs to, by its name; the first that fits.
KERNELS = {
    "attention": r"flash|fmha|sdpa|cudnn.*attn|attention",
    "fused by Inductor": r"^triton",
    "products": r"gemm|cutlass|nvjet|cublas|xmma|::mm|addmm|\bmm\b|bmm|linear",
    "optimizer": r"adam|multi_tensor|foreach",
    "softmax and loss": r"softmax|logsumexp|cross_entropy|nll",
    "copies": r"memcpy|memset|copy|to_copy",
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", default="", help="of the card, for the file of results")
    parser.add_argument("--toy", action="store_true", help="tiny sizes, on a CPU")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--tokenizer", default="", help="folder, for the evaluation")
    parser.add_argument("--part", choices=["machine", "profile", "resume"], help=argparse.SUPPRESS)
    return parser.parse_args()


def figure(name: str, value, unit: str = "", **more) -> None:
    """One JSON line, the form of every script in bench/."""
    line = {"figure": name, "value": value, "spread": None, "unit": unit, "peer": ""}
    print(json.dumps({**line, "goal": None, "holds": None, **more}), flush=True)


def commands(args: argparse.Namespace) -> dict[str, tuple[float, list[str]]]:
    """Seconds that a part may take, and its command, in the order of their worth."""
    python = sys.executable
    toy = ["--toy"] if args.toy else []

    def own(part: str) -> list[str]:
        return [python, str(HERE / "gpu.py"), "--part", part, *toy]

    def speed(model: str, contestants: str, *more: str) -> list[str]:
        sizes = ["--model", model, "--sequence-length", "2048", "--tokens-per-step", "131072"]
        sizes += ["--peer-micro-batch", "16", "--steps", "10"]
        if args.toy:
            sizes = ["--model", "toy", "--sequence-length", "32", "--tokens-per-step", "64"]
            sizes += ["--peer-micro-batch", "2", "--steps", "2", "--compile", "no"]
        script = str(HERE / "train_speed.py")
        return [python, script, *sizes, "--rounds", "1", "--contestants", contestants, *more]

    found = {
        "machine": (40.0, own("machine")),
        "profile of one step": (90.0, own("profile")),
        "160m": (150.0, speed("160m", "ours,trainer" if args.toy else "ours,trainer-compile")),
        "160m, our recipe": (60.0, speed("160m", "ours", "--optimizer", "muon")),
        "460m": (120.0, speed("460m", "ours,trainer" if args.toy else "ours,trainer-compile")),
        "resume": (90.0, own("resume")),
        "160m, other peers": (120.0, speed("160m", "ours" if args.toy else "ours,trainer,litgpt")),
        "generation": (90.0, [python, "-m", "teenytinyllama.cli", "bench", "160m"]),
    }
    if args.toy:
        del found["generation"]  # its sizes are those of the paper
    if args.tokenizer:
        script = str(HERE / "evaluate_speed.py")
        options = ["--only", "arc", "--pairs", "1", "--tokenizer", args.tokenizer]
        found["evaluation"] = (120.0, [python, script, *options])
    return found


def main() -> None:
    args = parse()
    if args.part:
        PARTS[args.part](args)
        return
    import torch

    if not torch.cuda.is_available() and not args.toy:
        print("no GPU here: --toy runs every part on the CPU, in about two minutes")
        return
    ends, lines = time.monotonic() + 60 * args.minutes, []
    for part, (seconds, command) in commands(args).items():
        left = ends - time.monotonic()
        limit = left if args.toy else min(seconds, left)  # a busy CPU takes its time
        lines += run_part(part, command, limit) if left > 15 else [skipped(part)]
    if not args.tokenizer:
        lines.append(skipped("evaluation", "no --tokenizer"))
    if args.name:
        path = HERE / "results" / f"gpu_{args.name}.jsonl"
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    if args.toy and any('"failed"' in line for line in lines):
        sys.exit(1)


def run_part(part: str, command: list[str], seconds: float) -> list[str]:
    """The lines that a part prints; one that fails or takes too long is such a line."""
    started = time.monotonic()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, cwd=HERE.parent
        )
    except subprocess.TimeoutExpired:
        return [skipped(part, f"it took more than {seconds:.0f} s")]
    lines = [
        json.dumps({"part": part, **json.loads(line)})
        for line in done.stdout.splitlines()
        if line.startswith("{")
    ]
    if done.returncode:
        lines.append(json.dumps({"part": part, "failed": done.stderr.strip()[-1500:]}))
    elif not lines:
        lines.append(json.dumps({"part": part, "printed": done.stdout.strip()}))
    took = round(time.monotonic() - started, 1)
    lines.append(json.dumps({"part": part, "seconds": took}))
    print("\n".join(lines), flush=True)
    return lines


def skipped(part: str, why: str = "no time was left") -> str:
    line = json.dumps({"part": part, "skipped": why})
    print(line, flush=True)
    return line


def machine(args: argparse.Namespace) -> None:
    """Versions, the card, and what its products reach."""
    import torch
    import transformers

    from teenytinyllama import datasheets, hardware

    device = hardware.present_device()
    name = hardware.device_name(device)
    figure("python, torch, transformers", [platform.python_version(), torch.__version__,
                                           transformers.__version__])  # fmt: skip
    figure("card", name, cuda=torch.version.cuda)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        figure("memory", round(properties.total_memory / 1e9, 1), "GB")
        figure("capability", f"{properties.major}.{properties.minor}")
    figure("peak of the data sheet, bf16", datasheets.peak_tflops(name), "TFLOP/s")
    # A CPU without kernels for bfloat16 would take a minute for the first of them.
    has_bf16 = hardware.multiplies_bfloat16(device)
    for dtype in (torch.bfloat16, torch.float32) if has_bf16 else (torch.float32,):
        found = hardware.matmul_flops_per_s(dtype, device) / 1e12
        figure(f"measured peak, {dtype}", round(found, 2), "TFLOP/s")


def loop_in(folder: Path, args: argparse.Namespace, **changes):
    """Our loop on random rows: the paper's 160m, or a toy."""
    import train_speed

    from teenytinyllama.training.launch import start_strategy
    from teenytinyllama.training.loop import TrainLoop

    model = "toy" if args.toy else "160m"
    words = ["--model", model, "--optimizer", "muon", "--compile", "no" if args.toy else "yes"]
    words += ["--sequence-length", "32" if args.toy else "2048"]
    words += ["--tokens-per-step", "64" if args.toy else "131072"]
    task, settings, meter = train_speed.training_of(train_speed.parse(words), **changes)
    return TrainLoop(task, settings, start_strategy(task, settings), folder, meter)


def profile(args: argparse.Namespace) -> None:
    """Which attention kernel ran, and what one step spends its time on."""
    import torch
    from torch.profiler import ProfilerActivity

    from teenytinyllama import hardware

    with tempfile.TemporaryDirectory() as folder:
        loop = loop_in(Path(folder), args)
        device = loop.strategy.device
        kind = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
        with loop.strategy.step_kernels():
            for _ in range(3):
                loop._train_step()
            hardware.synchronize(device)
            with torch.profiler.profile(activities=[kind]) as profiler:
                loop._train_step()
                hardware.synchronize(device)
    figure("micro-batch", loop.state.micro_batch, "rows")
    groups: Counter[str] = Counter()
    attention: Counter[str] = Counter()
    for event in profiler.key_averages():
        seconds = getattr(event, f"self_{'device' if device.type == 'cuda' else 'cpu'}_time_total")
        group = group_of(event.key)
        groups[group] += seconds
        if group == "attention":
            attention[event.key] += seconds
    total = sum(groups.values())
    figure("kernels of a step", round(total / 1000, 2), "ms")
    for group, part in groups.most_common():
        figure(f"share of a step, {group}", round(part / total, 4), "share")
    for kernel, part in attention.most_common(4):
        figure("attention kernel", kernel[:120], share=round(part / total, 4))
    if device.type == "cuda":
        figure("peak memory", round(torch.cuda.max_memory_allocated() / 1e9, 2), "GB")


def group_of(kernel: str) -> str:
    """The group of a kernel's name.

    >>> group_of("sm90_xmma_gemm_bf16"), group_of("vectorized_elementwise_kernel")
    ('products', 'other')
    """
    named = (group for group, names in KERNELS.items() if re.search(names, kernel.lower()))
    return next(named, "other")


def resume(args: argparse.Namespace) -> None:
    """How far a run that was stopped and resumed ends from one that was not."""
    from teenytinyllama.errors import Interrupted

    with tempfile.TemporaryDirectory() as place:
        whole, again = Path(place) / "whole", Path(place) / "again"
        losses = []
        for folder, stops in ((whole, ()), (again, (3,))):
            for stop in (*stops, None):
                loop = loop_in(folder, args, num_steps=6, log_every_steps=1)
                loop._after_step = stopping(loop, stop)
                try:
                    loop.run()
                except Interrupted:
                    continue
            lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
            losses.append([json.loads(line)["loss"] for line in lines])
    figure("steps after a resume", len(losses[1]))
    drift = max(abs(a - b) for a, b in zip(*losses, strict=True))
    figure("loss of a resumed run, largest difference", drift, "nats")


def stopping(loop, step: int | None):
    """The loop's work after a step, with a signal to stop after this one."""
    after_step = loop._after_step

    def work() -> None:
        if loop.state.step == step:
            loop.stop_signal = "SIGTERM"
        after_step()

    return work


PARTS = {"machine": machine, "profile": profile, "resume": resume}

if __name__ == "__main__":
    main()
