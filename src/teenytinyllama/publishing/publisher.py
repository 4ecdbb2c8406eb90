"""A finished run to the Hugging Face Hub: models, checkpoints as branches, documents, cards.

Nothing leaves this machine unless it is asked to: without `upload` the plan is shown, and it names
every repository, revision and file. Everything in it was checked against the manifests and scanned.
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
from teenytinyllama.publishing.repositories import PARTS, Part, Repository, Revision, plan, read_run

logger = logging.getLogger(__name__)


__all__ = ["PARTS", "Part", "Request", "describe", "prepare", "send", "write_folder"]


@dataclass(frozen=True)
class Request:
    """What to publish and where. `parts` empty: all that the run has."""

    run_dir: Path
    to: str
    parts: tuple[Part, ...] = ()
    with_optimizer: bool = False
    """Checkpoints with the state of their optimizer: anyone can train on from them."""
    accepted: Collection[str] = ()
    """Fingerprints of findings that were looked at and are no secrets."""


def prepare(request: Request) -> list[Repository]:
    """The plan, verified and scanned. Raises UserError for anything that must not leave."""
    run = read_run(request.run_dir)
    repositories = plan(run, request.to, request.parts, with_optimizer=request.with_optimizer)
    scan(repositories, request.accepted)
    return repositories


def send(repositories: Sequence[Repository], *, public: bool, endpoint: str | None = None) -> None:
    """Upload the plan; see `hub_upload.upload` for what it raises."""
    from teenytinyllama.publishing import hub_upload

    sent = hub_upload.upload(repositories, public=public, endpoint=endpoint)
    done = f"{sent.commits} commits" if sent.commits else "nothing had changed"
    logger.info(f"publish: {sent.revisions} revisions are as planned ({done})")


def write_folder(repositories: Sequence[Repository], folder: Path) -> None:
    """The same files as a tree `folder/<owner>/<name>/<revision>/...`, to look at or to host.

    Raises UserError where the folder is there and not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "is there already and not empty"
        raise UserError("folder-not-empty", str(folder), what, "name a new folder")
    for repository in repositories:
        for revision in repository.revisions:
            for item in revision.items:
                path = folder / repository.id / revision.name / item.name
                path.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(item.source, bytes):
                    path.write_bytes(item.source)
                else:
                    shutil.copyfile(item.source, path)
    logger.info(f"publish: the files are in {folder}; nothing was sent")


def describe(repositories: Sequence[Repository], *, public: bool, as_json: bool) -> str:
    """The plan in words, every file with its size; or the same as JSON."""
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
                "files": {item.name: item.size_bytes for item in revision.items},
                "size_bytes": revision.size_bytes,
            }
            for revision in repository.revisions
        ],
    }


def _lines(repositories: Sequence[Repository], *, public: bool) -> Iterator[str]:
    num_files = num_bytes = num_revisions = 0
    for repository in repositories:
        seen = "public" if public else "private"
        yield f"{repository.kind} {repository.id}   licence {repository.license}, {seen}"
        shown: tuple[str, ...] = ()
        for revision in repository.revisions:
            num_revisions += 1
            num_files += len(revision.items)
            num_bytes += revision.size_bytes
            names = tuple(item.name for item in revision.items)
            yield f"  {revision.name}   {len(names)} files, {_size(revision.size_bytes)}" + (
                ", the same files" if names == shown else ""
            )
            yield from _file_lines(revision) if names != shown else ()
            shown = names
        yield ""
    yield (
        f"{len(repositories)} repositories, {num_revisions} revisions, {num_files} files, "
        f"{_size(num_bytes)}. Scanned: no secret, no code, every file as its manifest says."
    )


def _file_lines(revision: Revision) -> Iterator[str]:
    width = max(len(item.name) for item in revision.items)
    for item in revision.items:
        yield f"    {item.name:<{width}}  {_size(item.size_bytes):>9}"


def _size(num_bytes: int) -> str:
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= limit:
            return f"{num_bytes / limit:.1f} {unit}"
    return f"{num_bytes} bytes"
