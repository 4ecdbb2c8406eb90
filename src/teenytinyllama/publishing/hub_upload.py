"""The upload: only what the Hub does not have, in commits that a cut connection can go on from.

The first commit of a repository holds its card and the mark of the run; a repository without that
mark is somebody else's and is never written to. Files that this run published and no longer has
are removed. What is already there byte for byte is not sent: a second publish makes no commit.
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
from teenytinyllama.publishing.repositories import MARK_FOLDER, Item, Repository, Revision

logger = logging.getLogger(__name__)


MAX_FILES_PER_COMMIT, MAX_BYTES_PER_COMMIT = 100, 5_000_000_000
# In `main`, files below these folders are this package's; others may be the owner's own.
OWN_FOLDERS = ("data/", "manifests/", "gguf/", "awq/")
NOT_CONTENT = (".gitattributes", "README.md")
# The client's own, and what the library for large files raises.
_UNREACHABLE = (httpx.TransportError, ConnectionError, TimeoutError)
TOO_MANY_REQUESTS, SERVER_ERROR = 429, 500


@dataclass(frozen=True)
class Sent:
    """What an upload did."""

    commits: int
    revisions: int


def upload(
    repositories: Sequence[Repository], *, public: bool, endpoint: str | None = None
) -> Sent:
    """Bring the Hub to what the plan says.

    All repositories are looked at before the first is written to. Raises UserError where there is
    no token, no permission, or a repository of somebody else; Interrupted where the connection
    broke or the Hub is down: the same command goes on from there.
    """
    if not sys.stderr.isatty():
        disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    with _explained(repositories[0].id):
        api = HfApi(endpoint=endpoint, token=_token(), library_name="teenytinyllama")
        _check_owner(api, repositories[0].id.partition("/")[0])
        for repository in repositories:
            _check_ours(api, repository)
        commits = 0
        for repository in repositories:
            with _explained(repository.id):
                commits += _Upload(api, repository).run(public=public)
    return Sent(commits, sum(len(repository.revisions) for repository in repositories))


def _token() -> str:
    token: str | None = get_token()
    if not token:
        what = "no token for the Hub (looked in HF_TOKEN and where `hf auth login` keeps it)"
        raise UserError("hub-token", "ttl publish", what, "hf auth login, or export HF_TOKEN=...")
    return token


def _check_owner(api: HfApi, owner: str) -> None:
    """Raises UserError where the token cannot write under this name."""
    account = api.whoami()
    names = [account["name"], *(org["name"] for org in account.get("orgs", ()))]
    role = account.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        what = "the token may only read"
        fix = "make one that may write: https://huggingface.co/settings/tokens"
        raise UserError("hub-permission", owner, what, fix)
    if owner not in names:
        what = f"the token is of {names[0]}, who may write under: {', '.join(names)}"
        raise UserError("hub-permission", f"--to {owner}/...", what, f"--to {names[0]}/...")


def _check_ours(api: HfApi, repository: Repository) -> None:
    """Raises UserError where the repository holds something that this run did not put there."""
    names = _names_in(api, repository, "main")
    if names is None or not set(names) - set(NOT_CONTENT) or repository.mark in names:
        return
    others = [name for name in names if name.startswith(f"{MARK_FOLDER}/")]
    whose = f"another run ({others[0]})" if others else "something else"
    what = f"is there already and holds {whose}; its files would be mixed with this run's"
    raise UserError("repo-not-ours", repository.id, what, "choose another --to")


def _names_in(api: HfApi, repository: Repository, revision: str) -> list[str] | None:
    """The files of a revision; None where the repository is not there."""
    try:
        info: Any = api.repo_info(repository.id, repo_type=repository.kind, revision=revision)
    except RepositoryNotFoundError as error:
        if error.response.status_code != httpx.codes.NOT_FOUND:
            raise
        return None
    return [sibling.rfilename for sibling in info.siblings or ()]


class _Upload:
    """One repository on its way."""

    def __init__(self, api: HfApi, repository: Repository) -> None:
        self.api, self.repository = api, repository
        self.place: dict[str, Any] = {"repo_id": repository.id, "repo_type": repository.kind}

    def run(self, *, public: bool) -> int:
        """Bring every revision up; returns how many commits that took."""
        self.api.create_repo(**self.place, private=not public, exist_ok=True)
        refs = self.api.list_repo_refs(**self.place)
        branches = {branch.name for branch in refs.branches}
        commits = 0
        for revision in self.repository.revisions:
            if revision.name not in {*branches, "main"}:
                self.api.create_branch(**self.place, branch=revision.name, exist_ok=True)
            made = self._bring(revision)
            commits += made
            what = f"{made} commits" if made else "unchanged"
            logger.info(f"publish: {self.repository.id}@{revision.name}: {what}")
        return commits

    def _bring(self, revision: Revision) -> int:
        """Send what is new, then remove what is stale; returns the number of commits made."""
        made = 0
        for items in _batches(revision):
            additions = [
                CommitOperationAdd(path_in_repo=item.name, path_or_fileobj=item.source)
                for item in items
            ]
            made += self._commit(revision.name, additions, f"{len(items)} files")
        stale = self._stale(revision)
        if stale:
            gone = [CommitOperationDelete(path_in_repo=name) for name in stale]
            made += self._commit(revision.name, gone, f"{len(stale)} files removed")
        return made

    def _commit(self, revision: str, operations: list[Any], what: str) -> bool:
        """Whether there was anything to commit: the library leaves out what has not changed."""
        before = self._head_of(revision)
        self.api.create_commit(
            **self.place,
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
        """Files there that the plan no longer has: all of a checkpoint's, our folders of `main`."""
        wanted = {item.name for item in revision.items}
        found = set(_names_in(self.api, self.repository, revision.name) or ()) - wanted
        if revision.name == "main":
            return sorted(
                name
                for name in found
                if name.startswith(OWN_FOLDERS) or name.endswith(".safetensors")
            )
        return sorted(found - {".gitattributes"})


def _batches(revision: Revision) -> Iterator[list[Item]]:
    """The files in commits: what is small and says whose this is first, then the weights."""
    small = [item for item in revision.items if isinstance(item.source, bytes)]
    small += [item for item in revision.items if item.name in ("README.md", "recipe.toml")]
    first = list({item.name: item for item in small}.values())
    yield first
    rest = [item for item in revision.items if item not in first]
    batch: list[Item] = []
    for item in rest:
        size = sum(i.size_bytes for i in batch) + item.size_bytes
        if batch and (len(batch) == MAX_FILES_PER_COMMIT or size > MAX_BYTES_PER_COMMIT):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """The Hub's errors as ours, in one line."""
    try:
        yield
    except (*_UNREACHABLE, HfHubHTTPError, OfflineModeIsEnabled, RuntimeError) as error:
        raise _explain(error, where) from error


def _explain(error: BaseException, where: str) -> Exception:
    if isinstance(error, OfflineModeIsEnabled):
        what = "the Hub is switched off here (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set)"
        return UserError("hub-offline", where, what, "unset HF_HUB_OFFLINE TRANSFORMERS_OFFLINE")
    if isinstance(error, HfHubHTTPError):
        return _explain_status(error, where)
    if isinstance(error, _UNREACHABLE):
        return Interrupted(f"the Hub cannot be reached ({type(error).__name__}: {error})")
    if error.__cause__ is not None:  # an upload's failure comes wrapped in a RuntimeError
        return _explain(error.__cause__, where)
    return error if isinstance(error, Exception) else RuntimeError(str(error))


def _explain_status(error: HfHubHTTPError, where: str) -> Exception:
    status = error.response.status_code
    said = (error.server_message or str(error)).strip().splitlines()
    words = f"the Hub answers {status}" + (f" ({said[0][:200]})" if said else "")
    if status == httpx.codes.UNAUTHORIZED:
        return UserError(
            "hub-token", where, f"{words}: it does not know this token", "hf auth login"
        )
    if status in (httpx.codes.FORBIDDEN, httpx.codes.NOT_FOUND):
        fix = "use a token that may write there, or another --to"
        return UserError("hub-permission", where, words, fix)
    if status == TOO_MANY_REQUESTS or status >= SERVER_ERROR:
        return Interrupted(f"{words} for {where}")
    return UserError("hub-refused", where, words, "mend what it names, and run the same command")
