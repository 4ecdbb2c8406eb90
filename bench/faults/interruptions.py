"""Ctrl-C, SIGTERM and SIGHUP to every command, at every tenth of a second of its first three.

    python bench/faults/interruptions.py                    # 25 commands, 90 moments each, hours
    python bench/faults/interruptions.py --slice 1/10       # a tenth of the trials
    python bench/faults/interruptions.py corpus serve --every 0.5

Each trial is a `ttl` in a terminal of its own. It must end with code 75 and one line that says how
to go on; `serve`, `chat` and `report --watch`, which last until they are stopped, with code 0 and
no word of it. Before the first line of ours runs the system's own code is right, and a command
that had ended keeps its code.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from support.terminal import Ended, interrupted

from teenytinyllama.signals import INTERRUPTED, STOP_SIGNALS

RECIPE = """name = "small"
language = "pt"
[corpus]
sources = [{ kind = "storybook", num_documents = 300, license = "Apache-2.0" }]
[tokenizer]
vocab_size = 512
[pack]
[pretrain]
sequence_length = 64
tokens_per_step = 256
num_steps = 30
model = { hidden_size = 32, intermediate_size = 64, num_hidden_layers = 2, num_attention_heads = 2, max_position_embeddings = 128 }
[evaluate]
tasks = [{ name = "perguntas", kind = "storybook", num_items = 20 }]
[finetune]
tasks = [{ name = "temas", kind = "storybook" }]
num_epochs = 1
[align]
sources = [{ kind = "storybook", num_documents = 40, license = "Apache-2.0" }]
sequence_length = 128
[quantize]
[report]
"""  # noqa: E501 (a table of TOML has one line)
STAGES = ("corpus", "tokenizer", "pack", "pretrain", "evaluate", "finetune", "align", "quantize")
COMMANDS: dict[str, tuple[str, ...]] = {
    "run": ("run", "r.toml", "--run-dir", "run", "--redo"),
    **{name: (name, "r.toml", "--run-dir", "run", "--redo") for name in STAGES},
    "report": ("report", "r.toml", "--run-dir", "run", "--redo"),
    "report --watch": ("report", "run", "--watch", "--port", "0"),
    "chat": ("chat", "run"),
    "serve": ("serve", "run", "--port", "0"),
    "bench": ("bench", "run"),
    "classify": ("classify", "run", "a.txt"),
    "quickstart": ("quickstart", "--run-dir", "quick"),
    "recipes": ("recipes",),
    "check": ("check", "r.toml"),
    "plan": ("plan", "--budget-usd", "50", "--gpu", "a100-40gb", "--text-mb", "3000"),
    "new": ("new", "--language", "pt", "--text", "*.txt", "--hours", "1", "--gpu", "cpu"),
    "doctor": ("doctor",),
    "settings": ("settings",),
    "storybook": ("storybook", "--language", "pt"),
    "publish": ("publish", "run", "--to", "ana/small"),
    "clean": ("clean", "run"),
}
LASTING = ("serve", "chat", "report --watch")


def make_run(folder: Path) -> None:
    """A finished run and its recipe."""
    (folder / "r.toml").write_text(RECIPE)
    (folder / "a.txt").write_text("Era uma vez uma raposa.\n" * 200)
    command = [sys.executable, "-m", "teenytinyllama.cli", "run", "r.toml", "--run-dir", "run"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]


def trial(template: Path, name: str, number: int, seconds: float) -> str:
    """What went wrong; empty where it went right."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "work"
        shutil.copytree(template, folder)
        return judge(name, number, interrupted(COMMANDS[name], number, seconds, folder=folder))


def judge(name: str, number: int, ended: Ended) -> str:
    """The same, from how it ended."""
    code, shown, was_started = ended
    if code is None:
        return "went on for half a minute"
    has_line = "stopped: " in shown
    if code in (-number, 1) and not was_started:
        return ""  # the system's own, or Python's for Ctrl-C while it starts
    if "Traceback" in shown or "error[bug]" in shown:
        return f"code {code} and a traceback: {shown[-300:]}"
    if name in LASTING:
        return "" if code == 0 and not has_line else f"code {code}: {shown[-300:]}"
    if code == INTERRUPTED and shown.count("stopped: ") == 1 and " to resume." in shown:
        return ""
    # It had ended before the signal came.
    return "" if code in (0, 2) and not has_line else f"code {code}: {shown[-300:]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commands", nargs="*", default=list(COMMANDS))
    parser.add_argument("--every", type=float, default=0.1, help="seconds between two moments")
    parser.add_argument("--until", type=float, default=3.0, help="the last moment")
    parser.add_argument("--slice", default="1/1", help="PART/PARTS of the trials")
    args = parser.parse_args()
    part, parts = map(int, args.slice.split("/"))
    moments = [args.every * (i + 1) for i in range(round(args.until / args.every))]
    trials = [(c, s, at) for c in args.commands for at in moments for s in STOP_SIGNALS]
    failures = run(trials[part - 1 :: parts])
    num = len(trials[part - 1 :: parts])
    unit = "signals" if parts == 1 else f"signals, part {args.slice} of the trials"
    line = {"figure": "F8b signals to every command that end it as they should", "value": num}
    line["value"] -= len(failures)
    line |= {"spread": failures[:20], "unit": unit, "peer": "", "goal": num}
    print(json.dumps({**line, "holds": not failures}, ensure_ascii=False), flush=True)


def run(trials: Sequence[tuple[str, int, float]]) -> list[str]:
    """What went wrong in each trial that failed."""
    failures = []
    with tempfile.TemporaryDirectory() as scratch:
        template = Path(scratch) / "template"
        template.mkdir()
        make_run(template)
        for name, number, seconds in trials:
            wrong = trial(template, name, number, seconds)
            if wrong:
                failures.append(f"{name}, {number.name} after {seconds:.1f} s: {wrong}")
                print(failures[-1], file=sys.stderr, flush=True)
    return failures


if __name__ == "__main__":
    main()
