"""What a finished run becomes on the Hub: repositories, their revisions, every file in each.

    owner/name          the base model: weights, tokenizer, card, recipe, manifests of the stages
                        branch step-0001000, ...: each permanent checkpoint (the paper's 20 and 48)
    owner/name-chat     the chat model, and small files of it under gguf/ and awq/
    owner/name-corpus   the documents, as data/train-*.jsonl.zst and data/heldout-*.jsonl.zst

Every file comes from a manifest of the run: one that is not in it, or no longer as it says, is
not published.
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
    check_run_version,
    fingerprint_of,
    read_manifest,
    sha256_file,
)
from teenytinyllama.errors import UserError
from teenytinyllama.progress import Progress
from teenytinyllama.redaction import redact_values

Part = Literal["model", "chat", "data"]
PARTS: tuple[Part, ...] = ("model", "chat", "data")
# The stage that each part stands on, and its card in `report/`.
_STAGE: Mapping[Part, str] = {"model": "pretrain", "chat": "align", "data": "corpus"}
_CARD: Mapping[Part, str] = {
    "model": "model_card.md",
    "chat": "chat_card.md",
    "data": "dataset_card.md",
}
_SUFFIX: Mapping[Part, str] = {"model": "", "chat": "-chat", "data": "-corpus"}
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9](?:[\w.-]{0,85}[A-Za-z0-9])?")
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
RESUME_NAMES = ("optimizer.safetensors", "state.json", MANIFEST_NAME)
MARK_FOLDER = ".teenytinyllama"


@dataclass(frozen=True)
class Item:
    """One file of a revision: its name there, and its bytes or the file that holds them."""

    name: str
    source: Path | bytes

    @property
    def size_bytes(self) -> int:
        """Size in bytes."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size


@dataclass(frozen=True)
class Revision:
    """A branch of a repository and all files that it shall hold."""

    name: str
    items: tuple[Item, ...]

    @property
    def size_bytes(self) -> int:
        """Size of all its files in bytes."""
        return sum(item.size_bytes for item in self.items)


@dataclass(frozen=True)
class Repository:
    """One repository: `main` first, then a branch for each checkpoint."""

    id: str
    kind: Literal["model", "dataset"]
    license: str
    mark: str
    """The file that says whose it is: a repository without it is somebody else's."""
    revisions: tuple[Revision, ...]


@dataclass(frozen=True)
class FinishedRun:
    """A run's folder with the manifests of its finished stages."""

    path: Path
    name: str
    stages: Mapping[str, Manifest]

    def file(self, stage: str, name: str) -> Path:
        """A file of a stage. Raises UserError where the manifest does not vouch for it."""
        folder = self.path / stage
        return _vouched(folder / name, self.stages[stage].outputs.get(name))


def read_run(run_dir: Path) -> FinishedRun:
    """The run behind a folder. Raises UserError for one that is no run, or has no fresh report."""
    try:
        name = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))["name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = "is not the folder of a run (no run.json that can be read)"
        raise UserError("run-missing", str(run_dir), what, "ls runs/") from error
    check_run_version(run_dir)
    found = {stage: read_manifest(run_dir / stage) for stage in STAGE_NAMES}
    stages = {stage: manifest for stage, manifest in found.items() if manifest is not None}
    if not isinstance(name, str) or not _RUN_NAME.fullmatch(name):
        what = f"names the run {name!r}, which is no name of a recipe"
        raise UserError("run-damaged", str(run_dir / "run.json"), what, "ttl run RECIPE")
    _check_report(run_dir, stages)
    return FinishedRun(run_dir, name, stages)


def _check_report(run_dir: Path, stages: Mapping[str, Manifest]) -> None:
    """The cards are written by the report: one that is missing or stale would publish a lie."""
    report, fix = read_manifest(run_dir / "report"), "ttl report RECIPE"
    if report is None:
        what = "report/manifest.json is not here, and the cards are made by the report"
        raise UserError("run-unfinished", str(run_dir), what, fix)
    told = {name: entry.fingerprint for name, entry in report.inputs.items()}
    now = {name: fingerprint_of(stage.model_dump(mode="json")) for name, stage in stages.items()}
    stale = sorted(name for name in {*told, *now} if told.get(name) != now.get(name))
    if stale:
        what = f"its cards are older than the run: {', '.join(stale)} changed since"
        raise UserError("report-stale", str(run_dir / "report"), what, fix)


def plan(
    run: FinishedRun, to: str, parts: Sequence[Part], *, with_optimizer: bool
) -> list[Repository]:
    """The repositories of a run under `to` (`owner/name`), every file vouched for by a hash.

    `parts` empty: all that the run has. Raises UserError for a part that has not finished, for a
    file that changed, and for licences that forbid it.
    """
    if not _REPO_ID.fullmatch(to):
        what = "is no name of a repository, expected owner/name"
        raise UserError("repo-name", f"--to {to}", what, "--to my-name/my-model")
    for part in parts or ("model",):
        stage = _STAGE[part]
        if stage not in run.stages:
            what = f"{stage}/manifest.json is not here: {stage} has not finished"
            fix = f"ttl {stage} RECIPE, or --only with what is finished"
            raise UserError("run-unfinished", str(run.path), what, fix)
    wanted = [part for part in (parts or PARTS) if _STAGE[part] in run.stages]
    makers = {"model": _model, "chat": _chat, "data": _data}
    with Progress("publish: verify", unit="files") as progress:
        return [_made(makers[part](run, to, with_optimizer), progress) for part in wanted]


def _made(repository: Repository, progress: Progress) -> Repository:
    progress.advance(sum(len(revision.items) for revision in repository.revisions))
    return repository


def _model(run: FinishedRun, to: str, with_optimizer: bool) -> Repository:
    sources = _licenses_of(run, "corpus", "align")
    license_name = licenses.model_license(_report_license(run), sources)
    main = (*_opening(run, "model"), *_final(run, "pretrain"))
    if "align" not in run.stages:
        main += tuple(_small_files(run))
    branches = tuple(_checkpoints(run, to, with_optimizer))
    revisions = (Revision("main", main), *branches)
    return Repository(to, "model", license_name, _mark(run), revisions)


def _chat(run: FinishedRun, to: str, with_optimizer: bool) -> Repository:
    license_name = licenses.model_license(
        _report_license(run), _licenses_of(run, "corpus", "align")
    )
    items = (*_opening(run, "chat"), *_final(run, "align"), *_small_files(run))
    name = to + _SUFFIX["chat"]
    return Repository(name, "model", license_name, _mark(run), (Revision("main", items),))


def _data(run: FinishedRun, to: str, with_optimizer: bool) -> Repository:
    found = {licenses.terms_of(name) for name in _licenses_of(run, "corpus")}
    closed = sorted(t.license for t in found if t.level >= licenses.NO_DERIVATIVES)
    if closed:
        what = f"text under {', '.join(closed)} may not be passed on as a data set"
        fix = "leave those sources out, or publish without it: --only model --only chat"
        raise UserError("license-clash", "corpus", what, fix)
    shards = [name for name in run.stages["corpus"].outputs if name.endswith(".jsonl.zst")]
    items = [
        Item(f"data/{name}", run.file("corpus", name))
        for name in shards
        if re.fullmatch(r"(train|heldout)-\d+\.jsonl\.zst", name)
    ]
    revision = Revision("main", (*_opening(run, "data"), *items))
    name = to + _SUFFIX["data"]
    license_name = licenses.model_license("", (t.license for t in found))
    return Repository(name, "dataset", license_name, _mark(run), (revision,))


def _mark(run: FinishedRun) -> str:
    return f"{MARK_FOLDER}/{run.name}.json"


def _opening(run: FinishedRun, part: Part) -> Iterator[Item]:
    """Card, recipe, manifests and the mark: the first commit, so that a cut publish can go on."""
    report = read_manifest(run.path / "report")
    assert report is not None, "read_run looked for it"
    for name, path in (("README.md", _CARD[part]), ("recipe.toml", "recipe.toml")):
        if path not in report.outputs:
            what = f"{path} is not among its files"
            raise UserError("report-stale", str(run.path / "report"), what, "ttl report RECIPE")
        yield Item(name, _vouched(run.path / "report" / path, report.outputs[path]))
    for stage, manifest in run.stages.items():
        plain = redact_values(manifest.model_dump(mode="json"), for_others=True)
        yield Item(f"manifests/{stage}.json", _json_bytes(plain))
    yield Item(_mark(run), _json_bytes({"run": run.name, "part": part}))


def _final(run: FinishedRun, stage: str) -> Iterator[Item]:
    """The files of `final/`, at the top of the repository: where `from_pretrained` looks."""
    names = [name for name in run.stages[stage].outputs if name.startswith("final/")]
    if "final/model.safetensors" not in names and "final/config.json" not in names:
        what = "its manifest names no final/ model"
        raise UserError("run-unfinished", str(run.path / stage), what, f"ttl {stage} RECIPE")
    for name in names:
        yield Item(name.removeprefix("final/"), run.file(stage, name))


def _small_files(run: FinishedRun) -> Iterator[Item]:
    for name in run.stages["quantize"].outputs if "quantize" in run.stages else ():
        if name.endswith(".gguf") and "/" not in name:
            yield Item(f"gguf/{run.name}-{name.removeprefix('model-')}", run.file("quantize", name))
        elif name.startswith("awq/"):
            yield Item(name, run.file("quantize", name))


def _checkpoints(run: FinishedRun, to: str, with_optimizer: bool) -> Iterator[Revision]:
    """Each permanent checkpoint, oldest first. Its own manifest vouches for its files."""
    stage = run.stages["pretrain"]
    every = int(stage.recipe.get("checkpoints", {}).get("permanent_every_steps", 0))
    for folder in sorted((run.path / "pretrain").glob("step-*")):
        match = re.fullmatch(r"step-(\d{7,})", folder.name)
        if not match or not every or int(match[1]) % every:
            continue
        files = _checkpoint_files(folder)
        names = [n for n in files if with_optimizer or n not in RESUME_NAMES]
        items = [Item(name, _vouched(folder / name, files[name])) for name in names]
        if with_optimizer:
            items.append(Item(MANIFEST_NAME, (folder / MANIFEST_NAME)))
        card = _checkpoint_card(run, to, int(match[1]), folder)
        yield Revision(folder.name, (Item("README.md", card), *items))


def _checkpoint_files(folder: Path) -> dict[str, Output]:
    path = folder / MANIFEST_NAME
    try:
        files = json.loads(path.read_bytes())["files"]
        return {str(name): Output(**found) for name, found in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"its manifest cannot be read ({error})"
        raise UserError("file-changed", str(folder), what, "remove this checkpoint") from error


def _checkpoint_card(run: FinishedRun, to: str, step: int, folder: Path) -> bytes:
    """A few lines: where in the training this is, and its scores where it was scored."""
    state = json.loads((folder / "state.json").read_bytes())["progress"]
    steps = run.stages["pretrain"].counts.get("steps")
    evaluate = run.stages.get("evaluate")
    scored: Sequence[Any] = evaluate.metrics.get("checkpoints") or () if evaluate else ()
    bits = [line.get("heldout_bits_per_byte") for line in scored if line.get("step") == step]
    words = (
        f"held-out text: {bits[0]:.4f} bits per byte"
        if bits and isinstance(bits[0], float)
        else "not scored"
    )
    return (
        f"# {to.partition('/')[2]}: checkpoint at step {step:,}\n\n"
        f"Step {step:,} of {steps:,}, {state['tokens']:,} tokens seen, {words}. "
        "Card, licence and the finished model are on the branch `main`.\n\n"
        f'```python\nAutoModelForCausalLM.from_pretrained("{to}", revision="{folder.name}")\n```\n'
    ).encode()


def _vouched(path: Path, output: Output | None) -> Path:
    """The path, where the file is there, no link, and has the size and hash of its manifest."""
    fix = "run that stage again with --redo"
    if ".." in path.parts:
        raise UserError("file-changed", str(path), "lies outside its stage's folder", fix)
    if path.is_symlink() or any(parent.is_symlink() for parent in path.parents[:2]):
        raise UserError("file-changed", str(path), "is a link, expected the file itself", fix)
    if output is None or not path.is_file():
        what = "is not among the files of its manifest" if path.is_file() else "is gone"
        raise UserError("file-changed", str(path), what, fix)
    if path.stat().st_size != output.bytes or sha256_file(path) != output.sha256:
        what = "changed since its manifest was written"
        raise UserError("file-changed", str(path), what, fix)
    return path


def _licenses_of(run: FinishedRun, *stages: str) -> list[str]:
    """Licences of all text behind a part, document by document where they were counted."""
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
