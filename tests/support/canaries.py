"""Canary secrets (figure F18): planted where secrets are in practice, then searched everywhere.

Eight kinds: a Hub token in the environment, a key without a known format in the environment, a
password in a URL of a recipe, a cloud key in a recipe, a person's folder in a path, and three
kinds in documents. None may be in a log, a traceback, a manifest, the report, a card, a table, a
plot or a published file; `ttl publish` rejects documents with one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from teenytinyllama.synthetic import dataset as synthetic

HUB = "hf_" + "Canary" * 6
PLAIN = "canario-sem-forma-de-chave-77"
PASSWORD = "senhaCanario42"
CLOUD = "AKIA" + "CANARY7CANARY7XY"
PERSON = "canaria.silva"
GITHUB = "ghp_" + "Canary" * 7
OPENAI = "sk-" + "Canary7" * 6
KEY_BODY = "MIICanary" * 12
SECRETS = {
    "hub token, environment": HUB,
    "key without a known format, environment": PLAIN,
    "password in a URL, recipe": PASSWORD,
    "cloud key, recipe": CLOUD,
    "person's folder, path": PERSON,
    "github token, document": GITHUB,
    "api key, document": OPENAI,
    "private key, document": KEY_BODY[:40],
}
RECIPE = """
name = "canary"
language = "pt"
[corpus]
[[corpus.sources]]
kind = "files"
path = "{path}"
license = "CC0-1.0"
origin = "https://ana:{password}@example.org/{cloud}"
[[corpus.sources]]
kind = "storybook"
num_documents = 300
license = "Apache-2.0"
[tokenizer]
vocab_size = 512
[pack]
[report]
"""


def plant(folder: Path) -> Path:
    """Write texts with secrets to a person's folder, and a recipe for it; returns the recipe."""
    texts = folder / f"Users/{PERSON}/textos"
    texts.mkdir(parents=True)
    stories = [made.text for made in synthetic.documents(num_documents=3, seed=9)]
    key = f"-----BEGIN RSA PRIVATE KEY-----\n{KEY_BODY}\n-----END RSA PRIVATE KEY-----"
    rows = [
        {"id": "a", "text": f"{stories[0]}\nA chave da casa é {GITHUB} e mais nada.\n"},
        {"id": "b", "text": f"{stories[1]}\nA outra chave da casa é {OPENAI}, disse ela.\n"},
        {"id": "c", "text": f"{stories[2]}\nA carta dizia isto:\n{key}\nE mais nada.\n"},
        {"id": "d", "text": f"{GITHUB} {OPENAI} {key}"},
    ]
    path = texts / "textos.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = folder / "canary.toml"
    recipe.write_text(RECIPE.format(path=path, password=PASSWORD, cloud=CLOUD))
    return recipe


def ttl(folder: Path, *arguments: object) -> tuple[int, str]:
    """Run one command with secrets in its environment; exit code and all output."""
    env = {**os.environ, "HF_TOKEN": HUB, "WANDB_API_KEY": PLAIN, "OMP_NUM_THREADS": "1"}
    env |= {"HOME": str(folder / f"Users/{PERSON}"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "teenytinyllama.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder)
    return done.returncode, done.stdout + done.stderr


def leaks(run_dir: Path, outputs: list[str]) -> Iterator[str]:
    """Every place with a secret: the outputs of commands, and files that may be shown.

    The documents themselves, kept, dropped and packed, are the user's own text.
    """
    for kind, secret in SECRETS.items():
        for number, output in enumerate(outputs):
            if secret in output:
                yield f"{kind}: output of command {number}"
        for path in sorted(run_dir.rglob("*")):
            own = path.suffix in (".zst", ".bin", ".model") or path.name == "quarantine.jsonl"
            if path.is_file() and not own and secret.encode() in path.read_bytes():
                yield f"{kind}: {path.relative_to(run_dir)}"


def run_trials(folder: Path) -> tuple[list[str], dict[str, int]]:
    """Run, fail, report and publish with canaries; returns leaks and exit codes."""
    recipe, run_dir = plant(folder), folder / "run"
    commands = {
        "run": ("run", recipe, "--run-dir", run_dir),
        "report of a folder": ("report", run_dir, "--out", run_dir / "page.html"),
        "a failure with its traceback": (
            "corpus", recipe, "--run-dir", folder / "other", "--debug",
            "--set", f"corpus.sources=[{{kind='files', path='{folder}/{HUB}/{PLAIN}.jsonl'}}]",
        ),
        "an unknown setting": ("run", recipe, "--set", f"corpus.tokn='{HUB}'"),
        "publish": ("publish", run_dir, "--to", "ana/canary", "--only", "data", "--folder",
                    folder / "published"),
    }  # fmt: skip
    codes, outputs = {}, []
    for name, arguments in commands.items():
        codes[name], output = ttl(folder, *arguments)
        outputs.append(output)
    found = list(leaks(run_dir, outputs))
    if (folder / "published").exists():
        found.append("documents with secrets were published")
    return found, codes
