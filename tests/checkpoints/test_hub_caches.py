"""The hub's cache and ours: what is taken from them, what is put there, and reading offline."""

import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers.checkpoints import same
from helpers.command import run
from helpers.hub_models import ROOT, upload, write_shards
from helpers.hub_server import COMMIT, LATER, Hub
from huggingface_hub import constants, hf_hub_download, snapshot_download

from mobilevlm import convert_checkpoint, inspect_checkpoint, load_projector
from mobilevlm.checkpoints.errors import CheckpointError
from mobilevlm.checkpoints.hub import NotHere
from mobilevlm.checkpoints.kept import cache_folder
from mobilevlm.checkpoints.values import inspect_values

pytestmark = pytest.mark.thread_unsafe

URI = "hf://org/model"
PINNED = f"{URI}@{COMMIT}"
FIRST, SECOND, THIRD = (f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3))


def go_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what ``HF_HUB_OFFLINE=1`` does where huggingface_hub is imported later."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the size and the time of all that is in a folder."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        found[str(path.relative_to(folder))] = (status.st_size, status.st_mtime_ns)
    return found


def kept(tmp_path: Path) -> list[Path]:
    """Return the folders of projectors in our cache."""
    return sorted(path.parent for path in (tmp_path / "cache" / "ours").rglob("origin.json"))


def test_what_was_read_is_kept(hub: Hub, small: Path, tmp_path: Path) -> None:
    first = load_projector(URI)
    [folder] = kept(tmp_path)
    assert folder.parent == tmp_path / "cache/ours/hub/models--org--model" / COMMIT
    assert same(load_projector(folder), first)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "origin.json",
    ]
    said = json.loads((folder / "origin.json").read_text())
    assert said == {"uri": PINNED, "family": "mlp", "root": ROOT, "grid": None, "notes": []}
    # A branch costs the question which commit it is; a commit nothing at all.
    hub.requests.clear()
    assert same(load_projector(URI), first)
    assert [each.path for each in hub.requests] == ["/api/models/org/model"]
    hub.requests.clear()
    assert same(load_projector(PINNED), first)
    assert hub.requests == []
    with pytest.MonkeyPatch.context() as patch:
        go_offline(hub, patch)
        assert same(load_projector(PINNED), first)
    assert hub.requests == []


def test_a_folder_that_is_not_complete_is_written_again(
    hub: Hub, small: Path, tmp_path: Path
) -> None:
    first = load_projector(URI)
    [folder] = kept(tmp_path)
    (folder / "origin.json").unlink()  # it is written last
    (folder / "config.json").unlink()
    hub.requests.clear()
    assert same(load_projector(URI), first)
    assert hub.asked("store")
    assert kept(tmp_path) == [folder]
    (folder / "model.safetensors").unlink()
    assert same(load_projector(URI), first)


def test_a_folder_that_is_damaged_says_what_to_do(hub: Hub, small: Path, tmp_path: Path) -> None:
    first = load_projector(URI)
    [folder] = kept(tmp_path)
    weights, origin = folder / "model.safetensors", folder / "origin.json"
    whole, hint = weights.read_bytes(), "Remove its folder, and it is read again; or name another "
    hint += "cache, MOBILEVLM_CACHE=FOLDER."
    for text, found in (('{"uri": 1}', "damaged"), ("{", "not JSON: ")):
        origin.write_text(text)
        with pytest.raises(CheckpointError) as caught:
            load_projector(URI)
        assert str(caught.value).startswith(f"{origin}: {found}")
        assert caught.value.hint == hint
    origin.unlink()
    assert same(load_projector(URI), first)
    weights.write_bytes(whole[:-8])
    with pytest.raises(CheckpointError) as caught:
        load_projector(URI)
    assert str(caught.value) == (
        f"{weights}: the file is {len(whole) - 8:,} bytes, its header promises {len(whole):,}. "
        f"{hint}"
    )
    for path in folder.iterdir():
        path.unlink()
    assert same(load_projector(URI), first)


@pytest.mark.parametrize("linked", [False, True])
def test_what_is_in_the_way_of_a_folder_is_written_over(
    hub: Hub, small: Path, tmp_path: Path, linked: bool
) -> None:
    """A file that is cut off, or a link, which is replaced itself, without an origin."""
    first = load_projector(URI)
    [folder] = kept(tmp_path)
    (folder / "origin.json").unlink()
    (folder / "model.safetensors").unlink()
    (tmp_path / "mine").write_bytes(b"mine")
    if linked:
        (folder / "model.safetensors").symlink_to(tmp_path / "mine")
    else:
        (folder / "model.safetensors").write_bytes(b"cut off")
    assert same(load_projector(URI), first)
    assert (tmp_path / "mine").read_bytes() == b"mine"
    hub.requests.clear()
    assert same(load_projector(PINNED), first)
    assert hub.requests == []


def test_two_at_once_keep_the_same(hub: Hub, small: Path, tmp_path: Path) -> None:
    """Whoever reads meanwhile finds nothing, or all of it."""
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: load_projector(URI), range(12)))
    assert all(same(each, load_projector(small)) for each in found)
    [folder] = kept(tmp_path)
    assert len(list(folder.iterdir())) == 4  # and nothing temporary


def test_a_refused_projector_is_not_kept(hub: Hub, small: Path, tmp_path: Path) -> None:
    hub.cuts = [None, None, None]
    hub.etags = ["a", "b", "a", "c"]  # two headers, then a range of each shard
    with pytest.raises(CheckpointError, match="the file changed while it was read"):
        load_projector(URI)
    assert kept(tmp_path) == []


def test_values_are_looked_at_each_time(hub: Hub, tmp_path: Path) -> None:
    write_shards(tmp_path / "bad", 16, 32, beside=10)
    path = tmp_path / "bad" / THIRD
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    start = json.loads(data[8 : 8 + length])[f"{ROOT}linear_2.bias"]["data_offsets"][0]
    data[8 + length + start : 12 + length + start] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    upload(hub, tmp_path / "bad")
    assert load_projector(URI).state_dict()["blocks.2.bias"].isnan().sum() == 1
    for _ in range(2):
        with pytest.raises(CheckpointError, match="NaN or infinite values") as caught:
            load_projector(URI, check_values=True)
        assert caught.value.where == f"{PINNED}['blocks.2.bias']"


def test_whole_files_of_the_hubs_cache_are_used(hub: Hub, small: Path, tmp_path: Path) -> None:
    """One shard of two is there; nothing is added to it, and the branch stays as it was."""
    hf_hub_download("org/model", FIRST)
    hf_hub_download("org/model", "config.json")
    cache = tmp_path / "cache" / "hub"
    before = tree(cache)
    hub.requests.clear()
    assert same(load_projector(URI), load_projector(small))
    assert not hub.asked("store", FIRST)
    assert not hub.asked("hub", "config.json")
    assert len(hub.asked("store", THIRD)) == 2
    assert tree(cache) == before
    assert len(kept(tmp_path)) == 1


def test_a_whole_model_of_the_hubs_cache_is_read_there(
    hub: Hub, small: Path, tmp_path: Path
) -> None:
    snapshot_download("org/model")
    before = tree(tmp_path / "cache" / "hub")
    hub.requests.clear()
    seen: list[int] = []
    loaded = load_projector(URI, progress=lambda done, _: seen.append(done))
    assert same(loaded, load_projector(small))
    assert [each.path for each in hub.requests] == ["/api/models/org/model"]
    assert kept(tmp_path) == []
    assert tree(tmp_path / "cache" / "hub") == before
    assert seen[0] == 0 < seen[-1]


@pytest.mark.quick(URI, f"{URI}@refs/pr/1")
@pytest.mark.parametrize("uri", [URI, f"{URI}@main", f"{URI}@v1", PINNED, f"{URI}@refs/pr/1"])
def test_offline_from_ours(
    hub: Hub, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    hub.branches |= {"v1": COMMIT, "refs/pr/1": COMMIT}
    first = load_projector(uri)
    go_offline(hub, monkeypatch)
    assert same(load_projector(uri), first)
    found = inspect_checkpoint(uri)
    assert (found.path, found.title) == (PINNED, "document (mlp)")
    assert found.notes == (
        "only what load_projector kept is here, so the model's other tensors are not counted",
    )
    assert len(inspect_values(uri)) == 4
    assert convert_checkpoint(uri, tmp_path / "out").path == PINNED
    assert same(load_projector(tmp_path / "out"), first)
    with pytest.raises(NotHere):
        load_projector(uri, family="mlp", act="relu")
    assert hub.requests == []


def test_offline_from_the_hubs(
    hub: Hub, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(hub, small, "sub/")
    snapshot_download("org/model", ignore_patterns=["*00002*"])  # of which nothing is needed
    expected = inspect_checkpoint(URI)
    go_offline(hub, monkeypatch)
    for uri in (URI, PINNED, f"{URI}/sub", f"{URI}/sub/model.safetensors.index.json"):
        assert same(load_projector(uri), load_projector(small))
    assert inspect_checkpoint(URI) == expected
    assert kept(tmp_path) == []
    assert hub.requests == []


def test_offline_from_either(
    hub: Hub, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's cache has too little of its commit; ours has the projector of a later one."""
    hf_hub_download("org/model", "config.json")
    write_shards(tmp_path / "later", 16, 32, beside=10)
    upload(hub, tmp_path / "later", commit=LATER)
    hub.branches["main"] = LATER
    load_projector(URI)
    go_offline(hub, monkeypatch)
    assert inspect_checkpoint(URI).path == f"{URI}@{LATER}"
    assert same(load_projector(URI), load_projector(tmp_path / "later"))


def test_offline_from_neither(hub: Hub, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inspect_checkpoint(URI)  # which keeps nothing
    go_offline(hub, monkeypatch)
    for uri in (URI, PINNED, f"{URI}/sub"):
        with pytest.raises(NotHere) as caught:
            load_projector(uri)
        assert str(caught.value) == (
            f"{uri}: not in the hub's cache, nor kept by load_projector. Unset HF_HUB_OFFLINE, and "
            "load it once."
        )
    assert hub.requests == []


def test_offline_a_shard_is_missing(hub: Hub, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot_download("org/model", ignore_patterns=["*00003*"])
    go_offline(hub, monkeypatch)
    with pytest.raises(NotHere) as caught:
        load_projector(URI)
    assert str(caught.value).startswith(f"{URI}: not in the hub's cache")
    status, _, err = run("inspect", URI)
    assert (status, "Unset HF_HUB_OFFLINE" in err) == (2, True)


def test_a_cache_that_cannot_be_looked_into(
    hub: Hub, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder's name is too long, or it is a folder of another user's."""
    monkeypatch.setenv("MOBILEVLM_CACHE", str(tmp_path / ("x" * 300)))
    with pytest.warns(UserWarning, match=r"File name too long; name a folder that can be wri"):
        assert same(load_projector(URI), load_projector(small))
    go_offline(hub, monkeypatch)
    with pytest.raises(NotHere):
        load_projector(URI)


def test_a_cache_that_cannot_be_written(hub: Hub, small: Path, tmp_path: Path) -> None:
    """It is a warning, and nothing is read twice for it."""
    (tmp_path / "cache").mkdir(exist_ok=True)
    (tmp_path / "cache" / "ours").write_bytes(b"")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = load_projector(URI, dtype="bf16")
    assert same(loaded, load_projector(small, dtype="bf16"))
    assert len(hub.asked("store")) == 4
    [warning] = caught
    assert str(warning.message).endswith(
        ": the projector cannot be kept: Not a directory; name a folder that can be written, "
        "MOBILEVLM_CACHE=FOLDER."
    )
    assert warning.filename == __file__


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MOBILEVLM_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "mobilevlm"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "mobilevlm"
    monkeypatch.setenv("MOBILEVLM_CACHE", "~/ours")
    assert cache_folder() == tmp_path / "ours"
