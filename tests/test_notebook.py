"""The notebook: plain cells without outputs, and every one of them runs at toy size."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_quickstart import SMALLER
from typer.main import get_command

from teenytinyllama.cli.app import app

PATH = Path(__file__).parents[1] / "docs" / "notebooks" / "quickstart.ipynb"
NOTEBOOK = json.loads(PATH.read_text(encoding="utf-8"))
CODE = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
SHELL = re.compile(r"^( *)!(.+)$", re.M)
# What a command is given here beside what the notebook gives it.
TOY = {
    "quickstart": [part for change in SMALLER for part in ("--set", change)],
    "storybook": ["--documents", "400", "--conversations", "20"],
    "new": ["--gpu", "cpu", "--hours", "0.02"],
    "run": ["--set", "pretrain.num_steps=4", "--set", "pretrain.sequence_length=64",
            "--set", "pretrain.tokens_per_step=128", "--set", "evaluate.tasks=[]",
            "--set", "pretrain.schedule.warmup_steps=1",
            "--set", "pretrain.averaging.ema_decay=0.5", "--set", "quantize.max_sample_tokens=256",
            "--set", "quantize.max_bits_per_byte_increase=1.0"],
}  # fmt: skip


def test_cells_have_ids_and_no_outputs():
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in NOTEBOOK["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in NOTEBOOK["cells"]:
        keys = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            keys |= {"execution_count", "outputs"}
            assert cell["execution_count"] is None and cell["outputs"] == []
        assert set(cell) == keys


def test_the_command_line_takes_every_command():
    names = get_command(app).commands
    typed = [line for cell in CODE for _, line in SHELL.findall(cell)]
    assert len(typed) > 5
    for line in typed:
        program, name, *words = shlex.split(re.sub(r"\{\w+\}", "", line))
        assert program == "ttl"
        names[name].make_context(name, words).close()


@pytest.mark.slow
def test_every_cell_runs_at_toy_size(tmp_path, monkeypatch, capfd):
    shown = []
    module = SimpleNamespace(HTML=str, display=shown.append)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.chdir(tmp_path)

    def shell(line):
        _, name, *words = shlex.split(line.format(**namespace))
        command = [sys.executable, "-m", "teenytinyllama.cli", name, *words, *TOY.get(name, [])]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        subprocess.run(command, check=True, env=environment)

    namespace = {"shell": shell}
    for cell in CODE:
        if not cell.startswith("%pip"):
            exec(SHELL.sub(lambda found: f"{found[1]}shell({found[2]!r})", cell), namespace)
    assert [page.count("srcdoc") for page in shown] == [1, 1]
    assert "> Onde você mora?" in capfd.readouterr().out
    assert (tmp_path / "mine.zip").stat().st_size > 1000
