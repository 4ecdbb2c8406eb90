"""Nothing asks another machine: every module imported and every stage run, connections refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import teenytinyllama

GUARD = Path(__file__).parent / "support" / "network_guard"
ROOT = Path(teenytinyllama.__file__).parent
RECIPE = """
name = "offline"
language = "pt"
[corpus]
sources = [{ kind = "storybook", num_documents = 300, license = "Apache-2.0" }]
[tokenizer]
vocab_size = 512
[pack]
[pretrain]
sequence_length = 64
tokens_per_step = 256
num_steps = 4
model = { hidden_size = 32, intermediate_size = 64, num_hidden_layers = 2, \
num_attention_heads = 2, max_position_embeddings = 256 }
[evaluate]
tasks = [{ name = "perguntas", kind = "storybook", num_items = 4 }]
[finetune]
num_epochs = 1
tasks = [{ name = "sentimento", kind = "storybook", num_items = 16 }]
[align]
sources = [{ kind = "storybook", num_documents = 60, license = "Apache-2.0" }]
num_epochs = 1
sequence_length = 128
tokens_per_step = 512
num_questions = 1
max_answer_tokens = 4
[quantize]
max_sample_tokens = 256
max_bits_per_byte_increase = 1.0
[report]
"""
# Errors of optional libraries name the extra; anything else is one of ours.
IMPORT_ALL = """
import importlib, sys
from teenytinyllama.errors import MissingExtraError
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except MissingExtraError:
        pass
"""


def run(folder: Path, *arguments: str) -> list[str]:
    """Run Python where connections are refused; returns what was tried."""
    attempts = folder / "attempts.txt"
    environment = {name: value for name, value in os.environ.items() if "OFFLINE" not in name}
    path = os.pathsep.join((str(GUARD), str(ROOT.parent), environment.get("PYTHONPATH", "")))
    environment |= {"NETWORK_ATTEMPTS": str(attempts), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return attempts.read_text().splitlines() if attempts.exists() else []


def test_the_guard_refuses_and_remembers(tmp_path: Path) -> None:
    code = "import socket\ntry: socket.getaddrinfo('example.org', 80)\nexcept OSError: pass"
    assert run(tmp_path, "-c", code) == ["socket.getaddrinfo example.org"]


def test_no_module_connects_when_imported(tmp_path: Path) -> None:
    modules = [
        ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted(ROOT.rglob("*.py"))
        if path.name != "__main__.py"
    ]
    assert run(tmp_path, "-c", IMPORT_ALL, *modules) == []


@pytest.mark.slow
def test_no_stage_connects(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    arguments = ("-m", "teenytinyllama.cli", "run", "recipe.toml", "--run-dir", "run")
    assert run(tmp_path, *arguments) == []
    assert (tmp_path / "run" / "report" / "index.html").is_file()
