"""Speed of PackedLM against lm-evaluation-harness's own backend, on the same requests.

Both score the same documents of the same task with the same model, alternating pair by pair; each
pair has new documents. The model has the 160m shape and random weights, which time does not depend
on. Agreement is measured on the same requests.

    python bench/evaluate_speed.py --tokenizer DIR [--tasks-dir ../shared/data/tasks] [--only arc]

`--tokenizer` is a tokenizer folder with 32,000 tokens (any run's `tokenizer/`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import torch
from lm_eval.models.huggingface import HFLM
from transformers import AutoTokenizer

from teenytinyllama import hardware
from teenytinyllama.modeling.initialization import build_model, llama_config
from teenytinyllama.settings.datasets import Task
from teenytinyllama.settings.post_training import EvaluateSettings
from teenytinyllama.settings.training import ModelSettings
from teenytinyllama.stages.evaluate.packed_lm import PackedLM
from teenytinyllama.stages.evaluate.task_loading import load_benchmark

# name: (task files, folder, the peer's documents, our documents, goal). The peer's time is linear
# in the tokens it reads; part of ours is paid once per task. So the peer scores the first few of
# our documents, and its time is scaled to all of them by tokens.
CASES = {
    "arc_25_shot": (("arc_pt",), "arc_challenge_pt", 1, 6, 5.0),
    "mmlu_5_shot": (("mmlu_pt",), "mmlu_pt", 4, 64, 6.0),
    "truthfulqa": (("truthfulqa_pt_mc1", "truthfulqa_pt_mc2"), "truthfulqa_pt", 2, 24, 8.0),
    "hellaswag_like_0_shot": (("hellaswag_pt",), "continuation_pt", 12, 192, 1.8),
}


def requests_of(names, folder, start, count):
    found = []
    for name in names:
        benchmark = load_benchmark(Task(name=name, path=str(folder)))
        task = benchmark.harness_task()
        indices = {name: list(range(start, start + count))}
        task.build_all_requests(samples=indices[name], rank=0, world_size=1)
        found += [SimpleNamespace(args=instance.args) for instance in task.instances]
    return found


def tokens_read(lm, requests):
    """Tokens that the peer reads: each distinct pair without its last token."""
    pairs = (lm._encode_pair(*request.args) for request in requests)
    return sum(map(len, {tuple((context + continuation)[:-1]) for context, continuation in pairs}))


def timed(lm, requests, *, keeps=False):
    """Wall seconds, CPU seconds, results; `keeps` freed memory as the evaluate stage does."""
    wall, cpu = time.perf_counter(), time.process_time()
    with hardware.keeping_freed_memory(torch.device("cpu")) if keeps else nullcontext():
        results = lm.loglikelihood(requests, disable_tqdm=True)
    return time.perf_counter() - wall, time.process_time() - cpu, results


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--tasks-dir", type=Path, default=Path("../shared/data/tasks"))
    parser.add_argument("--only", default="")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer-batch", type=int, default=4)
    parser.add_argument("--batch-tokens", type=int, default=EvaluateSettings().batch_tokens)
    parser.add_argument("--first-pair", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    config = llama_config(ModelSettings(), len(tokenizer), bos_id=1, eos_id=2, pad_id=3)
    model = build_model(config, seed=0).eval().to(hardware.present_device())
    theirs = HFLM(
        pretrained=model,
        tokenizer=tokenizer,
        batch_size=options.peer_batch,
        max_length=2048,
        softmax_dtype="float32",
    )
    ours = PackedLM(model, tokenizer, batch_tokens=options.batch_tokens, max_length=2048)
    assert ours.is_packed
    lines = []
    for case, (names, folder, peer_count, count, goal) in CASES.items():
        if options.only not in case:
            continue
        ratios, cpu_ratios, differences, same = [], [], [], []
        for pair in range(options.pairs):
            start = 40 + (options.first_pair + pair) * count
            whole = requests_of(names, options.tasks_dir / folder, start, count)
            part = requests_of(names, options.tasks_dir / folder, start, peer_count)
            if (options.first_pair + pair) % 2:
                ours_s, ours_cpu_s, results = timed(ours, whole, keeps=True)
                theirs_s, theirs_cpu_s, expected = timed(theirs, part)
            else:
                theirs_s, theirs_cpu_s, expected = timed(theirs, part)
                ours_s, ours_cpu_s, results = timed(ours, whole, keeps=True)
            by_args = {q.args: answer for q, answer in zip(whole, results, strict=True)}
            found = [by_args[q.args] for q in part]
            scale = tokens_read(ours, whole) / tokens_read(ours, part)
            theirs_s, theirs_cpu_s = theirs_s * scale, theirs_cpu_s * scale
            ratios.append(theirs_s / ours_s)
            cpu_ratios.append(theirs_cpu_s / ours_cpu_s)
            differences += [abs(a[0] - b[0]) for a, b in zip(found, expected, strict=True)]
            same += [a[1] == b[1] for a, b in zip(found, expected, strict=True)]
            print(
                f"{case} pair {pair}: lm-eval {theirs_s:.2f} s, ours {ours_s:.2f} s, "
                f"ratio {ratios[-1]:.2f} (of CPU seconds {cpu_ratios[-1]:.2f})",
                flush=True,
            )
        value = statistics.median(ratios)
        lines.append(
            {
                "figure": f"evaluate_speed_{case}",
                "value": round(value, 2),
                "spread": [round(min(ratios), 2), round(max(ratios), 2)],
                "unit": "times lm-eval's HF backend, 160m shape, fp32, "
                f"{len(ratios)} pairs of {count} documents",
                "of_cpu_seconds": round(statistics.median(cpu_ratios), 2),
                "peer": f"lm_eval 0.4.13 HFLM, batch_size {options.peer_batch}",
                "goal": f">= {goal}",
                "holds": value >= goal,
            }
        )
        lines.append(
            {
                "figure": f"evaluate_agreement_{case}",
                "value": max(differences),
                "spread": None,
                "unit": f"largest difference of {len(differences)} log-probabilities, nats",
                "peer": "lm_eval 0.4.13 HFLM",
                "goal": "<= 1e-4 and the same greedy flags",
                "holds": max(differences) <= 1e-4 and all(same),
            }
        )
    for line in lines:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
