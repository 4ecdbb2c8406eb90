"""Upload to the Hub: only files that it does not have, in commits; can be resumed.

The first commit of a repository has its card and the marker file of the run; a repository with
other content and without this marker is never written to. Files that this run published before and
no longer has are removed. Identical files are not sent: a second publish makes no commit.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import disable_progress_bars

from teenytinyllama.errors import Interrupted, UserError
from teenytinyllama.publishing.repositories import MARKER_FOLDER, HubFile, Repository, Revision

logger = logging.getLogger(__name__)

MAX_FILES_PER_COMMIT, MAX_BYTES_PER_COMMIT = 100, 5_000_000_000
# In `main`, files in these folders are written by this package; others may be the owner's.
OWN_FOLDERS = ("data/", "manifests/", "gguf/", "awq/")
NOT_CONTENT = (".gitattributes", "README.md")
# Raised by the HTTP client and by the library for large files.
_UNREACHABLE = (httpx.TransportError, ConnectionError, TimeoutError)
TOO_MANY_REQUESTS, SERVER_ERROR = 429, 500


@dataclass(frozen=True)
class UploadResult:
    """Commits made, and revisions that are up to date."""

    commits: int
    revisions: int


def upload(
    repositories: Sequence[Repository], *, public: bool, endpoint: str | None = None
) -> UploadResult:
    """Make the Hub's content equal to the plan.

    All repositories are checked before the first is written to. Raises UserError where there is
    no token, no permission, or a repository with other content; Interrupted where the connection
    broke or the Hub is down: the same command resumes.
    """
    if not sys.stderr.isatty():
        disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    with _translated_errors(repositories[0].id):
        api = HfApi(endpoint=endpoint, token=_token(), library_name="teenytinyllama")
        _check_owner(api, repositories[0].id.partition("/")[0])
        for repository in repositories:
            _check_ownership(api, repository)
        commits = 0
        for repository in repositories:
            with _translated_errors(repository.id):
                commits += _RepositoryUpload(api, repository).run(public=public)
    return UploadResult(commits, sum(len(repository.revisions) for repository in repositories))


def _token() -> str:
    token: str | None = get_token()
    if not token:
        what = "no token for the Hub (looked in HF_TOKEN and in the file of `hf auth login`)"
        raise UserError("hub-token", "ttl publish", what, "hf auth login, or export HF_TOKEN=...")
    return token


def _check_owner(api: HfApi, owner: str) -> None:
    """Raises UserError where the token cannot write under this name."""
    account = api.whoami()
    names = [account["name"], *(org["name"] for org in account.get("orgs", ()))]
    role = account.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        what = "the token is read-only"
        fix = "create one with write access: https://huggingface.co/settings/tokens"
        raise UserError("hub-permission", owner, what, fix)
    if owner not in names:
        what = f"the token belongs to {names[0]}, who may write under: {', '.join(names)}"
        raise UserError("hub-permission", f"--to {owner}/...", what, f"--to {names[0]}/...")


def _check_ownership(api: HfApi, repository: Repository) -> None:
    """Raises UserError where the repository has content that this run did not publish."""
    names = _names_in(api, repository, "main")
    if names is None or not set(names) - set(NOT_CONTENT) or repository.marker in names:
        return
    others = [name for name in names if name.startswith(f"{MARKER_FOLDER}/")]
    content = f"another run ({others[0]})" if others else "other files"
    what = f"exists and has {content}; they would be mixed with this run's files"
    raise UserError("repo-not-ours", repository.id, what, "choose another --to")


def _names_in(api: HfApi, repository: Repository, revision: str) -> list[str] | None:
    """The files of a revision; None where the repository does not exist."""
    try:
        info: Any = api.repo_info(repository.id, repo_type=repository.kind, revision=revision)
    except RepositoryNotFoundError as error:
        if error.response.status_code != httpx.codes.NOT_FOUND:
            raise
        return None
    return [sibling.rfilename for sibling in info.siblings or ()]


class _RepositoryUpload:
    """The upload of one repository."""

    def __init__(self, api: HfApi, repository: Repository) -> None:
        self.api, self.repository = api, repository
        self.target: dict[str, Any] = {"repo_id": repository.id, "repo_type": repository.kind}

    def run(self, *, public: bool) -> int:
        """Upload every revision; returns the number of commits made."""
        self.api.create_repo(**self.target, private=not public, exist_ok=True)
        refs = self.api.list_repo_refs(**self.target)
        branches = {branch.name for branch in refs.branches}
        commits = 0
        for revision in self.repository.revisions:
            if revision.name not in {*branches, "main"}:
                self.api.create_branch(**self.target, branch=revision.name, exist_ok=True)
            made = self._upload_revision(revision)
            commits += made
            what = f"{made} commits" if made else "unchanged"
            logger.info(f"publish: {self.repository.id}@{revision.name}: {what}")
        return commits

    def _upload_revision(self, revision: Revision) -> int:
        """Upload what is new, then remove what is stale; returns the number of commits made."""
        made = 0
        for files in _batches(revision):
            additions = [
                CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=file.source)
                for file in files
            ]
            made += self._commit(revision.name, additions, f"{len(files)} files")
        stale = self._stale(revision)
        if stale:
            deletions = [CommitOperationDelete(path_in_repo=name) for name in stale]
            made += self._commit(revision.name, deletions, f"{len(stale)} files removed")
        return made

    def _commit(self, revision: str, operations: list[Any], what: str) -> bool:
        """Whether a commit was made: the library makes none where nothing has changed."""
        before = self._head_of(revision)
        self.api.create_commit(
            **self.target,
            operations=operations,
            commit_message=f"{revision}: {what} (teenytinyllama)",
            revision=revision,
        )
        return self._head_of(revision) != before

    def _head_of(self, revision: str) -> str:
        info: Any = self.api.repo_info(
            self.repository.id, repo_type=self.repository.kind, revision=revision
        )
        return str(info.sha)

    def _stale(self, revision: Revision) -> list[str]:
        """Files that the plan no longer has; in `main`, only those in our folders."""
        wanted = {file.name for file in revision.files}
        found = set(_names_in(self.api, self.repository, revision.name) or ()) - wanted
        if revision.name == "main":
            return sorted(
                name
                for name in found
                if name.startswith(OWN_FOLDERS) or name.endswith(".safetensors")
            )
        return sorted(found - {".gitattributes"})


def _batches(revision: Revision) -> Iterator[list[HubFile]]:
    """The files by commit: first the small ones with the marker, then the weights."""
    first = {
        file.name: file
        for file in revision.files
        if isinstance(file.source, bytes) or file.name in ("README.md", "recipe.toml")
    }
    yield list(first.values())
    batch: list[HubFile] = []
    size = 0
    for file in revision.files:
        if file.name in first:
            continue
        size += file.size_bytes
        if batch and (len(batch) == MAX_FILES_PER_COMMIT or size > MAX_BYTES_PER_COMMIT):
            yield batch
            batch, size = [], file.size_bytes
        batch.append(file)
    if batch:
        yield batch


@contextmanager
def _translated_errors(where: str) -> Iterator[None]:
    """Raise the Hub's errors as ours, in one line."""
    try:
        yield
    except (*_UNREACHABLE, HfHubHTTPError, OfflineModeIsEnabled, RuntimeError) as error:
        raise _translate(error, where) from error


def _translate(error: BaseException, where: str) -> Exception:
    if isinstance(error, OfflineModeIsEnabled):
        what = "offline mode (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set)"
        return UserError("hub-offline", where, what, "unset HF_HUB_OFFLINE TRANSFORMERS_OFFLINE")
    if isinstance(error, HfHubHTTPError):
        return _translate_status(error, where)
    if isinstance(error, _UNREACHABLE):
        return Interrupted(f"the Hub cannot be reached ({type(error).__name__}: {error})")
    if error.__cause__ is not None:  # an upload's error is wrapped in a RuntimeError
        return _translate(error.__cause__, where)
    return error if isinstance(error, Exception) else RuntimeError(str(error))


def _translate_status(error: HfHubHTTPError, where: str) -> Exception:
    status = error.response.status_code
    lines = (error.server_message or str(error)).strip().splitlines()
    what = f"the Hub answers {status}" + (f" ({lines[0][:200]})" if lines else "")
    if status == httpx.codes.UNAUTHORIZED:
        return UserError("hub-token", where, f"{what}: the token is not valid", "hf auth login")
    if status in (httpx.codes.FORBIDDEN, httpx.codes.NOT_FOUND):
        fix = "use a token with write access, or another --to"
        return UserError("hub-permission", where, what, fix)
    if status == TOO_MANY_REQUESTS or status >= SERVER_ERROR:
        return Interrupted(f"{what} for {where}")
    return UserError("hub-refused", where, what, "fix what it names and run the same command")
