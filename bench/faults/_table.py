"""Writes docs/faults.md: what each fault trial did and what came of it, from bench/results.

    python bench/faults/_table.py > docs/faults.md

`make faults` runs every script here, keeps what it prints in bench/results, and then this.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Fault(NamedTuple):
    """One line of the plan: its number, what is done, and what runs it."""

    number: str
    done: str
    script: str
    minutes: str


FAULTS = (
    Fault("F1", "SIGKILL at 200 random moments of a training, the same command again", "kills",
          "8"),
    Fault("F2", "crash before, inside and after every file operation of a save, a prune and a log "
          "line", "checkpoint_damage", "3"),
    Fault("F3", "a full or broken disk at every file operation of a save", "checkpoint_damage", ""),
    Fault("F4", "files of the newest checkpoint cut, emptied, deleted, flipped, zeroed",
          "checkpoint_damage", ""),
    Fault("F5", "power cut after every file operation: unsynced bytes and names lost, kept, torn",
          "power_loss", "1"),
    Fault("F6", "1, 2 and 1 processes trade checkpoints",
          "tests/training/test_distributed.py", "1"),
    Fault("F7", "order of rows over epochs and resumes: a function, with nothing to restore",
          "tests/training/test_data_order.py", "0"),
    Fault("F8", "SIGTERM, SIGINT, SIGHUP in start-up, reading, evaluation, samples and saves",
          "kills", ""),
    Fault("F8b", "the same signals to every command, at every tenth of a second of its first three",
          "interruptions", "120"),
    Fault("F9", "NaN, infinity and 1e30 in gradients; and the same under kills", "kills", ""),
    Fault("F10", "step 1,000,000 of an index of ten billion tokens", "bench/data_size.py", "2"),
    Fault("F11", "a save, with hashes and syncs, against accelerate's without",
          "bench/save_cost.py", "1"),
    Fault("F12", "10,000 fuzzed documents in every compression, also of several writers joined; a "
          "2 GB line, a 1 GB bomb", "corpus_fuzz", "2"),
    Fault("F13", "SIGKILL in corpus, tokenizer and pack; changed settings",
          "corpus_kill, tokens_kill, changed_settings", "12"),
    Fault("F13b", "SIGKILL at even moments of every stage, 60 % after start-up; bytes, time (1 s a "
          "kill may be lost) and energy compared",
          "kill_stages", "60"),
    Fault("F15", "coverage-guided fuzzing (atheris) of compressed files, the corpus' readers, "
          "records, manifests, checkpoints, GGUF headers, model folders, recipes", "fuzz", "80"),
    Fault("F16", "SIGKILL in the evaluation", "evaluate_kill", "4"),
    Fault("F17", "bad requests, requests drawn from the whole schema, slow clients, half-sent "
          "bodies, hang-ups, emptied files against the server", "server", "8"),
    Fault("F18", "secrets in texts, recipe, environment and paths, then everything a run writes is "
          "read; forms of gitleaks' and secretlint's rules; texts without a secret", "canaries",
          "5"),
    Fault("F19", "files made to harm: weights, configurations, archives, tables, templates, names, "
          "pages, links", "artifacts", "3"),
    Fault("F20", "half an hour of training with a kill every three minutes", "soak", "30"),
    Fault("F23", "wrong recipes, command lines, data files, run and model folders: the code, the "
          "place, no traceback, and the advice followed", "messages", "5"),
    Fault("F24", "SIGKILL of one of two ranks at random moments, under `torchrun --max-restarts`",
          "rank_kills", "20"),
    Fault("F21", "a disk that hangs in a read or a save, SIGSTOP, dead and hanging trackers",
          "stalls", "6"),
)  # fmt: skip
# Where the figures of a number are called by another name.
OTHER_NAMES = {
    "F16": "evaluate_killed",
    "F18": "canary_secret",
    "F19": "malicious_artifacts",
}

HEAD = """# Faults: what is done to it, and what came of it

Written by `bench/faults/_table.py` from `bench/results/`; only what was really run has a result.
`make faults` runs every script of `bench/faults/` at full size, one after the other, and writes
this page again: about {hours:.0f} hours on two idle cores. One trial alone:
`python bench/faults/kills.py`; each says with `--help` how to run a smaller piece. The same trials,
much smaller, are in `make test` (`tests/test_faults.py` and the tests of each stage).

| | what is done | results | command | minutes, about |
|---|---|---|---|---|
"""
FOOT = """
The numbers are those of the project's plan of faults; F14 and F22 have no script
of their own.
"""


def figures() -> list[dict]:
    """Every line of every result, the newest of a figure last."""
    found = []
    for path in sorted((ROOT / "bench" / "results").glob("*.jsonl")):
        for text in path.read_text(encoding="utf-8").splitlines():
            line = json.loads(text) if text.startswith("{") else {}
            if "figure" in line:
                found.append(line)
    return found


def result_of(fault: Fault, lines: list[dict]) -> str:
    """Its figures as `name: value unit (goal)`, or that it was not run."""
    prefix = OTHER_NAMES.get(fault.number, f"{fault.number} ")
    newest = {line["figure"]: line for line in lines if line["figure"].startswith(prefix)}
    rows = []
    for name, line in newest.items():
        held = {True: "", False: ", **not reached**", None: ""}[line["holds"]]
        goal = "" if line["goal"] is None else f" (goal {str(line['goal']).removeprefix('= ')})"
        value = f"{line['value']:,}" if isinstance(line["value"], int) else f"{line['value']:.3g}"
        what = name.removeprefix(f"{fault.number} ").replace("_", " ")
        rows.append(f"{what}: {value} {line['unit']}{goal}{held}")
    return "<br>".join(rows)


def command_of(fault: Fault) -> str:
    """What to type."""
    if fault.script.startswith("tests/"):
        return f"`pytest {fault.script}`"
    if fault.script.startswith("bench/"):
        return f"`python {fault.script}`"
    return "<br>".join(f"`python bench/faults/{s}.py`" for s in fault.script.split(", "))


def main() -> None:
    lines = figures()
    rows = []
    for fault in FAULTS:
        result = result_of(fault, lines)
        if not result:
            is_test = fault.script.startswith("tests/")
            result = "part of `make test`" if is_test else "not run at full size yet"
        cells = (fault.number, fault.done, result, command_of(fault), fault.minutes)
        rows.append("| " + " | ".join(cells) + " |\n")
    hours = sum(int(fault.minutes or 0) for fault in FAULTS) / 60
    sys.stdout.write(HEAD.format(hours=hours) + "".join(rows) + FOOT)


if __name__ == "__main__":
    main()
