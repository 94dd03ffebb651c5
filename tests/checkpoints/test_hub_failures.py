"""What a hub, a store and those between may do wrong, and what is said of it."""

import json
import logging
import re
import socket
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
from helpers.checkpoints import same
from helpers.hub_models import ROOT, in_order, projector_tensors
from helpers.hub_server import COMMIT, LATER, Hub
from huggingface_hub import constants, hf_hub_download

from mobilevlm import inspect_checkpoint, load_projector
from mobilevlm.checkpoints.errors import CheckpointError
from mobilevlm.checkpoints.formats import http
from mobilevlm.checkpoints.formats.ranges import HEAD, Link

pytestmark = pytest.mark.thread_unsafe

URI = "hf://org/model"
PINNED = f"{URI}@{COMMIT}"
FIRST, SECOND, THIRD = (f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3))
TRY = "Try again; if it stays so, tell those who run the server."


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited, without the waiting."""
    found: list[float] = []
    monkeypatch.setattr(http.time, "sleep", found.append)
    return found


def refusal(uri: str = URI, call: Callable[[str], object] = load_projector) -> str:
    with pytest.raises(CheckpointError) as caught:
        call(uri)
    assert caught.value.__cause__ is None  # in which a signed address could be
    return str(caught.value)


def ranges(hub: Hub, name: str) -> list[str]:
    return [each.headers["range"].removeprefix("bytes=") for each in hub.asked("store", name)]


# ---------------------------------------------------------------------- bytes


def test_a_store_without_ranges(hub: Hub, small: Path) -> None:
    """It says so, reads nothing of the file, and what it advises works."""
    hub.ranges = False
    size = len(hub.files[COMMIT][FIRST])
    assert refusal() == (
        f"{PINNED}/{FIRST}: the server sends no ranges, but all of its {size:,} bytes; expected "
        "HTTP 206, a part. Fetch it whole; it is then read from the hub's cache: "
        f"hf download org/model --revision {COMMIT}"
    )
    assert hub.sent(FIRST) == 0
    hub.ranges = True
    huggingface_hub.snapshot_download("org/model", revision=COMMIT)  # what the command calls
    hub.ranges = False
    assert same(load_projector(URI), load_projector(small))


def test_a_cut_connection_goes_on_where_it_was(hub: Hub, small: Path, waits: list[float]) -> None:
    tensors = projector_tensors(16, 32)
    hub.cuts = [None, None, 1000, 7, None, None]  # after the two headers
    seen: list[int] = []
    assert same(
        load_projector(URI, progress=lambda done, _: seen.append(done)), load_projector(small)
    )
    [_, first, second, third] = ranges(hub, FIRST)
    start, end = map(int, first.split("-"))
    numbers = sum(tensor.numel() for key, tensor in tensors.items() if "linear_1" in key)
    assert end - start + 1 == 4 * numbers
    assert second == f"{start + 1000}-{end}"
    assert third == f"{start + 1007}-{end}"
    assert sum(each.sent for each in hub.asked("store", FIRST)) == HEAD + end - start + 1
    assert seen == sorted(seen)
    assert waits == [0.5, 1.0]


def test_it_gives_up(hub: Hub, small: Path, waits: list[float]) -> None:
    hub.cuts = [0] * 20
    message = refusal()
    assert message.startswith(f"{PINNED}/{FIRST}: the connection failed: ")
    assert message.endswith(
        ". Look at the network and at HF_ENDPOINT; HF_HUB_OFFLINE=1 reads what is kept."
    )
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0]
    assert len(hub.asked("store")) == 6


def test_nothing_else_is_tried_in_vain(hub: Hub, small: Path, waits: list[float]) -> None:
    """Where no config says which family it is, every one could be asked for the same bytes."""
    keys = [
        f"{root}{n}.{what}"
        for root in ("a.mm_projector.", "b.mm_projector.")
        for n in (0, 2)
        for what in ("weight", "bias")
    ]
    index = {"weight_map": dict.fromkeys(keys, FIRST)}
    for config in ({}, {"model_type": "unheard-of"}):
        hub.files[COMMIT]["config.json"] = json.dumps(config).encode()
        hub.files[COMMIT]["model.safetensors.index.json"] = json.dumps(index).encode()
        hub.requests.clear()
        waits.clear()
        hub.cuts = [0] * 100
        assert ": the connection failed: " in refusal()
        assert len(hub.asked("store")) == 1 + len(waits) == 6


def test_an_etag_that_changes(hub: Hub, small: Path) -> None:
    hub.etags = ["a", "b", "c"]
    assert refusal() == f"{PINNED}/{FIRST}: the file changed while it was read. Try again."
    assert len(hub.asked("store", FIRST)) == 2


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("bytes {0}-{1}/123", "'bytes 0-65535/123', asked for 0-65535 of SIZE"),
        ("bytes 1-{1}/{2}", "'bytes 1-65535/SIZE', asked for 0-65535 of SIZE"),
        ("bytes {0}-9/{2}", "'bytes 0-9/SIZE', asked for 0-65535 of SIZE"),
        ("bytes {0}-{1}/*", "'bytes 0-65535/*', asked for 0-65535 of SIZE"),
        ("lines 1-2", "'lines 1-2', asked for 0-65535 of SIZE"),
    ],
)
def test_a_lying_range(hub: Hub, small: Path, said: str, found: str) -> None:
    hub.ranged = said
    found = found.replace("SIZE", str(len(hub.files[COMMIT][FIRST])))
    assert refusal() == f"{PINNED}/{FIRST}: the server contradicts itself: {found}. {TRY}"


def test_a_lying_length(hub: Hub, small: Path) -> None:
    """The hub says of a file another length than the store."""
    hub.promised = 10_000_000
    size = len(hub.files[COMMIT][FIRST])
    assert refusal() == (
        f"{PINNED}/{FIRST}: the server contradicts itself: 'bytes 0-65535/{size}', asked for "
        f"0-65535 of 10000000. {TRY}"
    )
    hub.promised = 1000  # shorter: the header tells
    hub.ranged = "bytes {0}-{1}/1000"
    assert refusal().startswith(f"{PINNED}/{FIRST}: the file is 1,000 bytes, its header promises")
    # As long as a file may be, and no more is asked for than its beginning.
    hub.promised = 10**15
    hub.ranged = f"bytes {{0}}-{{1}}/{10**15}"
    assert "its header promises" in refusal()


def test_other_lengths_than_the_range(hub: Hub, small: Path) -> None:
    """Content-Length is another than the range's, or more comes than was asked for."""
    hub.answers["store"] = [(206, {"Content-Length": "7", "Content-Range": whole_head(hub)})]
    assert refusal() == (
        f"{PINNED}/{FIRST}: the server contradicts itself: '7' bytes of {HEAD:,}. {TRY}"
    )
    for body in (b"x" * (HEAD + 1), b"x" * (HEAD - 1)):
        chunked = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
        headers = {"Transfer-Encoding": "chunked", "Content-Range": whole_head(hub)}
        hub.bodies = [chunked]
        hub.answers["store"] = [(206, headers)]
        found = (
            f"more bytes than {HEAD:,}" if len(body) > HEAD else f"{len(body):,} bytes of {HEAD:,}"
        )
        assert refusal() == f"{PINNED}/{FIRST}: the server contradicts itself: {found}. {TRY}"


def whole_head(hub: Hub) -> str:
    return f"bytes 0-{HEAD - 1}/{len(hub.files[COMMIT][FIRST])}"


def test_compressed_bytes(hub: Hub, small: Path) -> None:
    said = {"Content-Encoding": "gzip", "Content-Range": whole_head(hub)}
    hub.answers["store"] = [(206, {**said, "Content-Length": str(HEAD)})]
    assert "compressed bytes, which were not asked for" in refusal()
    assert {each.headers["accept-encoding"] for each in hub.asked("store")} == {""}


def test_damaged_headers_are_refused_in_the_same_words(hub: Hub, tmp_path: Path) -> None:
    good = in_order(projector_tensors(16, 32))
    length = int.from_bytes(good[:8], "little")
    header = json.loads(good[8 : 8 + length])
    overlap = {key: dict(entry) for key, entry in header.items()}
    overlap[f"{ROOT}linear_1.weight"]["data_offsets"] = [0, 2048]
    files = {
        "too long": (200_000_000).to_bytes(8, "little") + b"{" + good[9:],
        "cut off": good[:-5],
        "overlap": with_header(overlap, good[8 + length :]),
        "huge": with_header(
            {"a": {"dtype": "F32", "shape": [1 << 50], "data_offsets": [0, 1 << 52]}}
        ),
        "twice": with_header(header, good[8 + length :]).replace(
            b"linear_2.bias", b"linear_1.bias"
        ),
        "web page": b"<!doctype html><p>not found",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
        "pickle": b"PK\x03\x04" + bytes(600),
        "empty": b"",
    }
    for name, data in files.items():
        (tmp_path / "model.safetensors").write_bytes(data)
        hub.files[COMMIT] = {"model.safetensors": data}
        with pytest.raises(CheckpointError) as caught:
            inspect_checkpoint(tmp_path)
        local = str(caught.value).replace(f"{tmp_path}/", f"{PINNED}/")
        assert refusal(call=inspect_checkpoint) == local, name
    assert hub.sent() < 1_000_000


def with_header(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_damaged_json(hub: Hub, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = hub.files[COMMIT]
    good = dict(files)
    files["config.json"] = b"{"
    assert refusal().startswith(f"{PINNED}/config.json: not JSON: ")
    files["config.json"] = b" " * 16_000_001
    message = refusal()
    assert re.fullmatch(
        f"{PINNED}/config.json: 16,000,001 bytes; expected at most [0-9,]+", message
    )
    assert hub.sent("config.json") < 10
    files.update(good)
    index = json.loads(good["model.safetensors.index.json"])
    for name, found in (
        ("../x.safetensors", "shard '../x.safetensors' is not a plain file name"),
        ("evil.bin", "its weights are in 'evil.bin', a pickle"),
        ("evil.txt", "'evil.txt' is no file of safetensors"),
        ("gone.safetensors", "'gone.safetensors' is not at this commit"),
    ):
        changed = dict.fromkeys(index["weight_map"], name)
        files["model.safetensors.index.json"] = json.dumps({"weight_map": changed}).encode()
        files["evil.bin"] = b"x"
        assert found in refusal()
    assert not hub.asked("hub", "evil")
    assert not hub.asked("store")


# ---------------------------------------------------------------------- what the hub says


def test_pickles_are_never_fetched(hub: Hub) -> None:
    hub.files[COMMIT] = {"pytorch_model.bin": b"x", "config.json": b"{}", "a/x.pt": b"x"}
    expected = (
        "{}: its weights are in '{}', a pickle, which can run code: it is not fetched; expected "
        f"safetensors. If you trust it: hf download org/model --revision {COMMIT} --local-dir "
        "model, then convert_checkpoint('{}', 'projector', from_pickle=True)"
    )
    assert refusal() == expected.format(PINNED, "pytorch_model.bin", "model")
    path = f"{PINNED}/pytorch_model.bin"
    assert refusal(f"{URI}/pytorch_model.bin") == expected.format(
        path, "pytorch_model.bin", "model/pytorch_model.bin"
    )
    assert refusal(f"{URI}/a") == expected.format(f"{PINNED}/a", "x.pt", "model/a")
    assert not hub.asked("hub", "resolve")
    hf_hub_download("org/model", "pytorch_model.bin")  # one in the hub's cache is not read either
    assert refusal() == expected.format(PINNED, "pytorch_model.bin", "model")


def test_no_weights_or_too_many(hub: Hub) -> None:
    hub.files[COMMIT] = {"config.json": b"{}", "sub/model.safetensors": b""}
    assert refusal() == (
        f"{PINNED}: no weights in this folder; expected model.safetensors or "
        "model.safetensors.index.json. Name the folder that holds them, as "
        "hf://ORG/MODEL@REVISION/FOLDER."
    )
    hub.files[COMMIT] = {"a.safetensors": b"", "b.safetensors": b""}
    assert refusal() == (
        f"{PINNED}: 2 safetensors files and no model.safetensors.index.json. Name one of them, as "
        f"{PINNED}/a.safetensors"
    )


def test_what_is_not_there(hub: Hub, small: Path) -> None:
    assert refusal("hf://org/nope") == (
        "hf://org/nope: no such model on the hub, or a private one (HTTP 401). Look at its name; "
        "for a private one, log in: hf auth login"
    )
    assert refusal(f"{URI}@nope") == (
        "hf://org/model@nope: the model has no such revision (HTTP 404). Name a branch, a tag or a "
        "whole commit; or leave out @REVISION, for main."
    )
    assert refusal(f"{URI}/nope") == (
        f"hf://org/model/nope: no file or folder 'nope' at commit {COMMIT}; expected one of "
        f"'config.json', '{FIRST}', '{SECOND}', '{THIRD}', 'model.safetensors.index.json'"
    )
    hub.answers["resolve"] = [(404, {"X-Error-Code": "EntryNotFound"})]
    assert refusal() == (
        f"{PINNED}/model.safetensors.index.json: no such file (HTTP 404). Look at its name and at "
        "the revision."
    )


def test_uris_that_are_none(hub: Hub) -> None:
    form = "hf://ORG/MODEL, hf://ORG/MODEL@REVISION or hf://ORG/MODEL@REVISION/FOLDER"
    for uri in ("hf://", "hf://model", "hf://org/model@", "hf://a/b//c", "hf://org/mo del"):
        message = refusal(uri)
        assert message.startswith(f"{uri}: not a URI: ")
        assert message.endswith(f"; expected {form}")
    for uri in ("hf://datasets/org/data", "hf://buckets/org/data", "hf://org/model/../x"):
        assert refusal(uri) == f"{uri}: not a model's folder or file; expected {form}"
    assert hub.requests == []


def test_access(hub: Hub, small: Path) -> None:
    hub.gated = True
    assert refusal() == (
        f"{PINNED}/model.safetensors.index.json: a gated model, to which you have no access (HTTP "
        f"403). Ask for access at {hub.hub}/org/model, then log in: hf auth login"
    )
    hub.gated = False
    hub.answers["api"] = [(401, {"X-Error-Message": "Invalid credentials in Authorization header"})]
    assert refusal() == (
        "hf://org/model: the hub does not accept the token (HTTP 401). Log in again: hf auth login"
    )
    hub.answers["api"] = [(403, {})]
    assert refusal() == (
        "hf://org/model: access is forbidden (HTTP 403). Look at what your token may do: "
        "hf auth whoami"
    )


def test_a_hub_that_asks_to_wait(hub: Hub, small: Path, waits: list[float]) -> None:
    for route, wait in (("api", "3"), ("resolve", "4"), ("store", "5")):
        hub.answers[route] = [(429, {"Retry-After": wait})]
    limit = {"RateLimit": '"api";r=0;t=6'}
    hub.answers["api"].append((429, limit))
    hub.answers["store"].append((503, {}))
    assert same(load_projector(URI), load_projector(small))
    assert waits == [3.0, 6.0, 4.0, 5.0, 1.0]
    waits.clear()
    hub.answers["api"] = [(429, {"Retry-After": "3600"})]
    assert refusal() == "hf://org/model: too many requests (HTTP 429). Try again in 3,600 seconds."
    assert waits == []  # it says so instead
    hub.answers["api"] = [(500, {})] * 6
    assert refusal() == "hf://org/model: the hub cannot answer (HTTP 500). Try again later."
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0]
    hub.answers["api"] = [(404, {})]
    assert refusal() == (
        "hf://org/model: the hub does not know it (HTTP 404). Look at the name, and at HF_ENDPOINT."
    )


def test_a_hub_that_cannot_be_reached(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
    message = refusal()
    assert message.startswith("hf://org/model: the connection failed: ")
    assert "refused" in message


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"<!doctype html>Log in", "JSONDecodeError: Expecting value: line 1 column 1 (char 0)"),
        (b"[]", "TypeError: "),
        (b"{}", "KeyError: 'id'"),
        (b'{"id": "org/model", "siblings": [{}]}', "KeyError: 'rfilename'"),
        (b'{"id": "org/model", "cardData": 5}', "AttributeError: "),
    ],
)
def test_an_answer_that_is_not_a_hubs(hub: Hub, body: bytes, found: str) -> None:
    """Such as the page of a network that asks to log in first."""
    hub.answers["api"], hub.bodies = [(200, {"Content-Type": "text/html"})], [body]
    message = refusal()
    assert message.startswith(f"{URI}: the answer is not a hub's: {found}")
    assert message.endswith(". Look at HF_ENDPOINT, and whether a proxy answers in its place.")


def test_another_commit_than_was_asked_for(hub: Hub, small: Path) -> None:
    hub.branches[COMMIT] = LATER
    hub.files[LATER] = hub.files[COMMIT]
    assert refusal(PINNED) == f"{PINNED}: the hub answers for commit '{LATER}'; expected one commit"
    hub.branches = {"main": "../../x"}
    hub.files["../../x"] = {}
    assert refusal() == (
        "hf://org/model: the hub answers for commit '../../x'; expected one commit"
    )
    hub.branches = {"main": COMMIT}
    hub.answers["resolve"] = [(200, {"X-Repo-Commit": LATER, "ETag": '"a"'})]
    assert refusal() == (
        f"{PINNED}/model.safetensors.index.json: the hub answers for {LATER}. Name the commit that "
        "is meant, as @COMMIT."
    )


# ---------------------------------------------------------------------- redirects and the token


def test_a_signed_address_that_expires(hub: Hub, small: Path) -> None:
    hub.expires = 1
    assert same(load_projector(URI), load_projector(small))
    assert [each.status for each in hub.asked("store", FIRST)] == [206, 403, 206]
    assert len(hub.asked("hub", f"resolve/{COMMIT}/{FIRST}")) == 2


def test_a_file_that_is_another_when_its_address_expires(hub: Hub, small: Path) -> None:
    """As long as it was, under the store's old name; only the hub tells."""
    hub.expires, hub.etags = 1, ["a"] * 9

    def change(done: int, _: int) -> None:
        hub.files[COMMIT][FIRST] = bytes(len(hub.files[COMMIT][FIRST]))

    with pytest.raises(CheckpointError, match="the file changed while it was read"):
        load_projector(URI, progress=change)


def test_the_token_goes_nowhere_else(
    hub: Hub,
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub.token = "hf_SECRET"
    assert "no such model on the hub, or a private one" in refusal()
    monkeypatch.setenv("HF_TOKEN", hub.token)
    caplog.set_level(logging.DEBUG)
    for name in ("huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
        caplog.set_level(logging.DEBUG, name)
    assert same(load_projector(URI), load_projector(small))
    assert len(hub.asked("store")) == 4
    for each in hub.requests:
        assert hub.token not in each.path
        has = each.headers.get("authorization") == "Bearer hf_SECRET"
        assert has or "authorization" not in each.headers
        assert not has or each.server == "hub"
        needs = each.server == "hub" and each.method == "GET" and "resolve-cache" in each.path
        assert has or not needs
    # Sent on from the store to another one, and from there back to the hub.
    hub.requests.clear()
    url = f"{hub.hub}/api/resolve-cache/models/org/model/{COMMIT}/{FIRST}"
    hub.answers["store"] = [(302, {"Location": url})]
    assert "HTTP 206, a part" in refusal(f"{PINNED}/{FIRST}", inspect_checkpoint)
    assert "authorization" not in hub.requests[-1].headers
    hub.gated = True
    message = refusal(f"{URI}@{COMMIT}/{THIRD}", inspect_checkpoint)
    assert "hf_" not in message + str(caplog.text)
    for path in (tmp_path / "cache").rglob("*"):
        assert not path.is_file() or b"hf_SECRET" not in path.read_bytes()


@pytest.mark.parametrize(
    ("location", "found"),
    [
        ("file:///etc/passwd", "a redirect from http to file"),
        ("ftp://127.0.0.1/x", "a redirect from http to ftp"),
        ("http://[", "a redirect from http to no address"),
        ("http://a b/", "a redirect from http to http"),
        ("http://:80/", "a redirect from http to http"),
        ("http://a..b/", "a redirect from http to no address"),
        (f"http://{'a' * 64}/", "a redirect from http to no address"),
        ("http://a:b/", "a redirect from http to no address"),
        ("http://a:99999/", "a redirect from http to no address"),
    ],
)
def test_redirects_to_what_is_not_the_web(hub: Hub, small: Path, location: str, found: str) -> None:
    hub.answers["store"] = [(302, {"Location": location})]
    assert refusal() == f"{PINNED}/{FIRST}: {found}; expected an address of https. {TRY}"
    hub.away = location
    assert refusal().startswith(f"{PINNED}/{FIRST}: ")
    assert [each.status for each in hub.asked("store")] == [302]


def test_redirects_without_end(hub: Hub, small: Path) -> None:
    hub.answers["store"] = [(302, {"Location": "/again"})] * 9
    assert refusal() == f"{PINNED}/{FIRST}: more than 5 redirects. {TRY}"


def test_links() -> None:
    link = Link("https://hub.co/a/b", {"authorization": "Bearer x", "user-agent": "y"}, "e", 1)
    assert link.to("/c", "w") == Link("https://hub.co/c", link.headers, "e", 1)
    assert link.to("https://HUB.co:443/c", "w").headers == {"user-agent": "y"}
    for away in ("https://cdn.co/c", "https://hub.co:8443/c", "https://hub.co.evil/c", "//x.co/"):
        assert link.to(away, "w").headers == {"user-agent": "y"}
        assert link.to(away, "w").away
    assert "authorization" not in link.to("//x.co/", "w").to("https://hub.co/a", "w").headers
    with pytest.raises(CheckpointError, match="a redirect from https to http; expected"):
        link.to("http://hub.co/c", "w")
