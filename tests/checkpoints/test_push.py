"""Pushing a projector, by huggingface_hub, to a hub on this machine."""

import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import WEIGHTS, hf_mlp, same
from helpers.command import run
from helpers.hub_server import environment, use
from helpers.hub_uploads import READER, TOKEN, Hub, serve
from huggingface_hub import constants
from huggingface_hub.utils import disable_progress_bars, parse_hf_uri
from safetensors.torch import save
from torch import nn

from mobilevlm import Projector, build_projector, load_projector, push_projector, save_projector
from mobilevlm.checkpoints.card import is_card
from mobilevlm.checkpoints.errors import CheckpointError
from mobilevlm.registry.requirements import install_command

# Of its client, when it uploads what is in memory.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload:DeprecationWarning")

REPO = "org/my-projector"
THREE = ("README.md", "config.json", "model.safetensors")
ELSEWHERE = (
    "Push to another; replace=True commits over these files, which then are in its history only."
)
TAKEN = (
    "already there, and nothing in it says that this library wrote it; expected a new file or an "
    f"earlier result. {ELSEWHERE}"
)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serve() as hub:
        use(hub, tmp_path / "cache", monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        disable_progress_bars()
        yield hub
        for request in hub.requests:
            if request.origin == "store":
                assert request.authorization is None, request


@pytest.fixture(scope="module")
def projector() -> Projector:
    torch.manual_seed(0)
    return build_projector("ldp", 16, 24)


def saved(projector: nn.Module, folder: Path) -> dict[str, bytes]:
    save_projector(projector, folder)
    return {name: (folder / name).read_bytes() for name in THREE}


def refusal(projector: nn.Module, hub: Hub, repo_id: Any = REPO, **arguments: Any) -> str:
    """Return the message of a push that is refused, and changes nothing."""
    before = {name: repo.branches["main"][-1] for name, repo in hub.repositories.items()}
    with pytest.raises(CheckpointError) as caught:
        push_projector(projector, repo_id, **{"token": TOKEN, **arguments})
    for name, commit in before.items():
        assert hub.head(name) == commit
    message = str(caught.value)
    for secret in (TOKEN, READER):
        assert secret not in message
    return message


def test_what_is_pushed_is_what_is_saved(hub: Hub, projector: Projector, tmp_path: Path) -> None:
    url = push_projector(projector, REPO, token=TOKEN)
    head = hub.head(REPO)
    assert url == f"{hub.hub}/{REPO}/commit/{head.oid}"
    assert head.message == "Push a projector: ldp, 16 -> 24"
    assert [each.message for each in hub.repositories[REPO].branches["main"]] == [
        "initial commit",
        head.message,
    ]
    assert hub.repositories[REPO].visibility is None
    expected = saved(projector, tmp_path / "saved")
    assert head.files.keys() == {".gitattributes", *THREE}
    for name in ("config.json", "model.safetensors"):
        assert head.files[name] == expected[name]
    for name in THREE:
        (tmp_path / name).write_bytes(head.files[name])
    assert same(load_projector(tmp_path), projector)
    assert is_card(tmp_path / "README.md")
    # The cards differ in where they say that the projector is, and so in their digests.
    cards = [
        re.sub("[0-9a-f]{64}", "", files["README.md"].decode()) for files in (head.files, expected)
    ]
    assert cards[0] == cards[1].replace('"FOLDER"', f'"hf://{REPO}"').replace(
        "`pip install .`", '`pip install ".[hub]"`'
    )
    # The token goes to the hub with each request, and the large file to the other origin.
    told = {each.path: each.authorization for each in hub.requests if REPO in each.path}
    assert len(told) > 4
    assert told == dict.fromkeys(told, f"Bearer {TOKEN}")
    assert [each.method for each in hub.requests if each.origin == "store"] == ["PUT"]


def test_what_is_pushed_is_read_off_the_hub(
    hub: Hub, projector: Projector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the address in its card, by ranges; and from there it is pushed on, by the command."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    push_projector(projector, REPO, licence="mit")
    first = hub.head(REPO)
    [address] = re.findall(r'load_projector\("(.*)"\)', first.files["README.md"].decode())
    assert same(load_projector(address), projector)
    assert [each.method for each in hub.requests if each.origin == "store"] == ["PUT", "GET"]
    status, out, err = run("push", address, "org/another", "--licence", "apache-2.0")
    assert (status, err) == (0, "")
    head = hub.head("org/another")
    assert out == f"{hub.hub}/org/another/commit/{head.oid}\n"
    assert head.files[WEIGHTS] == first.files[WEIGHTS]
    card = head.files["README.md"].decode()
    assert f'license: "apache-2.0"\nbase_model: "{REPO}"\n' in card
    assert f"read from `{REPO}`, revision `{first.oid}`" in card


def test_an_earlier_result_is_replaced(hub: Hub, projector: Projector) -> None:
    push_projector(projector, REPO, token=TOKEN)
    hub.repositories[REPO].commit("main", "mine", {"notes.txt": b"mine", "logs/x.safetensors": b""})
    other = build_projector("mlp", 16, 24)
    push_projector(other, REPO, token=TOKEN, commit_message="Take an MLP")
    head = hub.head(REPO)
    assert head.message == "Take an MLP"
    assert head.files["notes.txt"] == b"mine"
    assert "# `mlp`, 16 -> 24" in head.files["README.md"].decode()
    # Its header is read, of the large file, and no more; what has not changed makes no commit.
    assert [each.method for each in hub.requests if each.origin == "store"] == [
        "PUT",
        "GET",
        "PUT",
    ]
    again = push_projector(other, REPO, token=TOKEN)
    assert again.endswith(hub.head(REPO).oid)
    assert hub.head(REPO) == head


def test_a_private_repository_and_a_branch(hub: Hub, projector: Projector) -> None:
    push_projector(projector, REPO, token=TOKEN, private=True)
    repository = hub.repositories[REPO]
    assert repository.visibility == "private"
    assert refusal(projector, hub, revision="a/b") == (
        f"{REPO}: there is no branch 'a/b'. Create it: "
        f"huggingface_hub.create_branch('{REPO}', branch='a/b')."
    )
    main = hub.head(REPO)
    repository.commit("a/b", "branch", {})
    push_projector(build_projector("mlp", 16, 24), REPO, token=TOKEN, revision="a/b")
    assert hub.head(REPO) == main
    card = hub.head(REPO, "a/b").files["README.md"].decode()
    [address] = re.findall(r'load_projector\("(.*)"\)', card)
    uri = parse_hf_uri(address)
    assert (uri.id, uri.revision) == (REPO, "a/b")


# ---------------------------------------------------------------------- what is somebody else's


def other_weights() -> bytes:
    return save({**hf_mlp(), "lm_head.weight": torch.ones(2, 2)})


@pytest.mark.quick("files0-message0", "files2-message2", "files4-message4")
@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"model.safetensors": other_weights()}, f"{REPO}/model.safetensors: {TAKEN}"),
        ({"model.safetensors": b"cut off"}, f"{REPO}/model.safetensors: {TAKEN}"),
        ({"config.json": b'{"model_type": "llava"}'}, f"{REPO}/config.json: {TAKEN}"),
        ({"config.json": b" " * 16_000_001}, f"{REPO}/config.json: {TAKEN}"),
        *(
            (
                {name: b"{}"},
                f"{REPO}: a repository with other weights, {name}, which ours would hide; "
                f"expected a new repository or an earlier result. {ELSEWHERE}",
            )
            for name in (
                "model.safetensors.index.json",
                "pytorch_model.bin",
                "model-00001-of-00002.safetensors",
            )
        ),
    ],
)
def test_a_models_repository_is_refused(
    files: dict[str, bytes], message: str, hub: Hub, projector: Projector
) -> None:
    hub.create(REPO, files)
    assert refusal(projector, hub) == message
    assert hub.writes() == []
    push_projector(projector, REPO, token=TOKEN, replace=True)
    assert hub.head(REPO).files.keys() == {".gitattributes", *files, *THREE}


def test_our_files_beside_other_weights(hub: Hub, projector: Projector, tmp_path: Path) -> None:
    """Readers find an index first, and what is beside our weights not at all, as before."""
    files = saved(projector, tmp_path / "own")
    hub.create(REPO, {**files, "adapter.safetensors": other_weights()})
    push_projector(build_projector("mlp", 16, 24), REPO, token=TOKEN)
    hub.create(REPO, {**files, "model.safetensors.index.json": b"{}"})
    assert "with other weights" in refusal(projector, hub)


MINE = b"---\nlicense: mit\n---\n# Mine\n"


def test_somebodys_readme_stays(hub: Hub, projector: Projector) -> None:
    hub.create(REPO, {"README.md": MINE})
    with pytest.warns(UserWarning, match=r"its README\.md stays") as caught:
        push_projector(projector, REPO, token=TOKEN)
    [warning] = [each for each in caught if each.category is UserWarning]
    assert str(warning.message) == (
        f"{REPO}: its README.md stays, as this library did not write it or it was edited since: "
        "replace=True writes the model card over it."
    )
    assert warning.filename == __file__
    assert hub.head(REPO).files["README.md"] == MINE
    push_projector(projector, REPO, token=TOKEN, replace=True)
    card = hub.head(REPO).files["README.md"]
    assert card != MINE
    hub.repositories[REPO].commit("main", "edit", {"README.md": card + b"\nEdited.\n"})
    with pytest.warns(UserWarning, match=r"its README\.md stays"):
        push_projector(build_projector("mlp", 16, 24), REPO, token=TOKEN)
    assert hub.head(REPO).files["README.md"] == card + b"\nEdited.\n"


def test_a_card_of_ones_own(hub: Hub, projector: Projector) -> None:
    hub.create(REPO, {"README.md": MINE})
    for text in ("# First\n", "# Second\n"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the hub's, that it has no front matter
            push_projector(projector, REPO, token=TOKEN, card=text)
        assert hub.head(REPO).files["README.md"].decode() == text


def test_the_licence_is_stated(hub: Hub, projector: Projector) -> None:
    push_projector(projector, REPO, token=TOKEN, licence="apache-2.0")
    card = hub.head(REPO).files["README.md"].decode()
    assert '\nlicense: "apache-2.0"\n' in card
    assert "\n- Licence: `apache-2.0`\n" in card
    assert refusal(projector, hub, licence="Apache 2.0") == (
        "licence: 'Apache 2.0'; expected an identifier of the hub's, such as 'apache-2.0'"
    )
    assert refusal(projector, hub, licence="apache-3.0") == (
        f'{REPO}: not pushed: ValueError: Invalid metadata in README.md. - "license" must be one '
        "of [apache-2.0, ...]"
    )
    assert refusal(projector, hub, licence="mit", card="# Mine\n") == (
        "licence: a licence beside a card; expected one of them. Write it into the card, as "
        "license: in its front matter."
    )


# ---------------------------------------------------------------------- refusals


def test_what_would_not_be_saved_is_not_pushed(hub: Hub, projector: Projector) -> None:
    meta = build_projector("ldp", 16, 24, device="meta")
    assert "no values: it is on the meta device" in refusal(meta, hub)
    assert "projector" in refusal(nn.Linear(2, 2), hub)
    for name in ("my-projector", "hf://org/name", "org/my/projector", "", None, Path("org/name")):
        expected = "; expected a repository of the hub, 'org/name'"
        assert refusal(projector, hub, name) == f"repo_id: {name!r}{expected}"
    assert hub.requests == []
    assert "Cannot have -- or .. in repo_id" in refusal(projector, hub, "org/a--b")


@pytest.mark.parametrize("repo_id", [REPO, "other/projector"])
@pytest.mark.parametrize(
    ("token", "message"),
    [
        (
            "hf_Wrong",
            "the hub does not accept the token. Log in: hf auth login. Or give another token.",
        ),
        (None, "the hub does not accept the token. Log in: hf auth login. Or give another token."),
        (READER, "the token may not write there. Give a token with the right to write there."),
    ],
)
def test_a_token_that_does_not_do(
    repo_id: str, token: str | None, message: str, hub: Hub, projector: Projector
) -> None:
    hub.create(REPO)
    text = refusal(projector, hub, repo_id, token=token)
    assert text == f"{repo_id}: {message}"
    assert "hf_Wrong" not in text


@pytest.mark.quick("412")
@pytest.mark.parametrize("status", [409, 412])
def test_a_commit_of_somebody_elses_meanwhile(status: int, hub: Hub, projector: Projector) -> None:
    push_projector(build_projector("mlp", 16, 24), REPO, token=TOKEN)
    repository = hub.repositories[REPO]

    def meanwhile(method: str, path: str) -> tuple[int, dict[str, str]] | None:
        if "/commit/" not in path:
            return None
        if status == 412:  # by the hub itself: the commit names the one that was looked at
            repository.commit("main", "theirs", {"config.json": b"theirs"})
            return None
        return 409, {}

    hub.before = meanwhile
    with pytest.raises(CheckpointError) as caught:
        push_projector(projector, REPO, token=TOKEN)
    assert str(caught.value) == (
        f"{REPO}: it has changed while this was pushed. Look at what it holds now, and push again."
    )
    if status == 412:
        assert hub.head(REPO).files["config.json"] == b"theirs"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((429, {"Retry-After": "30"}), "too many requests (HTTP 429). Try again in 30 seconds."),
        ((503, {}), "the hub cannot answer (HTTP 503). Try again later."),
    ],
)
def test_a_hub_that_is_busy(
    answer: tuple[int, dict[str, str]], message: str, hub: Hub, projector: Projector
) -> None:
    hub.before = lambda method, path: answer if path == "/api/repos/create" else None
    assert refusal(projector, hub) == f"{REPO}: {message}"


def test_a_hub_that_fails(hub: Hub, projector: Projector, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.create(REPO)
    hub.before = lambda method, path: (400, {}) if path.startswith("/objects/") else None
    message = refusal(projector, hub)
    assert message == (
        f"{REPO}: not pushed: RuntimeError: Error while uploading 'model.safetensors' to the Hub."
    )
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    assert refusal(projector, hub).startswith(f"{REPO}: not pushed: ConnectError: ")


def test_without_huggingface_hub(projector: Projector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError) as caught:
        push_projector(projector, REPO)
    assert str(caught.value) == (
        "push_projector: huggingface_hub cannot be used: import of huggingface_hub halted; None in "
        f"sys.modules. Run: {install_command('hub')}"
    )


def test_saving_needs_no_huggingface_hub(
    projector: Projector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("huggingface_hub", "yaml"):
        monkeypatch.setitem(sys.modules, name, None)
    save_projector(projector, tmp_path)
    assert same(load_projector(tmp_path), projector)


# ---------------------------------------------------------------------- the command


@pytest.mark.slow
def test_the_command(hub: Hub, projector: Projector, tmp_path: Path) -> None:
    """It pushes the README.md that its author has edited, in a process with HF_ENDPOINT."""
    folder = tmp_path / "saved"
    files = saved(projector, folder)
    edited = files["README.md"].decode() + "\nTrained on a Tuesday.\n"
    (folder / "README.md").write_text(edited)
    hub.token = TOKEN
    settings = {
        **os.environ,
        **environment(hub, tmp_path / "other"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    words = ["push", str(folder), REPO, "--private", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "mobilevlm", *words],
        env=settings,
        capture_output=True,
        text=True,
        check=False,
    )
    head = hub.head(REPO)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {
        "repo_id": REPO,
        "commit": f"{hub.hub}/{REPO}/commit/{head.oid}",
    }
    assert hub.repositories[REPO].visibility == "private"
    assert head.files["README.md"].decode() == edited
    assert head.files[WEIGHTS] == files[WEIGHTS]


def test_the_command_refuses_in_its_own_words(
    hub: Hub, projector: Projector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    save_projector(projector, tmp_path)
    hub.create(REPO, {"model.safetensors": other_weights()})
    taken = TAKEN.replace("replace=True", "--force")
    assert run("push", str(tmp_path), REPO) == (2, "", f"error: {REPO}/{WEIGHTS}: {taken}\n")
