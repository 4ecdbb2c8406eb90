"""Files and lines for other programs. Ollama itself is not run: its template is read here."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import jinja2
import pytest
from support.command_line import log_of, ttl
from support.finished_run import finish

from teenytinyllama.artifacts.conversations import BOS, CHAT_TEMPLATE, EOS
from teenytinyllama.errors import UserError
from teenytinyllama.publishing.export import OLLAMA_CHAT, export

MESSAGES = [
    {"role": "system", "content": "Seja breve."},
    {"role": "user", "content": "Oi!\n"},
    {"role": "assistant", "content": "Olá."},
    {"role": "user", "content": " E agora?"},
]


@pytest.fixture
def run_dir(run_dir: Path) -> Path:
    for stage in ("pretrain", "align"):
        config = run_dir / stage / "final" / "config.json"
        config.write_text('{"model_type": "llama", "max_position_embeddings": 512}')
        finish(run_dir, stage)
    return run_dir


def go_template(template: str, messages: list[dict[str, str]]) -> str:
    """What Go's text/template makes of `range .Messages` around `if eq .Role "..."`."""
    found = re.fullmatch(r"\{\{ range \.Messages \}\}(.*)\{\{ end \}\}([^{]*)", template)
    assert found
    text = ""
    for message in messages:
        for role, body in re.findall(r'\{\{ if eq \.Role "(\w+)" \}\}(.*?)\{\{ end \}\}', found[1]):
            if role == message["role"]:
                text += body.replace("{{ .Content }}", message["content"])
    return text + found[2]


def test_ollama_s_template_writes_what_ours_does() -> None:
    plain = re.sub(r"\{% (end)?generation %\}", "", CHAT_TEMPLATE)
    ours = jinja2.Template(plain).render(
        messages=MESSAGES, bos_token=BOS, eos_token=EOS, add_generation_prompt=True
    )
    assert BOS + go_template(OLLAMA_CHAT, MESSAGES) == ours


def test_ollama_gets_a_modelfile(run_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "my export"
    lines = export("ollama", run_dir, out, system="Seja breve.")
    text = (out / "Modelfile").read_text(encoding="utf-8")
    assert text.splitlines()[0] == f"FROM {run_dir.resolve()}/quantize/model-q8_0.gguf"
    assert "PARAMETER num_ctx 512\n" in text
    assert text.endswith('SYSTEM """Seja breve."""\n')
    assert lines == [
        f"ollama create pequeno -f {shlex.quote(str(out / 'Modelfile'))}",
        "ollama run pequeno",
    ]
    with pytest.raises(UserError, match="export-exists"):
        export("ollama", run_dir, out)
    with pytest.raises(UserError, match="ends a text of a Modelfile"):
        export("ollama", run_dir, tmp_path / "b", system='a"""b')


def test_a_base_model_continues_text(run_dir: Path, tmp_path: Path) -> None:
    shutil.rmtree(run_dir / "align")
    export("ollama", run_dir, tmp_path / "out")
    assert 'TEMPLATE """{{ .Prompt }}"""' in (tmp_path / "out" / "Modelfile").read_text()
    assert export("mlx", run_dir, tmp_path / "mlx")[1].startswith("mlx_lm.generate")


@pytest.mark.parametrize(
    ("program", "line"),
    [
        ("lmstudio", "lms import {run}/quantize/model-q8_0.gguf"),
        ("llama.cpp", "llama-server -m {run}/quantize/model-q8_0.gguf -c 512 --jinja"),
        ("mlx", "mlx_lm.convert --hf-path {run}/align/final --mlx-path pequeno-mlx -q"),
        ("vllm", "vllm serve {run}/align/final --served-model-name pequeno --max-model-len 512"),
    ],
)
def test_other_programs_get_lines_to_type(run_dir: Path, program: str, line: str) -> None:
    assert ttl("export", program, run_dir).stdout.splitlines()[0] == line.format(run=run_dir)


def test_what_cannot_be_exported_is_one_line(run_dir: Path, tmp_path: Path) -> None:
    assert 'did you mean "ollama"?' in log_of("export", "olama", run_dir, code=2)
    assert "is not a run folder" in log_of("export", "ollama", tmp_path, code=2)
    weights = run_dir / "align" / "final" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert "model.safetensors" in log_of("export", "vllm", run_dir, code=2)
    shutil.rmtree(run_dir / "align")
    shutil.rmtree(run_dir / "quantize")
    assert "has no GGUF file" in log_of("export", "lmstudio", run_dir, code=2)
    shutil.rmtree(run_dir / "pretrain")
    assert f"`ttl status {run_dir}` says why" in log_of("export", "vllm", run_dir, code=2)


@pytest.mark.parametrize("config", ["{}", "[]", '{"max_position_embeddings": "512"}'])
def test_a_config_without_a_context_is_one_line(run_dir: Path, config: str) -> None:
    (run_dir / "align" / "final" / "config.json").write_text(config)
    finish(run_dir, "align")
    with pytest.raises(UserError, match=r"model-damaged.*config\.json"):
        export("ollama", run_dir)


@pytest.mark.parametrize("name", ["a; rm -rf ~", "../../b", "$(id)", ""])
def test_a_stranger_s_name_never_becomes_a_command_or_a_path(run_dir: Path, name: str) -> None:
    (run_dir / "run.json").write_text(json.dumps({"name": name, "recipe": {}}))
    with pytest.raises(UserError, match="run-damaged"):
        export("ollama", run_dir)
