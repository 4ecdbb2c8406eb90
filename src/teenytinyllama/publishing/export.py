"""`ttl export PROGRAM RUN`: what another program needs to run the model of a finished run.

Ollama gets a Modelfile; the others read the run's own files, and the lines to type are printed.
Checked against the programs' documentation (Ollama's Modelfile, `lms import`, `mlx_lm.convert`,
`vllm serve`), not in the programs themselves.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from teenytinyllama.artifacts.conversations import EOS, ROLE_TOKENS
from teenytinyllama.artifacts.file_hashes import verify_model
from teenytinyllama.artifacts.manifest import run_name
from teenytinyllama.artifacts.model_folder import read_json
from teenytinyllama.errors import UserError, did_you_mean

# Go's template for what `CHAT_TEMPLATE` writes in Jinja; llama.cpp adds BOS itself.
_ROLES = "".join(
    f'{{{{ if eq .Role "{role}" }}}}{token}{{{{ .Content }}}}{EOS}{{{{ end }}}}'
    for role, token in ROLE_TOKENS.items()
)
OLLAMA_CHAT = f"{{{{ range .Messages }}}}{_ROLES}{{{{ end }}}}{ROLE_TOKENS['assistant']}"
OLLAMA_BASE = "{{ .Prompt }}"
# The first that the run has: small and hardly worse first.
GGUF_NAMES = tuple(f"model-{name}.gguf" for name in ("q4_k_m", "q8_0", "q4_0", "f16"))


@dataclass(frozen=True)
class ExportedRun:
    """The parts of a finished run that other programs read."""

    name: str
    run_dir: Path
    model_dir: Path
    is_chat: bool

    @property
    def gguf(self) -> Path:
        """Its GGUF file. Raises UserError where none was made."""
        for name in GGUF_NAMES:
            path = self.run_dir / "quantize" / name
            if path.is_file():
                verify_model(path)
                return path
        what = "has no GGUF file in quantize/"
        fix = "add [quantize] to the recipe, then `ttl quantize RECIPE`"
        raise UserError("export-no-gguf", str(self.run_dir), what, fix)

    @property
    def context_length(self) -> int:
        """Positions of the model. Raises UserError where its config.json does not say."""
        path = self.model_dir / "config.json"
        config = read_json(path)
        length = config.get("max_position_embeddings") if isinstance(config, dict) else None
        if not isinstance(length, int):
            what = "names no whole number as max_position_embeddings"
            raise UserError("model-damaged", str(path), what, "save or download it again")
        return length


def read_finished(run_dir: Path) -> ExportedRun:
    """The run to export. Raises UserError where it has no finished model, or a damaged one."""
    name = run_name(run_dir)
    for stage in ("align", "pretrain"):
        folder = run_dir / stage / "final"
        if (run_dir / stage / "manifest.json").is_file() and folder.is_dir():
            verify_model(folder)
            return ExportedRun(name, run_dir, folder, is_chat=stage == "align")
    what = "has no finished model"
    raise UserError("export-no-model", str(run_dir), what, f"`ttl status {run_dir}` says why")


def modelfile(run: ExportedRun, system: str = "") -> str:
    """Ollama's Modelfile. Raises UserError for a system message that it cannot hold."""
    if '"""' in system:
        what = 'holds """, which ends a text of a Modelfile'
        raise UserError("export-system", "--system", what, "write it without these")
    lines = [
        f"FROM {run.gguf.resolve()}",
        f'TEMPLATE """{OLLAMA_CHAT if run.is_chat else OLLAMA_BASE}"""',
        f'PARAMETER stop "{EOS}"',
        f"PARAMETER num_ctx {run.context_length}",
        *([f'SYSTEM """{system}"""'] if system else []),
    ]
    return "\n".join(lines) + "\n"


def _ollama(run: ExportedRun, out_dir: Path, system: str) -> list[str]:
    path = out_dir / "Modelfile"
    text = modelfile(run, system)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        what = "exists already"
        raise UserError("export-exists", str(path), what, "choose another --out") from error
    except OSError as error:
        what = f"cannot be written ({error.strerror})"
        raise UserError("export-unwritable", str(path), what, "choose another --out") from error
    return [f"ollama create {run.name} -f {shlex.quote(str(path))}", f"ollama run {run.name}"]


def _lmstudio(run: ExportedRun, _: Path, __: str) -> list[str]:
    return [f"lms import {shlex.quote(str(run.gguf))}"]


def _llama_cpp(run: ExportedRun, _: Path, __: str) -> list[str]:
    how = "--jinja" if run.is_chat else ""
    return [f"llama-server -m {shlex.quote(str(run.gguf))} -c {run.context_length} {how}".rstrip()]


def _mlx(run: ExportedRun, out_dir: Path, _: str) -> list[str]:
    folder, out = shlex.quote(str(run.model_dir)), shlex.quote(str(out_dir))
    say = "mlx_lm.chat" if run.is_chat else "mlx_lm.generate --prompt TEXT"
    return [f"mlx_lm.convert --hf-path {folder} --mlx-path {out} -q", f"{say} --model {out}"]


def _vllm(run: ExportedRun, _: Path, __: str) -> list[str]:
    folder = shlex.quote(str(run.model_dir))
    return [
        f"vllm serve {folder} --served-model-name {run.name} --max-model-len {run.context_length}"
    ]


PROGRAMS: Mapping[str, Callable[[ExportedRun, Path, str], list[str]]] = {
    "ollama": _ollama,
    "lmstudio": _lmstudio,
    "llama.cpp": _llama_cpp,
    "mlx": _mlx,
    "vllm": _vllm,
}


def export(program: str, run_dir: Path, out_dir: Path | None = None, system: str = "") -> list[str]:
    """Write what `program` needs into `out_dir`; return the lines to type, in order.

    Raises UserError for an unknown program and for a run without what it needs.
    """
    if program not in PROGRAMS:
        what = f'no export for "{program}"'
        raise UserError("export-program", "ttl export", what, did_you_mean(program, PROGRAMS))
    run = read_finished(run_dir)
    return PROGRAMS[program](run, out_dir or Path(f"{run.name}-{program}"), system)
