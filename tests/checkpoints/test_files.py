"""No lost data: what may be written over, temporary files, readers beside writers, full disks."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from helpers.checkpoints import mlp, same
from helpers.ranks import run_two
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from mobilevlm import (
    BLOCKS,
    Block,
    CheckpointError,
    ExportError,
    Feature,
    MobileVLMError,
    Projector,
    SpecError,
    build_projector,
    build_vision_projector,
    convert_checkpoint,
    dump_spec,
    export_projector,
    inspect_checkpoint,
    inspect_values,
    load_projector,
    load_spec,
    save_projector,
    spec_of,
    to_upstream,
)
from mobilevlm.checkpoints.formats import tensor_file
from mobilevlm.projectors import files
from mobilevlm.projectors.device import check_device

BESIDE = (
    "Name another; replace=True writes model.safetensors and config.json there all the "
    "same, over what has these names."
)
TAKEN = "already there, and nothing in it says that this library wrote it"


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(CheckpointError) as caught:
        call()
    return str(caught.value)


def contents(folder: Path) -> dict[str, Any]:
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


# ---------------------------------------------------------------------- what is not ours


@pytest.fixture
def llava(tmp_path: Path) -> Path:
    """A model's folder: its projector beside its language model."""
    folder = tmp_path / "llava"
    folder.mkdir()
    state = {f"model.{key}": tensor for key, tensor in mlp().items()}
    save_file({**state, "lm_head.weight": torch.ones(4, 4)}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "llava_llama"}')
    return folder


def hub(llava: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Lay a model out as a hub's cache does: links into a folder of blobs."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for path in llava.iterdir():
        path.rename(blobs / f"hash-of-{path.name}")
        (snapshot / path.name).symlink_to(f"../../blobs/hash-of-{path.name}")
    return blobs, snapshot


def test_a_models_folder_is_never_overwritten_unasked(llava: Path) -> None:
    projector = load_projector(llava)
    before = contents(llava)
    ask = "Name another; replace=True replaces it, and what it holds is lost."
    message = refusal(lambda: save_projector(projector, llava))
    assert message == (
        f"{llava / 'model.safetensors'}: {TAKEN}; expected a new file or an earlier result. {ask}"
    )
    (llava / "model.safetensors").rename(llava / "weights")
    message = refusal(lambda: save_projector(projector, llava))  # for its config alone
    assert message == (
        f"{llava / 'config.json'}: {TAKEN}; expected a new file or an earlier result. {ask}"
    )
    (llava / "weights").rename(llava / "model.safetensors")
    assert contents(llava) == before
    save_projector(projector, llava, replace=True)
    assert inspect_checkpoint(llava).family == "document"
    save_projector(projector, llava)  # an earlier result by now


def test_our_document_does_not_make_a_whole_model_ours(llava: Path, tmp_path: Path) -> None:
    projector = load_projector(llava)
    document = dump_spec(projector.spec, tmp_path / "config.json", replace=True)
    (tmp_path / "config.json").replace(llava / "config.json")
    state = {**projector.state_dict(), "lm_head.weight": torch.ones(4, 4)}
    save_file(state, llava / "model.safetensors", {"mobilevlm": document})
    assert TAKEN in refusal(lambda: save_projector(projector, llava))


@pytest.mark.parametrize(
    "name", ["model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"]
)
def test_no_file_of_ours_hides_a_models_weights(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{}")
    projector = build_projector("linear", 4, 4)
    assert refusal(lambda: save_projector(projector, tmp_path)) == (
        f"{tmp_path}: a folder with other weights, {name}, which ours would hide; expected a new "
        f"folder or an earlier result. {BESIDE}"
    )
    assert os.listdir(tmp_path) == [name]
    save_projector(projector, tmp_path, replace=True)
    assert (tmp_path / name).read_text() == "{}"


@pytest.mark.parametrize(
    "name", ["llava-projector.safetensors", "model-00001-of-00002.safetensors"]
)
def test_no_file_of_ours_hides_other_weights(name: str, tmp_path: Path) -> None:
    own, out = tmp_path / "own", tmp_path / "out"
    projector = build_projector("linear", 4, 4)
    save_projector(projector, own)
    out.mkdir()
    save_file(mlp(), out / name)
    (out / ".hidden.safetensors").write_text("mine")
    before = contents(out)
    for write in (lambda: save_projector(projector, out), lambda: convert_checkpoint(own, out)):
        for size in (None, 0):  # an empty file of our name says nothing
            if size is not None:
                (out / "model.safetensors").touch()
            assert refusal(write) == (
                f"{out}: a folder with other weights, {name}, which ours would hide; expected a "
                f"new folder or an earlier result. {BESIDE}"
            )
            (out / "model.safetensors").unlink(missing_ok=True)
    assert contents(out) == before
    assert inspect_checkpoint(out).family == "mlp"  # theirs is still what is read
    save_projector(projector, out, replace=True)
    save_projector(projector, out)  # an earlier result by now
    assert (out / name).read_bytes() == before[name]


def test_nothing_is_written_through_a_link(llava: Path, tmp_path: Path) -> None:
    projector = load_projector(llava)
    blobs, snapshot = hub(llava, tmp_path)
    before, links = contents(blobs), contents(snapshot)
    assert "a link to '../../blobs/hash-of-model.safetensors'; expected a file of its own" in (
        refusal(lambda: save_projector(projector, snapshot))
    )
    file = snapshot / "model.safetensors"
    convert_checkpoint(snapshot, tmp_path / "own")
    assert "a link to" in refusal(lambda: convert_checkpoint(tmp_path / "own", file, to="mlp"))
    assert contents(snapshot) == links
    convert_checkpoint(tmp_path / "own", file, to="mlp", replace=True)
    assert not file.is_symlink()
    save_projector(projector, snapshot, replace=True)
    assert same(load_projector(snapshot), projector)
    assert contents(blobs) == before  # the other revisions' weights


@pytest.mark.parametrize("name", ["mine.safetensors", "mine.pt", "mine.BIN", "mine.onnx"])
def test_a_files_name_is_not_made_a_folder(name: str, tmp_path: Path) -> None:
    projector = build_projector("linear", 4, 4)
    save_projector(projector, tmp_path / "own")
    out = tmp_path / name
    message = (
        f"{out}: the suffix {out.suffix} means another format; expected a folder. Name it 'mine'."
    )
    assert refusal(lambda: save_projector(projector, out)) == message
    if out.suffix == ".safetensors":  # which convert can write
        file = "'mine', or write a file in a layout of upstream's, with to=LAYOUT."
        message = message.replace("'mine'.", file)
    assert refusal(lambda: convert_checkpoint(tmp_path / "own", out)) == message
    assert not out.exists()
    out.mkdir()  # somebody's own
    save_projector(projector, out)
    save_projector(projector, tmp_path / "v1.5-mlp")  # no format's suffix
    assert same(load_projector(out), load_projector(tmp_path / "v1.5-mlp"))


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".json"])
def test_a_suffix_is_never_given_another_formats_contents(suffix: str, tmp_path: Path) -> None:
    save_projector(build_projector("mlp", 4, 4), tmp_path / "own")
    out = tmp_path / f"back{suffix}"
    for replace in (False, True):
        assert refusal(
            lambda: convert_checkpoint(tmp_path / "own", out, to="mlp", replace=replace)  # noqa: B023
        ) == (
            f"{out}: the suffix {suffix} means another format; expected a .safetensors file. Name "
            "it 'back.safetensors'."
        )
    assert not out.exists()


def test_what_is_no_folder_gives_our_error(tmp_path: Path) -> None:
    projector = build_projector("linear", 4, 4)
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "file").write_text("mine")
    for name, what in (("link", "a link to 'nowhere', not there"), ("file", "a file")):
        for replace in (False, True):
            assert (
                refusal(
                    lambda: save_projector(projector, tmp_path / name, replace=replace)  # noqa: B023
                )
                == f"{tmp_path / name}: {what}; expected a folder. Name another."
            )
    os.mkfifo(tmp_path / "model.safetensors")
    assert refusal(lambda: save_projector(projector, tmp_path, replace=True)) == (
        f"{tmp_path / 'model.safetensors'}: not a regular file; expected a file to write. Name "
        "another."
    )
    assert (tmp_path / "file").read_text() == "mine"


LONG = "x" * 300


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (LONG, "File name too long"),
        ("a\0b", "embedded null byte"),
        ("a\ud800b", "'utf-8' codec can't encode character '\\ud800' in position"),
    ],
)
def test_a_name_that_no_system_takes_gives_our_error(
    name: str, reason: str, replace: bool, tmp_path: Path
) -> None:
    projector = build_projector("linear", 4, 4)
    save_projector(projector, tmp_path / "own")
    before = contents(tmp_path)
    out = tmp_path / name
    writes: list[tuple[type[MobileVLMError], Callable[[], object]]] = [
        (CheckpointError, lambda: save_projector(projector, out, replace=replace)),
        (CheckpointError, lambda: convert_checkpoint(tmp_path / "own", out, replace=replace)),
        (
            CheckpointError,
            lambda: convert_checkpoint(
                tmp_path / "own", f"{out}.safetensors", to="linear", replace=replace
            ),
        ),
        (SpecError, lambda: dump_spec(projector.spec, f"{out}.json", replace=replace)),
        (SpecError, lambda: dump_spec(projector.spec, out / "x.json", replace=replace)),
        (ExportError, lambda: export_projector(projector, f"{out}.pt2", replace=replace)),
        (ExportError, lambda: export_projector(projector, out / "x.pt2", replace=replace)),
    ]
    for error, write in writes:
        with pytest.raises(error, match=re.escape(f"cannot be written: {reason}")) as caught:
            write()
        assert caught.value.hint == "Name another."
    assert contents(tmp_path) == before


def test_a_link_to_a_name_that_is_too_long_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "x.json").symlink_to(LONG)
    with pytest.raises(SpecError, match="a link to 'xxx"):
        dump_spec(spec_of("linear", 4, 4), tmp_path / "x.json")
    (tmp_path / "folder").symlink_to(LONG)
    assert "a link to 'xxx" in (
        refusal(lambda: save_projector(build_projector("linear", 4, 4), tmp_path / "folder"))
    )
    dump_spec(spec_of("linear", 4, 4), tmp_path / "x.json", replace=True)
    assert load_spec(tmp_path / "x.json") == spec_of("linear", 4, 4)


# ---------------------------------------------------------------------- temporary files


def test_what_a_writer_leaves_is_no_result(tmp_path: Path) -> None:
    projector = build_projector("mlp", 8, 8)
    save_projector(projector, tmp_path / "own")
    data = (tmp_path / "own" / "model.safetensors").read_bytes()
    for name in (
        f".{os.getpid()}.{threading.get_ident()}.model.safetensors",  # of earlier versions
        f".mobilevlm-{16 * '0'}.tmp",
        ".hidden.safetensors",
    ):
        folder = tmp_path / name.strip(".")
        folder.mkdir()
        (folder / name).write_bytes(data)
        assert "no weights in this folder" in refusal(lambda: load_projector(folder))  # noqa: B023
        (folder / "projector.safetensors").write_bytes(data)
        assert same(load_projector(folder), projector)
        convert_checkpoint(tmp_path / "own", folder, replace=True)
        convert_checkpoint(tmp_path / "own", folder)


def test_a_hidden_pickle_is_not_named(tmp_path: Path) -> None:
    torch.save(mlp(), tmp_path / ".1.2.mm_projector.bin")
    assert "Name the file or" in refusal(lambda: load_projector(tmp_path))
    torch.save(mlp(), tmp_path / "p.bin")
    convert_checkpoint(tmp_path, tmp_path / "own", from_pickle=True)


KILLED = """
import os, signal, sys
from pathlib import Path
from mobilevlm import build_projector, save_projector
def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)
os.replace = kill
save_projector(build_projector("mlp", 8, 8), sys.argv[1])
"""


def test_what_a_killed_writer_left_is_removed_a_day_later(tmp_path: Path) -> None:
    projector = build_projector("mlp", 8, 8)
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", KILLED, str(out)], check=False)
    assert done.returncode == -signal.SIGKILL
    [left] = os.listdir(out)
    assert files._TEMPORARY.fullmatch(left)
    assert "no weights in this folder" in refusal(lambda: load_projector(out))
    save_projector(projector, out)  # its writer may be running
    assert sorted(os.listdir(out)) == [left, "README.md", "config.json", "model.safetensors"]
    os.utime(out / left, (time.time() - 25 * 3600,) * 2)
    save_projector(projector, out)
    assert sorted(os.listdir(out)) == ["README.md", "config.json", "model.safetensors"]


def test_stale_files_are_told_by_their_name_and_age(tmp_path: Path) -> None:
    old = {
        f".mobilevlm-{16 * '1'}.tmp": 48 * 3600,
    }
    kept = {
        f".mobilevlm-{16 * '4'}.tmp": 60,
        ".12345.140000000000000.model.safetensors": 48 * 3600,
        f".mobilevlm-{16 * '4'}.tmp.mine": 48 * 3600,
        ".hidden.safetensors": 48 * 3600,
        "notes.tmp": 48 * 3600,
    }
    now = time.time()
    for name, age in (old | kept).items():
        (tmp_path / name).write_text("mine")
        os.utime(tmp_path / name, (now - age, now - age))
    (tmp_path / f".mobilevlm-{16 * '5'}.tmp").symlink_to("notes.tmp")
    save_projector(build_projector("linear", 4, 4), tmp_path)
    left = {path.name for path in tmp_path.iterdir() if not path.is_symlink()}
    assert left == {*kept, "README.md", "config.json", "model.safetensors"}
    assert (tmp_path / "notes.tmp").read_text() == "mine"


def test_many_writers_leave_one_whole_file(tmp_path: Path) -> None:
    faults: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for _ in range(40):
                files.replace_file(tmp_path / "x", bytes([number]) * 5000)
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert os.listdir(tmp_path) == ["x"]
    data = (tmp_path / "x").read_bytes()
    assert data == data[:1] * 5000


def test_a_name_of_any_length_that_the_system_takes_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250 + ".json")
    dump_spec(spec_of("linear", 1, 1), path)
    assert os.listdir(tmp_path) == [path.name]


# ---------------------------------------------------------------------- readers beside writers


def test_a_reader_beside_a_writer_always_loads(tmp_path: Path) -> None:
    projectors = [build_projector("mlp", 16, width) for width in (8, 24)]
    save_projector(projectors[0], tmp_path)
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            for projector in projectors:
                save_projector(projector, tmp_path)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for index in range(100):
            loaded = load_projector(tmp_path)
            assert any(same(loaded, projector) for projector in projectors)
            if index % 10 == 0:
                assert all(each.finite for each in inspect_values(tmp_path))
    finally:
        done.set()
        writer.join()


def test_header_and_numbers_are_of_one_file(tmp_path: Path) -> None:
    from mobilevlm.checkpoints.weights import Weights

    first, second = (build_projector("mlp", 16, width) for width in (8, 24))
    save_projector(first, tmp_path)
    weights = Weights(tmp_path)
    save_projector(second, tmp_path)
    key = "blocks.0.weight"
    assert torch.equal(dict(weights.read([key]))[key], first.state_dict()[key])
    shards = {"a.safetensors": ["x"], "b.safetensors": ["y", "z"]}
    (tmp_path / "model").mkdir()
    for name, keys in shards.items():
        save_file({each: torch.zeros(3) for each in keys}, tmp_path / "model" / name)
    homes = {each: name for name, keys in shards.items() for each in keys}
    index = tmp_path / "model" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": homes}))
    weights = Weights(tmp_path / "model")
    assert weights.stored("z").shape == (3,)
    files.replace_file(tmp_path / "model" / "b.safetensors", b"something else")
    assert torch.equal(dict(weights.read(["y"]))["y"], torch.zeros(3))


def test_values_are_read_from_the_file_that_was_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_projector(build_projector("mlp", 4, 4), tmp_path)
    opened: list[Path] = []
    original = tensor_file.open_regular

    def count(path: Path) -> Any:
        opened.append(path)
        return original(path)

    monkeypatch.setattr(tensor_file, "open_regular", count)
    assert len(inspect_values(tmp_path)) == 4
    assert len(opened) == 1


# ---------------------------------------------------------------------- full disks

FULL = """
import resource, sys
from pathlib import Path
import mobilevlm as m
folder = Path(sys.argv[1])
big = m.build_projector("mlp", 256, 256)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for write in (
    lambda: m.save_projector(big, folder / "own"),
    lambda: m.save_projector(big, folder / "new"),
    lambda: m.convert_checkpoint(folder / "source", folder / "own"),
    lambda: m.convert_checkpoint(folder / "source", folder / "new"),
    lambda: m.convert_checkpoint(
        folder / "source", folder / "b.safetensors", to="mlp", replace=True
    ),
):
    try:
        write()
    except OSError as error:
        print(type(error).__name__, error.errno)
try:
    m.dump_spec(m.spec_of("c-abstractor", 64, 64), folder / "spec.json")
except m.SpecError as error:
    print(error.__cause__.errno)
"""


def test_a_full_disk_leaves_the_old_whole(tmp_path: Path) -> None:
    import errno

    small = build_projector("mlp", 4, 4)
    save_projector(small, tmp_path / "own")
    save_projector(build_projector("mlp", 128, 128), tmp_path / "source")
    convert_checkpoint(tmp_path / "own", tmp_path / "b.safetensors", to="mlp")
    dump_spec(small.spec, tmp_path / "spec.json")
    before = contents(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], check=True, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == [f"OSError {errno.EFBIG}"] * 5 + [str(errno.EFBIG)]
    assert contents(tmp_path) == before
    assert not (tmp_path / "new").exists()


# ---------------------------------------------------------------------- what is given to be saved


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in state.items()}


@pytest.mark.parametrize("name", ["mlp2x_gelu", "ldpnetv2"])
@pytest.mark.parametrize("drop_in", [False, True])
def test_gathered_tensors_are_saved(name: str, drop_in: bool, tmp_path: Path) -> None:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    config = {"mm_projector_type": name, "mm_hidden_size": 16, "hidden_size": 24}
    projector = build_vision_projector(config) if drop_in else build_projector(name, 16, 24)
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(projector, options=options)
    save_projector(projector, tmp_path / "as-it-is")
    expected = (tmp_path / "as-it-is" / "model.safetensors").read_bytes()
    for parameter in projector.parameters():
        parameter.data = torch.empty(0)
    for prefix in ("", "module.", "_orig_mod.", "module._orig_mod."):
        save_projector(projector, tmp_path / "own", state_dict=prefixed(state, prefix))
        assert (tmp_path / "own" / "model.safetensors").read_bytes() == expected
    key = next(iter(state))
    for given, message in (
        (
            {},
            f"state_dict: {len(state)} tensors missing and 0 left over for its specification"
            + "".join(f"\n  missing  {key} {tuple(state[key].shape)}" for key in [*state][:12])
            + ("\n  ..." if len(state) > 12 else "")
            + ". get_model_state_dict gathers them on the first process only, and gives the others "
            "none: save where torch.distributed.get_rank() is 0.",
        ),
        (
            {**state, "x": state[key]},
            "state_dict: 0 tensors missing and 1 left over for its specification\n"
            f"  extra    x {tuple(state[key].shape)}. "
            "Give what the projector's own state_dict has, and nothing else.",
        ),
        (
            {**state, key: torch.zeros(2, 3)},
            f"{key}: a tensor of (2, 3); expected {tuple(state[key].shape)}",
        ),
        *(
            (wrong, f"state_dict: a {kind}; expected a mapping of keys to tensors")
            for wrong, kind in (
                ([state], "list"),
                ("state.pt", "str"),
                (state[key], "Tensor"),
                ({1: state[key]}, "dict"),
            )
        ),
    ):
        for_it: Any = given
        assert (
            refusal(
                lambda: save_projector(projector, tmp_path / "new", state_dict=for_it)  # noqa: B023
            )
            == message
        )
    assert not (tmp_path / "new").exists()


GATHER = (
    "Gather them on every process, with get_model_state_dict(model, "
    "options=StateDictOptions(full_state_dict=True, cpu_offload=True)) of "
    "torch.distributed.checkpoint.state_dict, and save what the first one gets: "
    "save_projector(projector, folder, state_dict=...)."
)


@pytest.mark.parametrize("name", ["mlp2x_gelu", "ldpnet", "ldpnetv2", "linear"])
@pytest.mark.parametrize("drop_in", [False, True])
def test_empty_parameters_are_refused_with_their_cause(
    name: str, drop_in: bool, tmp_path: Path
) -> None:
    config = {"mm_projector_type": name, "mm_hidden_size": 16, "hidden_size": 24}
    projector = build_vision_projector(config) if drop_in else build_projector(name, 16, 24)
    shapes = {key: tuple(tensor.shape) for key, tensor in projector.state_dict().items()}
    for parameter in projector.parameters():
        parameter.data = torch.empty(0)
    key = next(iter(shapes))
    message = f"{key}: a tensor of (0,); expected {shapes[key]}. "
    layout = {"mlp2x_gelu": "mlp"}.get(name, name)
    for write in (
        lambda: save_projector(projector, tmp_path / "new"),
        lambda: to_upstream(projector, layout),
    ):
        assert refusal(write) == message + GATHER
    for parameter in projector.parameters():
        parameter.ds_id = 0  # DeepSpeed's mark
    assert refusal(lambda: save_projector(projector, tmp_path / "new")) == (
        f"{message}Save inside deepspeed.zero.GatheredParameters(projector.parameters())."
    )
    assert not (tmp_path / "new").exists()


def test_the_parts_of_a_sharded_tensor_are_refused(tmp_path: Path) -> None:
    projector = build_projector("mlp", 16, 24)
    weight = projector.blocks[0].weight
    weight.data = weight.detach().flatten()[:100]  # as FSDP1 leaves it
    assert refusal(lambda: save_projector(projector, tmp_path / "new")) == (
        f"blocks.0.weight: a tensor of (100,); expected (24, 16). {GATHER}"
    )


SHARDED = """
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel
from mobilevlm import CheckpointError, build_projector, load_projector, save_projector

cpu = torch.device("cpu")
for kind in ("ddp", "fsdp1", "fsdp1-flat", "fsdp2"):
    torch.manual_seed(0)
    projector = build_projector("ldpnetv2", 16, 24)
    whole = {key: tensor.clone() for key, tensor in projector.state_dict().items()}
    if kind == "ddp":
        model = DistributedDataParallel(projector)
    elif kind == "fsdp2":
        model = fully_shard(projector, mesh=init_device_mesh("cpu", (2,)))
    else:
        model = FullyShardedDataParallel(
            projector, use_orig_params=kind == "fsdp1", device_id=cpu
        )
    if kind != "ddp":
        try:
            save_projector(model, f"{folder}/refused-{rank}")
        except CheckpointError as error:
            assert "get_model_state_dict(" in error.hint, (kind, str(error))
        else:
            raise AssertionError(kind)
    # torch's FSDP1 crashes when it offloads to the CPU what is there.
    options = StateDictOptions(full_state_dict=True, cpu_offload="fsdp1" not in kind)
    state = get_model_state_dict(model, options=options)
    try:
        save_projector(model, f"{folder}/{kind}-{rank}", state_dict=state)
    except CheckpointError as error:
        assert rank and "get_rank() is 0" in error.hint, (kind, str(error))
        print(kind, "refused")
        continue
    loaded = load_projector(f"{folder}/{kind}-{rank}").state_dict()
    assert loaded.keys() == whole.keys()
    assert all(torch.equal(loaded[key], whole[key]) for key in whole), kind
    print(kind, "saved")
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed")
def test_sharded_projectors_are_refused_and_saved_once_gathered(tmp_path: Path) -> None:
    first, second = run_two(SHARDED, tmp_path)
    kinds = ["ddp", "fsdp1", "fsdp1-flat", "fsdp2"]
    assert first.splitlines() == [f"{kind} saved" for kind in kinds]
    # Whether the others get the tensors as well is torch's to say.
    assert [line.split()[0] for line in second.splitlines()] == kinds
    assert second.endswith("fsdp2 refused\n")
    assert not any(path.name.startswith("refused") for path in tmp_path.iterdir())


class Handing(nn.Module):
    """Hands on what it does not know, among other modules of its own."""

    def __init__(self, original: nn.Module, active: nn.Module) -> None:
        super().__init__()
        self.original, self.active = original, active

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.active, name)


class Scale(nn.Module):
    """Computes something else of the module inside it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = 2 * self.module(x)
        return y


def test_no_other_module_is_taken_for_what_is_inside_it(tmp_path: Path) -> None:
    projector = build_projector("mlp", 16, 24)
    handing = Handing(build_projector("mlp", 16, 24), projector)
    for module, what, name in (
        (Scale(projector), "Scale", "module"),
        (nn.DataParallel(Scale(projector)), "DataParallel", "module.module"),
        (handing, "Handing", "original"),
    ):
        for write in (
            lambda: save_projector(module, tmp_path / "new"),  # noqa: B023
            lambda: to_upstream(module, "mlp"),  # noqa: B023
        ):
            assert refusal(write) == (
                f"projector: a {what}; expected a Projector. Pass the projector inside it: .{name}"
            )
    projector.blocks[0] = Scale(projector.blocks[0])
    assert refusal(lambda: save_projector(projector, tmp_path / "new")) == (
        "projector: 2 tensors missing and 2 left over for its specification\n"
        "  missing  blocks.0.weight (24, 16)\n"
        "  missing  blocks.0.bias (24,)\n"
        "  extra    blocks.0.module.weight (24, 16)\n"
        "  extra    blocks.0.module.bias (24,). "
        "Undo what wraps its layers first: merge adapters, remove parametrizations."
    )
    assert not (tmp_path / "new").exists()


def wrapper(package: str, name: str, base: type[nn.Module], *modules: nn.Module) -> nn.Module:
    """Return a wrapper as a package that is not installed here would make it."""
    return type(name, (base,), {"__module__": f"{package}.some.where"})(*modules)


def test_what_training_wraps_is_unwrapped(tmp_path: Path) -> None:
    projector = build_projector("mlp", 16, 24)
    expected = to_upstream(projector, "mlp")
    wrapped = {
        "parallel": nn.DataParallel(projector),
        "compiled": torch.compile(projector, backend="eager"),
        "both": torch.compile(nn.DataParallel(projector), backend="eager"),
        "averaged": torch.optim.swa_utils.AveragedModel(projector),
        "checkpointed": checkpoint_wrapper(projector),
        "engine": wrapper("deepspeed", "DeepSpeedEngine", Scale, projector),
        "handed": wrapper(
            *("peft", "AuxiliaryTrainingWrapper", Handing),
            *(build_projector("mlp", 16, 24), projector),
        ),
    }
    for name, module in wrapped.items():
        save_projector(module, tmp_path / name)
        assert same(load_projector(tmp_path / name), projector)
        found = to_upstream(module, "mlp")
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
        if name in ("parallel", "compiled", "both", "checkpointed", "engine"):
            save_projector(module, tmp_path / name, state_dict=module.state_dict())
            assert same(load_projector(tmp_path / name), projector)


def test_inner_blocks_that_are_compiled_are_saved(tmp_path: Path) -> None:
    projector = build_projector("mlp", 16, 24)
    save_projector(projector, tmp_path / "a")
    compiled = torch.compile(projector.blocks[0], backend="eager")
    for block in (compiled, torch.compile(nn.DataParallel(compiled), backend="eager")):
        projector.blocks[0] = block
        save_projector(projector, tmp_path / "b")
        assert contents(tmp_path / "a") == contents(tmp_path / "b")


class Named(nn.Module):
    """A layer whose parameters stand under a name that wrappers use too."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.module = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.module(x)
        return y


class NamedBlock(Block):
    """A block of one such layer."""

    needs_grid: ClassVar[bool] = False

    def build(self, x: Feature) -> nn.Module:
        return Named(x.channels)


def test_a_layer_may_have_a_wrappers_name(tmp_path: Path, registries: None) -> None:
    BLOCKS.register("named")(NamedBlock)
    projector = build_projector({"in": 4, "out": 4, "blocks": ["named"]})
    state = projector.state_dict()
    assert list(state) == ["blocks.0.module.weight", "blocks.0.module.bias"]
    for name, prefix in (("a", ""), ("b", "module."), ("c", "module._orig_mod.")):
        save_projector(projector, tmp_path / name, state_dict=prefixed(state, prefix))
        assert same(load_projector(tmp_path / name), projector)
    save_projector(nn.DataParallel(projector), tmp_path / "d")
    assert same(load_projector(tmp_path / "d"), projector)


@pytest.mark.parametrize("first", ["", "module."])
def test_of_two_keys_that_mean_one_tensor_none_is_dropped(first: str, tmp_path: Path) -> None:
    projector = build_projector("linear", 4, 4)
    key = "blocks.0.weight"
    other = {f"module._orig_mod.{key}": torch.zeros(4, 4)}
    state = {**prefixed(projector.state_dict(), first)}
    for given in ({**state, **other}, {**other, **state}):
        assert "0 tensors missing and 1 left over" in (
            refusal(
                lambda: save_projector(projector, tmp_path / "new", state_dict=given)  # noqa: B023
            )
        )


def test_what_is_no_projector_gives_our_error(tmp_path: Path) -> None:
    class Model(nn.Module):
        def __init__(self, projector: Projector) -> None:
            super().__init__()
            self.vision = nn.ModuleDict({"proj": projector})
            self.lm = nn.Linear(2, 2)

    projector = build_projector("linear", 4, 4)
    make = "build_projector and load_projector make one."
    given: list[tuple[Any, str]] = [
        (nn.Linear(3, 3), f"a Linear; expected a Projector. {make}"),
        (nn.DataParallel(nn.Linear(3, 3)), f"a DataParallel; expected a Projector. {make}"),
        (
            Model(projector),
            "a Model; expected a Projector. Pass the projector inside it: .vision.proj",
        ),
        (projector.state_dict(), f"a OrderedDict; expected a Projector. {make}"),
        (projector.spec, f"a Stack; expected a Projector. {make}"),
        ("ldp", f"a str; expected a Projector. {make}"),
        (None, f"a NoneType; expected a Projector. {make}"),
    ]
    for thing, message in given:
        for write in (
            lambda: save_projector(thing, tmp_path / "new"),  # noqa: B023
            lambda: to_upstream(thing, "linear"),  # noqa: B023
        ):
            assert refusal(write) == f"projector: {message}"
    assert os.listdir(tmp_path) == []


def test_unmerged_adapters_of_a_drop_in_are_named_as_such(tmp_path: Path) -> None:
    config = {"mm_projector_type": "mlp2x_gelu", "mm_hidden_size": 16, "hidden_size": 24}
    projector = build_vision_projector(config)
    layer = projector.get_submodule("0")
    adapter = nn.Module()
    adapter.base_layer, adapter.lora_A = layer, nn.Linear(16, 2, bias=False)
    projector.set_submodule("0", adapter)
    assert refusal(lambda: save_projector(projector, tmp_path / "new")) == (
        "projector: 2 tensors missing and 3 left over for its specification\n"
        "  missing  0.weight (24, 16)\n"
        "  missing  0.bias (24,)\n"
        "  extra    0.base_layer.weight (24, 16)\n"
        "  extra    0.base_layer.bias (24,)\n"
        "  extra    0.lora_A.weight (2, 16). Undo what wraps its layers first: merge adapters, "
        "remove parametrizations."
    )


def test_what_stands_beside_the_blocks_is_not_lost_in_silence(tmp_path: Path) -> None:
    projector = build_projector("linear", 4, 4)
    projector.newline = nn.Parameter(torch.zeros(4))
    assert "1 left over for its specification\n  extra    newline (4,)" in (
        refusal(lambda: save_projector(projector, tmp_path / "new"))
    )


# ---------------------------------------------------------------------- dtypes and devices


@pytest.mark.parametrize(
    ("stored", "asked", "value"),
    [
        (torch.bfloat16, torch.float16, 1e5),
        (torch.float32, torch.float16, -70_000.0),
        (torch.float64, torch.float32, 1e39),
        (torch.float64, torch.bfloat16, 1e39),
    ],
)
def test_a_dtype_that_makes_infinities_is_refused(
    stored: torch.dtype, asked: torch.dtype, value: float, tmp_path: Path
) -> None:
    projector = build_projector("mlp", 4, 4, dtype=stored)
    with torch.no_grad():
        projector.blocks[0].weight[1, 2] = value
    save_projector(projector, tmp_path)
    message = f"{tmp_path}['blocks.0.weight']: values that {asked} cannot hold. Take a wider dtype."
    for check_values in (False, True):
        assert (
            refusal(
                lambda: load_projector(tmp_path, dtype=asked, check_values=check_values)  # noqa: B023
            )
            == message
        )
    assert refusal(lambda: convert_checkpoint(tmp_path, tmp_path / "out", dtype=asked)) == message
    assert same(load_projector(tmp_path), projector)


def test_infinities_that_are_stored_stay_what_check_values_finds(tmp_path: Path) -> None:
    projector = build_projector("mlp", 4, 4)
    with torch.no_grad():
        projector.blocks[0].weight[1, 2] = torch.inf
    save_projector(projector, tmp_path)
    loaded = load_projector(tmp_path, dtype=torch.float16)
    assert loaded.blocks[0].weight[1, 2].isinf()
    with pytest.raises(CheckpointError, match="NaN or infinite values"):
        load_projector(tmp_path, dtype=torch.float16, check_values=True)


@pytest.mark.parametrize("device", ["cuda", "cuda:99", "xpu", "nowhere", "mps"])
def test_a_device_that_is_not_there_gives_our_error(device: str, tmp_path: Path) -> None:
    from mobilevlm import SpecError

    try:
        torch.empty(0, device=device)
    except Exception:
        pass
    else:
        pytest.skip(f"this machine has {device}")
    save_projector(build_projector("linear", 4, 4), tmp_path)
    for call in (
        lambda: load_projector(tmp_path, device=device),
        lambda: build_projector("linear", 4, 4, device=device),
    ):
        with pytest.raises(SpecError) as caught:
            call()
        text = str(caught.value)
        assert text.startswith(f"device: '{device}' cannot be used: ")
        assert text.endswith("; expected a device that this torch has here. Try device='cpu'.")
        assert "\n" not in text


def test_what_a_device_says_is_fit_to_print(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("\n\x1b[31m" + "x" * 1000)

    monkeypatch.setattr(torch, "empty", fail)
    with pytest.raises(SpecError) as caught:
        check_device("cpu")
    found = caught.value.found
    assert found.startswith(r"'cpu' cannot be used: \x1b[31mxxx")
    assert len(found) < 350


def open_files(folder: Path) -> list[str]:
    """The files of a folder that this process holds open, one for each descriptor."""
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    targets = [os.readlink(link) for link in links if os.path.islink(link)]
    return [target for target in targets if target.startswith(str(folder))]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files cannot be seen here")
def test_loading_needs_no_write_access_and_closes_its_files(tmp_path: Path) -> None:
    save_projector(build_projector("linear", 4, 4), tmp_path)
    (tmp_path / "bad.safetensors").write_bytes(b"x" * 40)
    with open(tmp_path / "bad.safetensors"):
        assert open_files(tmp_path)
    kept: list[Any] = []
    for _ in range(5):
        kept += [load_file(tmp_path / "model.safetensors"), inspect_checkpoint(tmp_path)]
        with pytest.raises(CheckpointError) as caught:
            inspect_checkpoint(tmp_path / "bad.safetensors")
        kept.append(caught)
    assert open_files(tmp_path) == []
