"""Publish a finished run to the Hub: models, checkpoints as branches, documents, cards.

Nothing is uploaded without `--upload`: the plan is shown, with every repository, revision and file.
All files are checked against the manifests and scanned before.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teenytinyllama.errors import UserError
from teenytinyllama.publishing.leak_scan import scan
from teenytinyllama.publishing.repositories import Part, Repository, Revision, plan, read_run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishRequest:
    """What to publish and where. `parts` empty: all that the run has."""

    run_dir: Path
    to: str
    parts: tuple[Part, ...] = ()
    with_optimizer: bool = False
    """Include the optimizer state of checkpoints, so that others can resume from them."""
    accepted: Collection[str] = ()
    """Fingerprints of findings that were checked and are not secrets."""


def prepare(request: PublishRequest) -> list[Repository]:
    """The plan, verified and scanned. Raises UserError for anything that must not be published."""
    run = read_run(request.run_dir)
    repositories = plan(run, request.to, request.parts, with_optimizer=request.with_optimizer)
    scan(repositories, request.accepted)
    return repositories


def send(repositories: Sequence[Repository], *, public: bool, endpoint: str | None = None) -> None:
    """Upload the plan; see `hub_upload.upload` for what it raises."""
    from teenytinyllama.publishing import hub_upload

    sent = hub_upload.upload(repositories, public=public, endpoint=endpoint)
    done = f"{sent.commits} commits" if sent.commits else "no change"
    logger.info(f"publish: {sent.revisions} revisions are up to date ({done})")


def write_folder(repositories: Sequence[Repository], folder: Path) -> None:
    """Write the same files as a tree `folder/<owner>/<name>/<revision>/...`.

    Raises UserError where the folder exists and is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "exists and is not empty"
        raise UserError("folder-not-empty", str(folder), what, "name a new folder")
    for repository in repositories:
        for revision in repository.revisions:
            for file in revision.files:
                path = folder / repository.id / revision.name / file.name
                path.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(file.source, bytes):
                    path.write_bytes(file.source)
                else:
                    shutil.copyfile(file.source, path)
    logger.info(f"publish: files written to {folder}; nothing was sent")


def describe(repositories: Sequence[Repository], *, public: bool, as_json: bool) -> str:
    """The plan as text, every file with its size, or as JSON."""
    if as_json:
        return json.dumps([_as_json(r, public=public) for r in repositories], indent=2)
    return "\n".join(_lines(repositories, public=public))


def _as_json(repository: Repository, *, public: bool) -> dict[str, Any]:
    return {
        "repository": repository.id,
        "kind": repository.kind,
        "license": repository.license,
        "visibility": "public" if public else "private",
        "revisions": [
            {
                "name": revision.name,
                "files": {file.name: file.size_bytes for file in revision.files},
                "size_bytes": revision.size_bytes,
            }
            for revision in repository.revisions
        ],
    }


def _lines(repositories: Sequence[Repository], *, public: bool) -> Iterator[str]:
    num_files = num_bytes = num_revisions = 0
    for repository in repositories:
        visibility = "public" if public else "private"
        yield f"{repository.kind} {repository.id}   licence {repository.license}, {visibility}"
        shown: tuple[str, ...] = ()
        for revision in repository.revisions:
            num_revisions += 1
            num_files += len(revision.files)
            num_bytes += revision.size_bytes
            names = tuple(file.name for file in revision.files)
            yield f"  {revision.name}   {len(names)} files, {_size(revision.size_bytes)}" + (
                ", the same files" if names == shown else ""
            )
            yield from _file_lines(revision) if names != shown else ()
            shown = names
        yield ""
    yield (
        f"{len(repositories)} repositories, {num_revisions} revisions, {num_files} files, "
        f"{_size(num_bytes)}. Scanned: no secret, no code, every file matches its manifest."
    )


def _file_lines(revision: Revision) -> Iterator[str]:
    width = max(len(file.name) for file in revision.files)
    for file in revision.files:
        yield f"    {file.name:<{width}}  {_size(file.size_bytes):>9}"


def _size(num_bytes: int) -> str:
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= limit:
            return f"{num_bytes / limit:.1f} {unit}"
    return f"{num_bytes} bytes"
