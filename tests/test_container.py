"""Dockerfile and compose.yaml: what they copy exists, what they run parses, no port is open."""

import re
import shlex
from pathlib import Path

import yaml
from typer.main import get_command

from teenytinyllama.cli.app import app

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_what_is_copied_exists_and_is_not_ignored():
    copied = {
        name for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.M) for name in line.split()[:-1]
    }
    assert {name for name in copied if not (ROOT / name).exists()} == set()
    sent = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert sent[0] == "*"
    assert set(sent[1:]) == {f"!{name}" for name in copied}


def test_commands_parse_and_ports_are_of_this_machine_alone():
    services = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
    assert set(services) == {"train", "serve"}
    for service in services.values():
        line = re.sub(r"\$\{\w+:-(\w*)\}", r"\1", service["command"])
        name, *words = shlex.split(line)
        get_command(app).commands[name].make_context(name, words).close()
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
