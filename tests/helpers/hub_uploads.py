"""A hub on this machine that takes commits: the routes that huggingface_hub calls to upload.

Large files go to another origin, as they do on the real hub, which must never see a token.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from helpers.hub_server import blob, running

TOKEN = "hf_TokenThatMayWrite"
READER = "hf_TokenThatMayOnlyRead"
# Some of the licences that the hub knows.
LICENCES = ("apache-2.0", "llama2", "mit", "other")
_FRONT_MATTER = re.compile(r"---\n(.*?)\n---\n", re.DOTALL)


@dataclass(frozen=True)
class Commit:
    """What a branch holds after a commit."""

    oid: str
    message: str
    files: dict[str, bytes]


@dataclass(frozen=True)
class Request:
    """A request that arrived: at which origin, and with which token."""

    origin: str
    method: str
    path: str
    authorization: str | None


@dataclass
class Repository:
    """A repository of models."""

    visibility: str | None
    branches: dict[str, list[Commit]] = field(default_factory=dict)

    def commit(self, branch: str, message: str, files: dict[str, bytes]) -> Commit:
        """Add a commit on top of a branch."""
        commits = self.branches.setdefault(branch, [])
        everything = {**(commits[-1].files if commits else {}), **files}
        oid = hashlib.sha1(f"{branch} {len(commits)} {message}".encode()).hexdigest()
        commits.append(Commit(oid, message, everything))
        return commits[-1]

    def find(self, revision: str) -> Commit | None:
        """Return a commit by its branch or its hash."""
        if revision in self.branches:
            return self.branches[revision][-1]
        commits = [each for commits in self.branches.values() for each in commits]
        return next((each for each in commits if each.oid == revision), None)


@dataclass
class Hub:
    """The hub: its repositories, what was asked of it, and what to do before it answers.

    Attributes:
        hub: Its address.
        store: The other origin's address.
        token: The token of the environment.
        before: Called with each request's method and path; an answer that it returns is given.
    """

    hub: str = ""
    store: str = ""
    token: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    before: Callable[[str, str], tuple[int, dict[str, str]] | None] = lambda method, path: None

    def create(self, repo_id: str, files: dict[str, bytes] | None = None) -> Repository:
        """Make a repository, with the file that each new one has, and others."""
        self.repositories[repo_id] = Repository("public")
        first = {".gitattributes": b"*.safetensors filter=lfs\n", **(files or {})}
        self.repositories[repo_id].commit("main", "initial commit", first)
        return self.repositories[repo_id]

    def head(self, repo_id: str, branch: str = "main") -> Commit:
        """Return the last commit of a branch."""
        return self.repositories[repo_id].branches[branch][-1]

    def writes(self) -> list[Request]:
        """Return the requests that upload or commit."""
        return [
            each
            for each in self.requests
            if each.method == "PUT" or re.search("/lfs/|/preupload/|/commit/", each.path)
        ]


def is_lfs(name: str) -> bool:
    return name.endswith(".safetensors")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, hub: Hub, origin: str, *args: Any) -> None:
        self.hub = hub
        self.origin = origin
        super().__init__(*args)

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _run(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        authorization = self.headers.get("Authorization")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(self._chunks())
        self.hub.requests.append(Request(self.origin, self.command, path, authorization))
        early = self.hub.before(self.command, path)
        if early is not None:
            self._answer(early[0], {"error": "as told"}, early[1])
            return
        routes = _STORE if self.origin == "store" else _ROUTES
        for method, pattern, route in routes:
            match = re.fullmatch(pattern, path)
            if match and self.command in method.split():
                route(self, body, *match.groups())
                return
        self._answer(500, {"error": f"no route: {self.command} {self.path}"})

    do_GET = do_HEAD = do_POST = do_PUT = _run

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _answer(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for key, text in (headers or {}).items():
            self.send_header(key, text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _may(self, repo_id: str, *, write: bool = True) -> bool:
        """Answer 401 or 403 unless the token may do it."""
        known = {f"Bearer {TOKEN}": True, f"Bearer {READER}": False}
        token = self.headers.get("Authorization")
        if token not in known:
            told = {"X-Error-Message": "Invalid credentials in Authorization header"}
            self._answer(401, {"error": told["X-Error-Message"]}, told)
        elif write and not (known[token] and repo_id.startswith("org/")):
            text = "You don't have the rights to create a model under this namespace"
            self._answer(403, {"error": text}, {"X-Error-Message": text})
        else:
            return True
        return False

    def _find(self, repo_id: str, revision: str) -> Commit | None:
        repository = self.hub.repositories.get(repo_id)
        commit = repository and repository.find(revision)
        if commit is None:
            code = "RevisionNotFound" if repository else "RepoNotFound"
            self._answer(404, {"error": code}, {"X-Error-Code": code})
        return commit

    # ------------------------------------------------------------------ the hub

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        repo_id = f"{asked['organization']}/{asked['name']}"
        url = f"{self.hub.hub}/{repo_id}"
        if not self._may(repo_id):
            return
        if repo_id in self.hub.repositories:
            error = "You already created this model repo"
            self._answer(409, {"error": error, "url": url}, {"X-Error-Message": error})
            return
        self.hub.create(repo_id).visibility = asked.get("visibility")
        self._answer(200, {"url": url, "name": repo_id, "id": "0"})

    def info(self, _: bytes, repo_id: str, revision: str | None) -> None:
        if self._may(repo_id, write=False) and (commit := self._find(repo_id, revision or "main")):
            siblings = [{"rfilename": name} for name in commit.files]
            self._answer(200, {"id": repo_id, "sha": commit.oid, "siblings": siblings})

    def tree(self, _: bytes, repo_id: str, revision: str) -> None:
        if not self._may(repo_id, write=False) or not (commit := self._find(repo_id, revision)):
            return
        entries: list[dict[str, Any]] = [
            {"type": "directory", "path": folder, "oid": "0", "size": 0}
            for folder in sorted({name.split("/")[0] for name in commit.files if "/" in name})
        ]
        for name, data in commit.files.items():
            if "/" not in name:
                entries.append({"type": "file", "path": name, "size": len(data), "oid": "0"})
        self._answer(200, entries)

    def validate(self, body: bytes) -> None:
        front = _FRONT_MATTER.match(json.loads(body)["content"])
        facts = yaml.safe_load(front[1]) if front else {}
        errors = []
        if facts.get("license", "mit") not in LICENCES:
            errors.append({"message": '"license" must be one of [apache-2.0, ...]'})
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", facts.get("base_model", "org/name")):
            errors.append({"message": '"base_model" is not a valid model ID'})
        warnings = [] if facts else [{"message": "empty or missing yaml metadata in repo card"}]
        self._answer(400 if errors else 200, {"errors": errors, "warnings": warnings})

    def preupload(self, body: bytes, repo_id: str, revision: str) -> None:
        if not self._may(repo_id) or not (commit := self._find(repo_id, revision)):
            return
        files = []
        for each in json.loads(body)["files"]:
            there = commit.files.get(each["path"])
            row = {"path": each["path"], "shouldIgnore": False}
            row["uploadMode"] = "lfs" if is_lfs(each["path"]) else "regular"
            if there is not None:
                sha256 = hashlib.sha256(there).hexdigest()
                row["oid"] = sha256 if is_lfs(each["path"]) else blob(there)
            files.append(row)
        self._answer(200, {"files": files})

    def batch(self, body: bytes, repo_id: str) -> None:
        if not self._may(repo_id):
            return
        objects = []
        for each in json.loads(body)["objects"]:
            row: dict[str, Any] = {"oid": each["oid"], "size": each["size"]}
            if each["oid"] not in self.hub.objects:
                verify = f"{self.hub.hub}/{repo_id}.git/info/lfs/objects/verify"
                row["actions"] = {
                    "upload": {"href": f"{self.hub.store}/objects/{each['oid']}"},
                    "verify": {"href": verify},
                }
            objects.append(row)
        self._answer(200, {"transfer": "basic", "objects": objects})

    def verify(self, body: bytes, repo_id: str) -> None:
        asked = json.loads(body)
        data = self.hub.objects.get(asked["oid"])
        whole = data is not None and len(data) == asked["size"]
        if self._may(repo_id):
            self._answer(200 if whole else 422, {})

    def commit(self, body: bytes, repo_id: str, revision: str) -> None:
        if not self._may(repo_id) or not (head := self._find(repo_id, revision)):
            return
        header, *rows = map(json.loads, body.splitlines())
        if header["value"].get("parentCommit", head.oid) != head.oid:
            self._answer(
                412, {"error": "A commit has happened since. Please refresh and try again"}
            )
            return
        files = {}
        for row in rows:
            value = row["value"]
            if row["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            else:
                assert row["key"] == "file"
                assert not is_lfs(value["path"])
                files[value["path"]] = base64.b64decode(value["content"])
        made = self.hub.repositories[repo_id].commit(revision, header["value"]["summary"], files)
        url = f"{self.hub.hub}/{repo_id}/commit/{made.oid}"
        self._answer(200, {"success": True, "commitOid": made.oid, "commitUrl": url})

    def resolve(self, _: bytes, repo_id: str, revision: str, name: str) -> None:
        if not self._may(repo_id, write=False) or not (commit := self._find(repo_id, revision)):
            return
        data = commit.files.get(name)
        if data is None:
            self._answer(404, {"error": "no entry"}, {"X-Error-Code": "EntryNotFound"})
            return
        oid = hashlib.sha256(data).hexdigest()
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{oid}"'}
        if is_lfs(name):
            self.hub.objects[oid] = data
            headers |= {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{oid}"'}
            self._answer(302, b"", {**headers, "Location": f"{self.hub.store}/objects/{oid}"})
        else:
            self._part(data, headers)

    # ------------------------------------------------------------------ the other origin

    def put(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() == oid:
            self.hub.objects[oid] = body
        self._answer(200 if oid in self.hub.objects else 400, b"")

    def get(self, _: bytes, oid: str) -> None:
        self._part(self.hub.objects[oid], {})

    def _part(self, data: bytes, headers: dict[str, str]) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        if asked is None:
            self._answer(200, data, headers)
            return
        first, last = int(asked[1]), min(int(asked[2]), len(data) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self._answer(206, data[first : last + 1], headers)


_REPO = r"([\w.-]+/[\w.-]+)"
_ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", r"/api/validate-yaml", _Handler.validate),
    ("GET", rf"/api/models/{_REPO}(?:/revision/(.+))?", _Handler.info),
    ("GET", rf"/api/models/{_REPO}/tree/([^/]+)", _Handler.tree),
    ("POST", rf"/api/models/{_REPO}/preupload/(.+)", _Handler.preupload),
    ("POST", rf"/api/models/{_REPO}/commit/(.+)", _Handler.commit),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", _Handler.batch),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/verify", _Handler.verify),
    ("GET HEAD", rf"/{_REPO}/resolve/([^/]+)/(.+)", _Handler.resolve),
]
_STORE: list[tuple[str, str, Callable[..., None]]] = [
    ("PUT", r"/objects/([0-9a-f]{64})", _Handler.put),
    ("GET", r"/objects/([0-9a-f]{64})", _Handler.get),
]


@contextmanager
def serve() -> Iterator[Hub]:
    """Run a hub, and the origin of its large files, on free ports of this machine."""
    hub = Hub()
    with running(lambda origin: partial(_Handler, hub, origin)) as found:
        hub.hub, hub.store = found
        yield hub
