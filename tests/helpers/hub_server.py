"""A hub on this machine: the routes that huggingface_hub calls, and a store on another port.

Small files come from the hub, after a redirect to another of its routes. Files of weights are sent
by the store, under a signed address, as huggingface.co does it.
"""

import hashlib
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Protocol
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
from huggingface_hub import constants

REPO = "org/model"
COMMIT = "1" * 40
LATER = "2" * 40
LARGE = (".safetensors", ".bin")  # files of these suffixes are in the store
_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_API = re.compile(r"/api/models/([^/]+/[^/]+?)(?:/revision/(.+))?")
_TREE = re.compile(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)")
_SMALL = re.compile(r"/api/resolve-cache/models/([^/]+/[^/]+)/([^/]+)/(.+)")


@dataclass
class Request:
    """A request that came, and how many bytes of a file were sent for it."""

    server: str
    method: str
    path: str
    headers: dict[str, str]
    status: int = 0
    sent: int = 0


@dataclass
class Hub:
    """What the two servers hold, what went wrong on purpose, and what they were asked for.

    Attributes:
        files: By commit: the contents by path.
        branches: The commits by name.
        token: The token without which a model is not there.
        gated: Whether files are refused to everybody, though the model is there.
        ranges: Whether the store knows ranges.
        cuts: After how many bytes the store drops the connection, for each of its next answers.
        etags: What the store calls its next answers; then what they are.
        answers: Statuses and headers of the next answers of a route, instead of what is right.
        bodies: What these are, as they are sent.
        expires: How many answers the store gives to one signed address.
        promised: The length that the hub says of files of weights, if it is not the right one.
        ranged: How the store's Content-Range reads: of first, last and all.
        after_api: Called when the hub has said which commit a revision is.
        licence: What the hub says of the model's licence.
        away: Where the hub says the store is, if it is elsewhere.
        requests: All that came.
    """

    files: dict[str, dict[str, bytes]] = field(default_factory=lambda: {COMMIT: {}})
    branches: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})
    token: str = ""
    gated: bool = False
    ranges: bool = True
    cuts: list[int | None] = field(default_factory=list)
    etags: list[str] = field(default_factory=list)
    answers: dict[str, list[tuple[int, dict[str, str]]]] = field(default_factory=dict)
    bodies: list[bytes] = field(default_factory=list)
    expires: int = 1_000_000
    promised: int | None = None
    ranged: str = "bytes {}-{}/{}"
    licence: object = ""
    away: str = ""
    requests: list[Request] = field(default_factory=list)
    hub: str = ""
    store: str = ""
    signed: dict[str, int] = field(default_factory=dict)
    after_api: Callable[[], object] = lambda: None

    def asked(self, server: str, name: str = "") -> list[Request]:
        """Return the requests for a file's bytes, or for anything of a server."""
        return [r for r in self.requests if r.server == server and name in r.path]

    def sent(self, name: str = "") -> int:
        """Return how many bytes were sent, of all files or of those with this in their path."""
        return sum(r.sent for r in self.requests if name in r.path)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: ClassVar[Hub]
    name: ClassVar[str]

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._handle()

    def do_GET(self) -> None:
        self._handle()

    def _handle(self) -> None:
        headers = {key.lower(): value for key, value in self.headers.items()}
        path = unquote(urlsplit(self.path).path)
        self.request_ = Request(self.name, self.command, path, headers)
        self.hub.requests.append(self.request_)
        # Of the hub's other routes its client asks some by itself, once a day.
        route = "api" if path.startswith("/api/models/") else ""
        route = "resolve" if "/resolve/" in path else "store" if self.name == "store" else route
        planned = self.hub.answers.get(route, [])
        if planned:
            self._answer(*planned.pop(0), self.hub.bodies.pop(0) if self.hub.bodies else b"")
        elif self.name == "store":
            self._store(path)
        elif found := _TREE.fullmatch(path):
            self._tree(found[1], unquote(found[2]))
        elif found := _API.fullmatch(path):
            self._api(found[1], unquote(found[2] or "main"))
        elif found := _RESOLVE.fullmatch(path):
            self._resolve(found[1], unquote(found[2]), found[3])
        elif found := _SMALL.fullmatch(path):
            self._small(found[2], found[3])
        else:
            self._answer(404, {})

    def _answer(
        self, status: int, headers: dict[str, str], body: bytes = b"", cut: int | None = None
    ) -> None:
        self.request_.status = status
        self.send_response(status)
        if "Transfer-Encoding" not in headers:
            headers = {"Content-Length": str(len(body)), **headers}
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if not headers.get("Content-Type"):
            self.request_.sent = len(body[:cut])
        self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True

    def _refused(self, repo: str, revision: str) -> bool:
        """Answer as the hub does where a model or a revision is not there."""
        hub = self.hub
        if repo != REPO or (hub.token and not self._has_token()):
            self._answer(401, {"X-Error-Code": "RepoNotFound"})
        elif hub.branches.get(revision, revision) not in hub.files:
            self._answer(404, {"X-Error-Code": "RevisionNotFound"})
        else:
            return False
        return True

    def _has_token(self) -> bool:
        return self.request_.headers.get("authorization") == f"Bearer {self.hub.token}"

    def _api(self, repo: str, revision: str) -> None:
        if self._refused(repo, revision):
            return
        commit = self.hub.branches.get(revision, revision)
        siblings = [{"rfilename": path} for path in self.hub.files[commit]]
        info = {"id": REPO, "sha": commit, "siblings": siblings, "tags": [], "private": False}
        if self.hub.licence:
            info["cardData"] = {"license": self.hub.licence}
        self._answer(200, {"Content-Type": "application/json"}, json.dumps(info).encode())
        self.hub.after_api()

    def _tree(self, repo: str, revision: str) -> None:
        if self._refused(repo, revision):
            return
        entries = []
        for path, body in self.hub.files[self.hub.branches.get(revision, revision)].items():
            entry = {"type": "file", "path": path, "size": len(body), "oid": blob(body)}
            if path.endswith(LARGE):
                entry["lfs"] = {
                    "oid": hashlib.sha256(body).hexdigest(),
                    "size": len(body),
                    "pointerSize": 134,
                }
            entries.append(entry)
        self._answer(200, {"Content-Type": "application/json"}, json.dumps(entries).encode())

    def _resolve(self, repo: str, revision: str, path: str) -> None:
        if self._refused(repo, revision):
            return
        hub, commit = self.hub, self.hub.branches.get(revision, revision)
        said = {"X-Repo-Commit": commit}
        if hub.gated:
            self._answer(403, {"X-Error-Code": "GatedRepo", **said})
        elif path not in hub.files[commit]:
            self._answer(404, {"X-Error-Code": "EntryNotFound", **said})
        elif path.endswith(LARGE):
            body = hub.files[commit][path]
            key = f"{len(hub.signed)}"
            hub.signed[key] = hub.expires
            sha = hashlib.sha256(body).hexdigest()
            said |= {"X-Linked-Etag": f'"{sha}"', "ETag": f'"{sha}"'}
            said["X-Linked-Size"] = str(len(body) if hub.promised is None else hub.promised)
            said["Location"] = f"{hub.away or hub.store}/{commit}/{path}?Signature={key}"
            self._answer(302, said)
        else:
            self._answer(307, {"Location": f"/api/resolve-cache/models/{repo}/{commit}/{path}"})

    def _small(self, commit: str, path: str) -> None:
        body = self.hub.files[commit][path]
        said = {"X-Repo-Commit": commit, "ETag": f'"{blob(body)}"'}
        said["Content-Length"] = str(len(body))
        self._answer(200, said, body)

    def _store(self, path: str) -> None:
        hub, [_, commit, name] = self.hub, path.split("/", 2)
        signature = urlsplit(self.path).query.removeprefix("Signature=")
        if hub.signed.get(signature, 0) <= 0:
            self._answer(403, {})
            return
        hub.signed[signature] -= 1
        body = hub.files[commit][name]
        etag = hub.etags.pop(0) if hub.etags else hashlib.md5(body).hexdigest()
        said = {"ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.request_.headers.get("range", ""))
        if asked is None and hub.ranges:
            self._answer(200, said, body)
            return
        if asked is None or not hub.ranges:
            self._answer(200, {**said, "Content-Length": str(len(body))})
            # Not a byte of it before whoever asked has gone, or has waited in vain.
            self.connection.settimeout(30)
            self.close_connection = True
            assert self.rfile.read(1) == b""
            return
        first, last = int(asked[1]), min(int(asked[2]), len(body) - 1)
        if first > last:
            self._answer(416, {"Content-Range": f"bytes */{len(body)}"})
            return
        said["Content-Range"] = hub.ranged.format(first, last, len(body))
        self._answer(206, said, body[first : last + 1], hub.cuts.pop(0) if hub.cuts else None)


def blob(body: bytes) -> str:
    """Return what git calls a file of these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


class Server(ThreadingHTTPServer):
    """A server that waits for none of its threads: a test may leave a connection open."""

    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # whoever asked has gone
            super().handle_error(request, client_address)


@contextmanager
def serve() -> Iterator[Hub]:
    """Run both servers on ports of their own."""
    hub = Hub()
    with running(lambda name: type("Handler", (Handler,), {"hub": hub, "name": name})) as found:
        hub.hub, hub.store = found
        yield hub


@contextmanager
def running(handler: Callable[[str], Callable[..., BaseHTTPRequestHandler]]) -> Iterator[list[str]]:
    """Run a hub and a store, of which each has a handler of requests; yield their addresses."""
    servers, addresses = [], []
    for name in ("hub", "store"):
        server = Server(("127.0.0.1", 0), handler(name))
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        # Another host too: huggingface_hub 1 takes ports of one host for one server.
        host = "127.0.0.1" if name == "hub" else "localhost"
        addresses.append(f"http://{host}:{server.server_address[1]}")
        servers.append(server)
    try:
        yield addresses
    finally:
        huggingface_hub.close_session()
        for server in servers:
            server.shutdown()
            server.server_close()


class Address(Protocol):
    """What is needed of a hub to use it."""

    hub: str
    token: str


def use(hub: Address, cache: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let huggingface_hub in this process, and our own cache, be of this hub alone.

    It reads the environment when it is imported; a process of its own needs `environment` only.
    """
    for name, value in environment(hub, cache).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(constants, "ENDPOINT", hub.hub)
    template = hub.hub + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))


def environment(hub: Address, cache: Any) -> dict[str, str]:
    """Return the environment of a process that uses this hub alone."""
    return {
        "HF_ENDPOINT": hub.hub,
        "HF_HOME": str(cache),
        "HF_HUB_CACHE": str(cache / "hub"),
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": hub.token,
        "MOBILEVLM_CACHE": str(cache / "ours"),
    }
