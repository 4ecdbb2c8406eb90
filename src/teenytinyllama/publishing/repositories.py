"""The plan of a publication: repositories, their revisions, and every file in each.

    owner/name          the base model: weights, tokenizer, card, recipe, manifests of the stages
                        branch step-0001000, ...: each permanent checkpoint (the paper's 20 and 48)
    owner/name-chat     the chat model, and its quantized files under gguf/ and awq/
    owner/name-corpus   the documents, as data/train-*.jsonl.zst and data/heldout-*.jsonl.zst

Every file is listed in a manifest of the run; one that is not, or has changed since, is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from teenytinyllama import licenses
from teenytinyllama.artifacts.manifest import (
    MANIFEST_NAME,
    STAGE_NAMES,
    Manifest,
    Output,
    fingerprint_of,
    read_manifest,
    run_name,
    sha256_file,
)
from teenytinyllama.errors import UserError
from teenytinyllama.progress import Progress
from teenytinyllama.redaction import redact_values

Part = Literal["model", "chat", "data"]
PARTS: tuple[Part, ...] = ("model", "chat", "data")
# The stage that each part comes from, and its card in `report/`.
_STAGE: Mapping[Part, str] = {"model": "pretrain", "chat": "align", "data": "corpus"}
_CARD: Mapping[Part, str] = {
    "model": "model_card.md",
    "chat": "chat_card.md",
    "data": "dataset_card.md",
}
_SUFFIX: Mapping[Part, str] = {"model": "", "chat": "-chat", "data": "-corpus"}
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9](?:[\w.-]{0,85}[A-Za-z0-9])?")
RESUME_NAMES = ("optimizer.safetensors", "state.json", MANIFEST_NAME)
MARKER_FOLDER = ".teenytinyllama"


@dataclass(frozen=True)
class HubFile:
    """One file of a revision: its name on the Hub, and its bytes or the local file."""

    name: str
    source: Path | bytes

    @property
    def size_bytes(self) -> int:
        """Size in bytes."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size


@dataclass(frozen=True)
class Revision:
    """A branch of a repository and all its files."""

    name: str
    files: tuple[HubFile, ...]

    @property
    def size_bytes(self) -> int:
        """Size of all its files in bytes."""
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True)
class Repository:
    """One repository: `main` first, then a branch for each checkpoint."""

    id: str
    kind: Literal["model", "dataset"]
    license: str
    marker: str
    """A file that names the run: a repository without it belongs to someone else."""
    revisions: tuple[Revision, ...]


@dataclass(frozen=True)
class FinishedRun:
    """A run folder with the manifests of its finished stages."""

    path: Path
    name: str
    stages: Mapping[str, Manifest]

    def file(self, stage: str, name: str) -> Path:
        """A file of a stage. Raises UserError where it differs from the manifest."""
        output = self.stages[stage].outputs.get(name)
        return _verified(self.path / stage / name, output, self.path)


def read_run(run_dir: Path) -> FinishedRun:
    """Read a run. Raises UserError where it is not a run, or its report is missing or stale."""
    name = run_name(run_dir)
    found = {stage: read_manifest(run_dir / stage) for stage in STAGE_NAMES}
    stages = {stage: manifest for stage, manifest in found.items() if manifest is not None}
    _check_report(run_dir, stages)
    return FinishedRun(run_dir, name, stages)


def _check_report(run_dir: Path, stages: Mapping[str, Manifest]) -> None:
    """The report writes the cards: a stale one would publish wrong facts."""
    report, fix = read_manifest(run_dir / "report"), "ttl report RECIPE"
    if report is None:
        what = "report/manifest.json is missing, and the report writes the cards"
        raise UserError("run-unfinished", str(run_dir), what, fix)
    then = {name: entry.fingerprint for name, entry in report.inputs.items()}
    now = {name: fingerprint_of(stage.model_dump(mode="json")) for name, stage in stages.items()}
    stale = sorted(name for name in {*then, *now} if then.get(name) != now.get(name))
    if stale:
        what = f"its cards are older than the run: {', '.join(stale)} changed since"
        raise UserError("report-stale", str(run_dir / "report"), what, fix)


def plan(
    run: FinishedRun, to: str, parts: Sequence[Part], *, with_optimizer: bool
) -> list[Repository]:
    """The repositories of a run under `to` (`owner/name`), every file verified by its hash.

    `parts` empty: all that the run has. Raises UserError for a part that is not finished, for a
    file that has changed, and for licences that forbid publication.
    """
    if not _REPO_ID.fullmatch(to):
        what = "is not a repository name, expected owner/name"
        raise UserError("repo-name", f"--to {to}", what, "--to my-name/my-model")
    for part in parts or ("model",):
        stage = _STAGE[part]
        if stage not in run.stages:
            what = f"{stage}/manifest.json is missing: {stage} is not finished"
            fix = f"ttl {stage} RECIPE, or --only with what is finished"
            raise UserError("run-unfinished", str(run.path), what, fix)
    wanted = [part for part in (parts or PARTS) if _STAGE[part] in run.stages]
    plans = {
        "model": lambda: _plan_model(run, to, with_optimizer=with_optimizer),
        "chat": lambda: _plan_chat(run, to),
        "data": lambda: _plan_data(run, to),
    }
    repositories = []
    with Progress("publish: verify", unit="files") as progress:
        for part in wanted:
            repositories.append(plans[part]())
            progress.advance(sum(len(revision.files) for revision in repositories[-1].revisions))
    return repositories


def _plan_model(run: FinishedRun, to: str, *, with_optimizer: bool) -> Repository:
    sources = _licenses_of(run, "corpus", "align")
    license_name = licenses.model_license(_report_license(run), sources)
    main = (*_first_files(run, "model"), *_final_files(run, "pretrain"))
    if "align" not in run.stages:
        main += tuple(_quantized_files(run))
    branches = tuple(_checkpoints(run, to, with_optimizer))
    revisions = (Revision("main", main), *branches)
    return Repository(to, "model", license_name, _marker(run), revisions)


def _plan_chat(run: FinishedRun, to: str) -> Repository:
    sources = _licenses_of(run, "corpus", "align")
    license_name = licenses.model_license(_report_license(run), sources)
    files = (*_first_files(run, "chat"), *_final_files(run, "align"), *_quantized_files(run))
    name = to + _SUFFIX["chat"]
    return Repository(name, "model", license_name, _marker(run), (Revision("main", files),))


def _plan_data(run: FinishedRun, to: str) -> Repository:
    found = {licenses.terms_of(name) for name in _licenses_of(run, "corpus")}
    closed = sorted(t.license for t in found if t.level >= licenses.NO_DERIVATIVES)
    if closed:
        what = f"text under {', '.join(closed)} may not be redistributed as a data set"
        fix = "leave those sources out, or publish without the data: --only model --only chat"
        raise UserError("license-clash", "corpus", what, fix)
    shards = [name for name in run.stages["corpus"].outputs if name.endswith(".jsonl.zst")]
    files = [
        HubFile(f"data/{name}", run.file("corpus", name))
        for name in shards
        if re.fullmatch(r"(train|heldout)-\d+\.jsonl\.zst", name)
    ]
    revision = Revision("main", (*_first_files(run, "data"), *files))
    name = to + _SUFFIX["data"]
    license_name = licenses.model_license("", (t.license for t in found))
    return Repository(name, "dataset", license_name, _marker(run), (revision,))


def _marker(run: FinishedRun) -> str:
    return f"{MARKER_FOLDER}/{run.name}.json"


def _first_files(run: FinishedRun, part: Part) -> Iterator[HubFile]:
    """Card, recipe, manifests and marker: the first commit, so that an upload can be resumed."""
    report = read_manifest(run.path / "report")
    assert report is not None, "read_run checked it"
    for name, path in (("README.md", _CARD[part]), ("recipe.toml", "recipe.toml")):
        if path not in report.outputs:
            what = f"{path} is not among its files"
            raise UserError("report-stale", str(run.path / "report"), what, "ttl report RECIPE")
        yield HubFile(name, _verified(run.path / "report" / path, report.outputs[path], run.path))
    for stage, manifest in run.stages.items():
        redacted = redact_values(manifest.model_dump(mode="json"), for_others=True)
        yield HubFile(f"manifests/{stage}.json", _json_bytes(redacted))
    yield HubFile(_marker(run), _json_bytes({"run": run.name, "part": part}))


def _final_files(run: FinishedRun, stage: str) -> Iterator[HubFile]:
    """The files of `final/`, at the top of the repository: where `from_pretrained` looks."""
    names = [name for name in run.stages[stage].outputs if name.startswith("final/")]
    if "final/model.safetensors" not in names and "final/config.json" not in names:
        what = "its manifest lists no final/ model"
        raise UserError("run-unfinished", str(run.path / stage), what, f"ttl {stage} RECIPE")
    for name in names:
        yield HubFile(name.removeprefix("final/"), run.file(stage, name))


def _quantized_files(run: FinishedRun) -> Iterator[HubFile]:
    for name in run.stages["quantize"].outputs if "quantize" in run.stages else ():
        if name.endswith(".gguf") and "/" not in name:
            yield HubFile(
                f"gguf/{run.name}-{name.removeprefix('model-')}", run.file("quantize", name)
            )
        elif name.startswith("awq/"):
            yield HubFile(name, run.file("quantize", name))


def _checkpoints(run: FinishedRun, to: str, with_optimizer: bool) -> Iterator[Revision]:
    """Each permanent checkpoint, oldest first, verified by its own manifest."""
    stage = run.stages["pretrain"]
    every = int(stage.recipe.get("checkpoints", {}).get("permanent_every_steps", 0))
    for folder in sorted((run.path / "pretrain").glob("step-*")):
        match = re.fullmatch(r"step-(\d{7,})", folder.name)
        if not match or not every or int(match[1]) % every:
            continue
        files = _checkpoint_files(folder)
        names = [n for n in files if with_optimizer or n not in RESUME_NAMES]
        verified = [HubFile(n, _verified(folder / n, files[n], run.path)) for n in names]
        if with_optimizer:
            verified.append(HubFile(MANIFEST_NAME, folder / MANIFEST_NAME))
        card = _checkpoint_card(run, to, int(match[1]), folder)
        yield Revision(folder.name, (HubFile("README.md", card), *verified))


def _checkpoint_files(folder: Path) -> dict[str, Output]:
    path = folder / MANIFEST_NAME
    try:
        files = json.loads(path.read_bytes())["files"]
        return {str(name): Output(**found) for name, found in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"its manifest cannot be read ({error})"
        raise UserError("file-changed", str(folder), what, "delete this checkpoint") from error


def _checkpoint_card(run: FinishedRun, to: str, step: int, folder: Path) -> bytes:
    """A short card: the step, and the held-out score where there is one."""
    state = json.loads((folder / "state.json").read_bytes())["progress"]
    steps = run.stages["pretrain"].counts.get("steps")
    evaluate = run.stages.get("evaluate")
    scored: Sequence[Any] = evaluate.metrics.get("checkpoints") or () if evaluate else ()
    bits = [line.get("heldout_bits_per_byte") for line in scored if line.get("step") == step]
    is_scored = bits and isinstance(bits[0], float)
    score = f"held-out text: {bits[0]:.4f} bits per byte" if is_scored else "not scored"
    return (
        f"# {to.partition('/')[2]}: checkpoint at step {step:,}\n\n"
        f"Step {step:,} of {steps:,}, {state['tokens']:,} tokens seen, {score}. "
        "Card, licence and the finished model are on the branch `main`.\n\n"
        f'```python\nAutoModelForCausalLM.from_pretrained("{to}", revision="{folder.name}")\n```\n'
    ).encode()


def _verified(path: Path, output: Output | None, run_dir: Path) -> Path:
    """The path. Raises UserError for a link, and for a size or hash that is not the manifest's."""
    fix = "run that stage again with --redo"
    if ".." in path.parts:
        raise UserError("file-changed", str(path), "is outside its stage's folder", fix)
    if path.resolve() != run_dir.resolve() / path.relative_to(run_dir):
        raise UserError("file-changed", str(path), "is a link, expected the file itself", fix)
    if output is None or not path.is_file():
        what = "is not in its manifest" if path.is_file() else "is missing"
        raise UserError("file-changed", str(path), what, fix)
    if path.stat().st_size != output.bytes or sha256_file(path) != output.sha256:
        what = "has changed since its manifest was written"
        raise UserError("file-changed", str(path), what, fix)
    return path


def _licenses_of(run: FinishedRun, *stages: str) -> list[str]:
    """Licences of all text that a part was made from, by document where they were counted."""
    found: list[str] = []
    for name in stages:
        stage = run.stages.get(name)
        if stage is not None:
            found += licenses.licenses_of(stage.counts, stage.recipe)
    return found


def _report_license(run: FinishedRun) -> str:
    report = read_manifest(run.path / "report")
    return str(report.recipe.get("license", "")) if report else ""


def _json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8")
