"""A fake Hub on this machine: the few paths that `huggingface_hub` requests, over HTTP.

Repositories are dictionaries of branches of files. It rejects what the real one rejects: no token,
another user's name, a branch that does not exist, a file without its hash.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

TOKEN = "hf_" + "t" * 34


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class FakeHub:
    """What the fake holds, and how it shall behave."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], dict[str, dict[str, bytes]]] = {}
        self.heads: dict[tuple[str, str, str], int] = {}
        self.large: dict[str, bytes] = {}
        self.private: dict[tuple[str, str], bool] = {}
        self.uploads: list[str] = []
        self.commits: list[tuple[str, str, list[str]]] = []
        self.role = "write"
        self.user = "ana"
        self.fail_uploads_after: int | None = None
        self.answer: dict[str, tuple[int, str]] = {}
        self.url = ""

    def files(self, kind: str, repo: str, revision: str = "main") -> dict[str, bytes]:
        return self.repos[kind, repo][revision]

    def seed(self, kind: str, repo: str, **files: bytes) -> None:
        self.repos[kind, repo] = {"main": {".gitattributes": b"", **files}}

    def head(self, kind: str, repo: str, revision: str) -> str:
        number = self.heads.setdefault((kind, repo, revision), 0)
        return hashlib.sha1(f"{kind}{repo}{revision}{number}".encode()).hexdigest()


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    hub = FakeHub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _respond(self, status: int, value: Any = None, **headers: str) -> None:
        data = json.dumps(value if value is not None else {}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, message in headers.items():
            self.send_header(name.replace("_", "-"), message)
        self.end_headers()
        self.wfile.write(data)

    def _reject(self, status: int, code: str, message: str) -> None:
        self._respond(status, {"error": message}, X_Error_Code=code, X_Error_Message=message)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().strip() or b"0", 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self) -> None:
        self._route("GET", b"")

    def do_POST(self) -> None:
        self._route("POST", self._body())

    def do_PUT(self) -> None:
        data = self._body()
        hub, oid = self.hub, self.path.rpartition("/")[2]
        if hub.fail_uploads_after is not None and len(hub.uploads) >= hub.fail_uploads_after:
            self._reject(503, "", "down for a while")
            return
        assert hashlib.sha256(data).hexdigest() == oid, "other bytes than announced"
        hub.large[oid] = data
        hub.uploads.append(oid)
        self._respond(200)

    def _route(self, method: str, body: bytes) -> None:
        path = unquote(self.path.partition("?")[0])
        for pattern, (status, message) in self.hub.answer.items():
            if re.search(pattern, f"{method} {path}"):
                self._reject(status, "", message)
                return
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._reject(401, "", "Invalid credentials in Authorization header")
            return
        for pattern, name in (
            (r"GET /api/whoami-v2", "whoami"),
            (r"POST /api/repos/create", "create"),
            (r"POST /api/validate-yaml", "validate"),
            (r"POST /(datasets/)?([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", "batch"),
            (r"GET /api/(model|dataset)s/([\w.-]+/[\w.-]+)/refs", "refs"),
            (r"POST /api/(model|dataset)s/([\w.-]+/[\w.-]+)/branch/(.+)", "branch"),
            (r"POST /api/(model|dataset)s/([\w.-]+/[\w.-]+)/preupload/(.+)", "preupload"),
            (r"POST /api/(model|dataset)s/([\w.-]+/[\w.-]+)/commit/(.+)", "commit"),
            (r"GET /api/(model|dataset)s/([\w.-]+/[\w.-]+)(?:/revision/(.+))?", "info"),
        ):
            match = re.fullmatch(pattern, f"{method} {path}")
            if match:
                getattr(self, f"_{name}")(*match.groups(), body=body)
                return
        self._reject(404, "", f"no such address: {method} {path}")

    def _whoami(self, *, body: bytes) -> None:
        token = {"accessToken": {"role": self.hub.role}}
        self._respond(200, {"type": "user", "name": self.hub.user, "orgs": [], "auth": token})

    def _create(self, *, body: bytes) -> None:
        given = json.loads(body)
        kind, owner = given.get("type") or "model", given.get("organization") or self.hub.user
        repo = f"{owner}/{given['name']}"
        url = f"{self.hub.url}/{'datasets/' if kind == 'dataset' else ''}{repo}"
        if owner != self.hub.user:
            self._reject(403, "", f"You don't have the rights to create under {owner}")
        elif (kind, repo) in self.hub.repos:
            self._respond(409, {"error": "You already created this repo", "url": url})
        else:
            self.hub.seed(kind, repo)
            self.hub.private[kind, repo] = given.get("visibility") == "private"
            self._respond(200, {"url": url})

    def _validate(self, *, body: bytes) -> None:
        given = json.loads(body)
        text = given["content"]
        errors = [] if text.startswith("---\n") or "checkpoint" in text else [{"message": "no"}]
        self._respond(200 if not errors else 400, {"errors": errors, "warnings": []})

    def _found(self, kind: str, repo: str, revision: str) -> dict[str, bytes] | None:
        branches = self.hub.repos.get((kind, repo))
        if branches is None:
            self._reject(404, "RepoNotFound", "Repository not found")
        elif revision not in branches:
            self._reject(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return branches[revision]
        return None

    def _info(self, kind: str, repo: str, revision: str | None, *, body: bytes) -> None:
        files = self._found(kind, repo, revision or "main")
        if files is not None:
            sha = self.hub.head(kind, repo, revision or "main")
            siblings = [{"rfilename": name} for name in sorted(files)]
            self._respond(200, {"id": repo, "sha": sha, "siblings": siblings, "tags": []})

    def _refs(self, kind: str, repo: str, *, body: bytes) -> None:
        if self._found(kind, repo, "main") is not None:
            branches = [
                {"name": n, "ref": f"refs/heads/{n}", "targetCommit": self.hub.head(kind, repo, n)}
                for n in self.hub.repos[kind, repo]
            ]
            self._respond(200, {"branches": branches, "tags": [], "converts": []})

    def _branch(self, kind: str, repo: str, name: str, *, body: bytes) -> None:
        branches = self.hub.repos[kind, repo]
        if name in branches:
            self._reject(409, "", "Reference already exists")
            return
        branches[name] = dict(branches["main"])
        self._respond(200)

    def _preupload(self, kind: str, repo: str, revision: str, *, body: bytes) -> None:
        files = self._found(kind, repo, revision)
        if files is None:
            return
        rows = []
        for given in json.loads(body)["files"]:
            large = given["path"].endswith((".safetensors", ".gguf", ".zst", ".model"))
            held = files.get(given["path"])
            oid = None
            if held is not None:
                oid = hashlib.sha256(held).hexdigest() if large else git_oid(held)
            mode = "lfs" if large else "regular"
            row = {"path": given["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid}
            rows.append(row)
        self._respond(200, {"files": rows})

    def _batch(self, kind: str | None, repo: str, *, body: bytes) -> None:
        rows = []
        for given in json.loads(body)["objects"]:
            row = {"oid": given["oid"], "size": given["size"]}
            if given["oid"] not in self.hub.large:
                row["actions"] = {"upload": {"href": f"{self.hub.url}/put/{given['oid']}"}}
            rows.append(row)
        self._respond(200, {"transfer": "basic", "objects": rows})

    def _commit(self, kind: str, repo: str, revision: str, *, body: bytes) -> None:
        files = self._found(kind, repo, revision)
        if files is None:
            return
        named = []
        for line in body.decode().splitlines():
            row = json.loads(line)
            value = row["value"]
            if row["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif row["key"] == "deletedFile":
                del files[value["path"]]
            else:
                continue
            named.append(value["path"])
        key = (kind, repo, revision)
        self.hub.heads[key] = self.hub.heads.get(key, 0) + 1
        self.hub.commits.append((repo, revision, named))
        sha = self.hub.head(*key)
        self._respond(
            200, {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{repo}"}
        )
