"""A model on a hub: what is fetched of it, and what is the same as on this machine."""

import json
import sys
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import same
from helpers.command import on_a_terminal, run
from helpers.hub_models import ROOT, config_of, in_order, projector_tensors, upload, write_shards
from helpers.hub_server import COMMIT, LATER, Hub, environment
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mobilevlm import (
    build_projector,
    convert_checkpoint,
    inspect_checkpoint,
    load_projector,
    save_projector,
)
from mobilevlm.checkpoints.errors import CheckpointError
from mobilevlm.checkpoints.formats.http import HubMissing
from mobilevlm.checkpoints.formats.ranges import HEAD, MAX_GAP, joined
from mobilevlm.checkpoints.formats.tensor_file import LocalFile
from mobilevlm.checkpoints.source import Source, source_of
from mobilevlm.checkpoints.values import inspect_values
from mobilevlm.registry.requirements import install_command

pytestmark = pytest.mark.thread_unsafe

URI = "hf://org/model"
PINNED = f"{URI}@{COMMIT}"
FOR_EACH_SHARD = 100_000


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of three shards whose projector has 6.3 MB."""
    folder = tmp_path_factory.mktemp("large") / "model"
    write_shards(folder, 512, 1024, beside=600_000)
    return folder


def ranges(hub: Hub, name: str = "") -> list[str]:
    """Return the ranges that the store was asked for."""
    return [each.headers["range"].removeprefix("bytes=") for each in hub.asked("store", name)]


def test_only_the_projector_is_fetched(hub: Hub, large: Path) -> None:
    upload(hub, large)
    nbytes = sum(4 * tensor.numel() for tensor in projector_tensors(512, 1024).values())
    assert nbytes >= 4_000_000
    seen: list[tuple[int, int]] = []
    loaded = load_projector(URI, progress=lambda *at: seen.append(at))
    assert same(loaded, load_projector(large))
    # Two shards of three are touched, each by its header and by one range.
    assert [len(hub.asked("store", f"-0000{n}-of")) for n in (1, 2, 3)] == [2, 0, 2]
    whole = sum(map(len, hub.files[COMMIT].values()))
    index = len(hub.files[COMMIT]["model.safetensors.index.json"])
    print(f"{hub.sent():,} bytes were sent for {nbytes:,}, of {whole:,}")
    assert nbytes < hub.sent() <= 1.05 * nbytes + index + 2 * FOR_EACH_SHARD < whole / 2
    assert hub.sent(".safetensors?") == 0  # a path has no signature in it
    # The bar counts the projector's bytes, as they come.
    assert len(seen) > 20
    assert seen == sorted(seen)
    assert {total for _, total in seen} == {nbytes}
    assert seen[0][0] < nbytes / 10
    assert seen[-1][0] == nbytes


def test_ranges_that_lie_close_are_one_request(hub: Hub) -> None:
    """Gaps of 60 kB are read too, as far as 5 % of the projector go; one of 2 MB is not."""
    tensors = projector_tensors(512, 1024)
    order = {"first": torch.randn(30_000)}  # so that nothing of it comes with the header
    for number, key in enumerate(tensors):
        order[key] = tensors[key]
        order[f"vision.{number}"] = torch.randn(500_000 if number == 1 else 15_000)
    hub.files[COMMIT] = {
        "model.safetensors": in_order(order),
        "config.json": json.dumps(config_of(512, 1024)).encode(),
    }
    state = load_projector(URI).state_dict()
    assert torch.equal(state["blocks.0.weight"], tensors[f"{ROOT}linear_1.weight"])
    assert torch.equal(state["blocks.2.bias"], tensors[f"{ROOT}linear_2.bias"])
    head, first, second = (tuple(map(int, each.split("-"))) for each in ranges(hub))
    assert head == (0, HEAD - 1)
    parts = {key: 4 * tensor.numel() for key, tensor in order.items()}
    assert first[1] - first[0] + 1 == sum(list(parts.values())[1:4])
    assert second[1] - second[0] + 1 == sum(list(parts.values())[5:8])
    nbytes = sum(4 * tensor.numel() for tensor in tensors.values())
    assert hub.sent(".safetensors") <= 1.05 * nbytes + FOR_EACH_SHARD


@pytest.mark.slow
def test_gaps_beyond_the_budget_are_requests_of_their_own(hub: Hub) -> None:
    tensors = projector_tensors(512, 1024)
    order = {"first": torch.randn(30_000)}
    for number, key in enumerate(tensors):
        order[key] = tensors[key]
        order[f"vision.{number}"] = torch.randn(60_000)
    hub.files[COMMIT] = {
        "model.safetensors": in_order(order),
        "config.json": json.dumps(config_of(512, 1024)).encode(),
    }
    load_projector(URI)
    nbytes = sum(4 * tensor.numel() for tensor in tensors.values())
    assert len(ranges(hub)) == 1 + 3  # 240 kB fit into 5 % of 6.3 MB once
    assert hub.sent(".safetensors") <= 1.05 * nbytes + FOR_EACH_SHARD


@given(
    st.lists(st.tuples(st.integers(0, 3 * MAX_GAP), st.integers(1, 100)), max_size=8),
    st.integers(0, 4 * MAX_GAP),
)
def test_joined(steps: list[tuple[int, int]], extra: int) -> None:
    spans = []
    position = 0
    for gap, length in steps:
        spans.append((position + gap, position + gap + length))
        position += gap + length
    found = joined(spans, extra)
    assert found == sorted(found)
    for first, end in spans:
        assert any(a <= first and end <= b for a, b in found)
    read = sum(end - first for first, end in found)
    assert 0 <= read - sum(end - first for first, end in spans) <= extra
    # Nothing more could be joined: the smallest gap that is left costs too much.
    left = [b[0] - a[1] for a, b in pairwise(found)]
    spent = read - sum(end - first for first, end in spans)
    assert all(gap > min(extra - spent, MAX_GAP) for gap in left)


def test_a_long_header_is_read_to_its_end(hub: Hub) -> None:
    tensors = projector_tensors(16, 32)
    tensors |= {f"language_model.layers.{n}.weight": torch.zeros(40) for n in range(1500)}
    data = in_order(tensors)
    length = int.from_bytes(data[:8], "little")
    assert HEAD < length < len(data) - HEAD
    hub.files[COMMIT] = {"model.safetensors": data}
    found = inspect_checkpoint(URI)
    assert (found.family, found.left) == ("mlp", 1500)
    assert ranges(hub) == [f"0-{HEAD - 1}", f"{HEAD}-{8 + length - 1}"]


def test_a_projector_of_ours_is_one_request(hub: Hub, tmp_path: Path) -> None:
    projector = build_projector("ldp", 16, 24, prefix_tokens=1)
    save_projector(projector, tmp_path / "own")
    upload(hub, tmp_path / "own")
    assert same(load_projector(URI), projector)
    assert ranges(hub) == [f"0-{len(hub.files[COMMIT]['model.safetensors']) - 1}"]
    assert inspect_checkpoint(URI).title == "document (ldp)"


def test_what_is_fetched_may_be_changed_and_is_aligned(hub: Hub, small: Path) -> None:
    """Tensors are views of what came, wherever in it they begin."""
    data = in_order({"a": torch.zeros(3), **projector_tensors(16, 32)}, {"pad": "x" * 3})
    assert int.from_bytes(data[:8], "little") % 4
    hub.files[COMMIT] = {"model.safetensors": data}
    loaded = load_projector(URI)
    with torch.no_grad():
        for parameter in loaded.parameters():
            assert not parameter.data_ptr() % 4
            parameter.add_(1)
    assert load_projector(URI)(torch.ones(1, 4, 16)).isfinite().all()


def test_inspection_says_the_commit(hub: Hub, small: Path) -> None:
    found, local = inspect_checkpoint(URI), inspect_checkpoint(small)
    assert found.path == PINNED
    assert found.to_dict() == local.to_dict() | {"path": PINNED}
    assert str(found).startswith(f"{PINNED}: mlp, 16 -> 32, float32, 4 tensors under")
    assert max(int(each.split("-")[1]) for each in ranges(hub)) < HEAD  # headers alone


def test_a_branch_that_moves_midway(hub: Hub, small: Path, tmp_path: Path) -> None:
    """All files are of the commit that the branch was at first."""
    write_shards(tmp_path / "later", 16, 32, beside=10)
    upload(hub, tmp_path / "later", commit=LATER)
    moved = []

    def move(done: int, total: int) -> None:
        hub.branches["main"] = LATER
        moved.append(done)

    loaded = load_projector(URI, progress=move)
    assert moved
    assert same(loaded, load_projector(small))
    files = [each.path for each in hub.requests if "/resolve/" in each.path]
    assert len(files) == 4
    assert all(f"/resolve/{COMMIT}/" in path for path in files)
    assert same(load_projector(URI), load_projector(tmp_path / "later"))
    assert inspect_checkpoint(URI).path == f"{URI}@{LATER}"
    assert same(load_projector(PINNED), loaded)


def test_a_branch_that_moves_between_two_files(hub: Hub, small: Path, tmp_path: Path) -> None:
    write_shards(tmp_path / "later", 16, 32, beside=10)
    upload(hub, tmp_path / "later", commit=LATER)
    plan: list[Callable[[], None]] = [lambda: hub.branches.update(main=LATER)]
    hub.after_api = lambda: plan.pop()() if plan else None
    assert same(load_projector(URI), load_projector(small))
    assert not plan


@pytest.mark.quick("hf://org/model@refs/pr/3/sub/-sub/")
@pytest.mark.parametrize(
    ("uri", "below"),
    [
        ("hf://org/model/sub/folder", "sub/folder/"),
        ("hf://models/org/model@v1.0/sub", "sub/"),
        ("hf://org/model@refs/pr/3/sub/", "sub/"),
        (f"hf://org/model@{COMMIT}/sub/model.safetensors.index.json", "sub/"),
    ],
)
def test_folders_files_and_revisions(hub: Hub, small: Path, uri: str, below: str) -> None:
    hub.files[COMMIT] = {"README.md": b"", "config.json": b"not this one"}
    upload(hub, small, below)
    hub.branches = {"v1.0": COMMIT, "refs/pr/3": COMMIT, "main": COMMIT}
    assert inspect_checkpoint(uri).to_dict()["family"] == "mlp"
    assert same(load_projector(uri), load_projector(small))


def test_a_file_that_is_named(hub: Hub, small: Path) -> None:
    both = {}
    for path in small.glob("*.safetensors"):
        both |= load_file(path)
    save_file({key: both[key] + 1 for key in both if key.startswith(ROOT)}, small / "tuned.bin")
    hub.files[COMMIT]["tuned/x.safetensors"] = (small / "tuned.bin").read_bytes()
    hub.files[COMMIT]["tuned/config.json"] = hub.files[COMMIT]["config.json"]
    found = inspect_checkpoint(f"{URI}/tuned/x.safetensors")
    assert found.path == f"{PINNED}/tuned/x.safetensors"
    weight = load_projector(f"{URI}/tuned/x.safetensors").state_dict()["blocks.0.weight"]
    assert torch.equal(weight, both[f"{ROOT}linear_1.weight"] + 1)
    # It is the folder's only one, too.
    assert inspect_checkpoint(f"{URI}/tuned").used == found.used


def test_what_the_caller_says_is_heard(hub: Hub, small: Path) -> None:
    """Each request is kept for itself."""
    plain, relu = load_projector(URI), load_projector(URI, family="mlp", act="relu")
    assert relu.spec == load_projector(small, family="mlp", act="relu").spec != plain.spec
    assert load_projector(URI, family="mlp", act="relu").spec == relu.spec
    assert load_projector(URI).spec == plain.spec
    assert load_projector(URI, prefix_tokens=1).spec.prefix_tokens == 1
    half = load_projector(URI, dtype="bf16", grid=(3, 5))
    assert (half.grid, half.state_dict()["blocks.0.weight"].dtype) == ((3, 5), torch.bfloat16)
    assert load_projector(URI, dtype=torch.float32).state_dict()["blocks.0.bias"].dtype is not None
    assert same(load_projector(URI, grid=(3, 5)), plain)
    with pytest.raises(CheckpointError, match=r"no projector at root='vision\.'"):
        load_projector(URI, root="vision")


def test_notes_are_warnings_each_time_and_name_the_commit(hub: Hub, tmp_path: Path) -> None:
    state = {f"mm_projector.{n}.{what}": t for n, what, t in tensors_of_llava(16, 32)}
    hub.files[COMMIT] = {
        "model.safetensors": in_order(state),
        "config.json": json.dumps(
            {"model_type": "llava_llama", "mm_projector_type": "linear"}
        ).encode(),
    }
    note = "config.json says mm_projector_type 'linear', and the tensors are mlp2x_gelu's"
    for _ in range(2):  # read, then kept
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            load_projector(URI)
        assert [str(each.message) for each in caught] == [f"{PINNED}: {note}."]
        assert all(each.filename == __file__ for each in caught)


def tensors_of_llava(in_: int, out: int) -> list[tuple[int, str, torch.Tensor]]:
    first = [(0, "weight", torch.randn(out, in_)), (0, "bias", torch.randn(out))]
    return [*first, (2, "weight", torch.randn(out, out)), (2, "bias", torch.randn(out))]


def test_the_default_grid_is_kept(hub: Hub, tmp_path: Path) -> None:
    """A document does not say it; the weights have a row for each of its cells."""
    golden = load_file(Path(__file__).parents[1] / "golden" / "c-abstractor.safetensors")
    state = {f"abstractor.{key[2:]}": each for key, each in golden.items() if key[:2] == "w."}
    config = {"projector_config": {"projector_type": "c-abs", "num_query_tokens": 16}}
    hub.files[COMMIT] = {
        "model.safetensors": in_order(state),
        "config.json": json.dumps(config).encode(),
    }
    assert [load_projector(URI).grid for _ in range(2)] == [(8, 8)] * 2
    assert [load_projector(URI, grid=(4, 16)).grid for _ in range(2)] == [(4, 16)] * 2


def test_values_and_conversion(hub: Hub, small: Path, tmp_path: Path) -> None:
    assert inspect_values(URI) == inspect_values(small)
    seen: list[tuple[int, int]] = []
    found = convert_checkpoint(URI, tmp_path / "out", progress=lambda *at: seen.append(at))
    assert found.path == PINNED
    assert seen == sorted(seen)
    nbytes = sum(4 * tensor.numel() for tensor in projector_tensors(16, 32).values())
    assert seen[-1] == (nbytes, nbytes)
    assert same(load_projector(tmp_path / "out"), load_projector(small))
    convert_checkpoint(URI, tmp_path / "back.safetensors", to="llava", prefix=ROOT)
    assert load_file(tmp_path / "back.safetensors").keys() == projector_tensors(16, 32).keys()
    with pytest.raises(CheckpointError) as caught:
        convert_checkpoint(URI, tmp_path / "no", from_pickle=True)
    assert str(caught.value) == (
        "hf://org/model: from_pickle=True with a model on a hub, whose pickles are never fetched; "
        "expected a file or a folder on this machine. If you trust it, run hf download ORG/MODEL "
        "--local-dir model, and convert that."
    )


def test_the_command_line(hub: Hub, small: Path, tmp_path: Path) -> None:
    status, out, err = run("inspect", URI)
    assert (status, err) == (0, "")
    assert out.startswith(f"{PINNED}: mlp, 16 -> 32")
    status, out, _ = run("inspect", "--values", "--json", URI)
    assert status == 0
    assert json.loads(out)["path"] == PINNED
    assert len(json.loads(out)["values"]) == 4
    status, _, err = run("inspect", f"{URI}@nope")
    assert (status, "the model has no such revision" in err) == (2, True)
    status, out, err = run("convert", f"{URI}@main", str(tmp_path / "out"))
    assert (status, err) == (0, "")
    assert same(load_projector(tmp_path / "out"), load_projector(small))


@pytest.mark.slow
def test_a_process_of_its_own(hub: Hub, large: Path, tmp_path: Path) -> None:
    """By the environment alone: endpoint, caches, token; and its bar counts the megabytes."""
    upload(hub, large)
    hub.token = "hf_of_a_test"
    settings = environment(hub, tmp_path / "other")
    drawn = on_a_terminal("convert", URI, str(tmp_path / "out"), **settings)
    assert "fetching model" in drawn
    assert "6.3/6.3 MB" in drawn
    assert same(load_projector(tmp_path / "out"), load_projector(large))
    assert {each.headers.get("authorization") for each in hub.asked("store")} == {None}
    assert "Bearer hf_of_a_test" in {each.headers.get("authorization") for each in hub.requests}


def test_without_huggingface_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(HubMissing) as caught:
        load_projector(URI)
    assert isinstance(caught.value, CheckpointError | ImportError)
    assert str(caught.value) == (
        "hf://org/model: huggingface_hub cannot be used: import of huggingface_hub halted; "
        f"None in sys.modules. Run: {install_command('hub')}"
    )


def test_a_local_file_is_no_source_of_ranges(tmp_path: Path) -> None:
    """Both give the same bytes for a span; only the position of the first may differ."""
    (tmp_path / "x").write_bytes(bytes(range(256)))
    start, data = LocalFile(tmp_path / "x").span(100, 110)
    assert data[100 - start : 110 - start] == bytes(range(100, 110))


@pytest.mark.parametrize(
    ("licence", "known"),
    [("llama2", "llama2"), (["mit", "llama2"], ""), ("", ""), ("x\n---\nevil: \U0001f600", "")],
)
def test_the_source_is_the_model_at_its_commit(
    hub: Hub, small: Path, tmp_path: Path, licence: object, known: str
) -> None:
    hub.licence = licence
    expected = Source("mlp", ROOT, "org/model", COMMIT, known)
    assert source_of(load_projector(URI)) == expected
    requests = len(hub.requests)
    again = load_projector(PINNED)  # of what is kept
    assert source_of(again) == expected
    assert len(hub.requests) == requests
    save_projector(again, tmp_path / "saved")
    card = (tmp_path / "saved" / "README.md").read_text("utf-8")
    assert 'base_model: "org/model"' in card
    assert f"revision `{COMMIT}`" in card
    assert (f'license: "{known}"' in card) == bool(known)
    assert source_of(load_projector(tmp_path / "saved")) == expected
