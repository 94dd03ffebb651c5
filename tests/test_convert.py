"""Converting: pickles looked into without running them, results whole or not at all, values."""

import io
import json
import os
import pickle
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_checkpoints import GOLDEN, PREFIXES, header, hf_mlp, mlp, same
from torch import Tensor, nn

from mobilevlm import (
    CheckpointError,
    build_projector,
    convert_checkpoint,
    load_projector,
    to_upstream,
)
from mobilevlm.checkpoints.pickle_file import PickleFile
from mobilevlm.checkpoints.tensor_file import TensorFile

STATE_DICT = "Save the state dict alone, with torch.save, where the file was made."
CUT = "It is cut off or damaged: download or save it again."
AGAIN = "Save it again with torch.save."


def refusal(path: Path, **arguments: Any) -> str:
    """Return the message without the folder; nothing is written."""
    out = path.parent / "refused"
    with pytest.raises(CheckpointError) as caught:
        convert_checkpoint(path, out, from_pickle=True, **arguments)
    assert not out.exists()
    return str(caught.value).replace(f"{path}/", "").replace(str(path), "X")


# ---------------------------------------------------------------------- pickles of real training


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("name", ["linear", "mlp2x-gelu", "mlp3x-gelu"])
def test_llavas_pickles(name: str, prefix: str, tmp_path: Path) -> None:
    projector = build_projector(name, 16, 24)
    state = to_upstream(projector, "linear" if name == "linear" else "mlp")
    path = tmp_path / "mm_projector.bin"
    torch.save({f"{prefix}{key}".replace("..", "."): each for key, each in state.items()}, path)
    found = convert_checkpoint(path, tmp_path / "out", from_pickle=True)
    assert found.spec == projector.spec
    assert same(load_projector(tmp_path / "out"), projector)
    # The whole folder, as LLaVA's pre-training leaves it.
    (tmp_path / "config.json").write_text('{"model_type": "llava_llama"}')
    convert_checkpoint(tmp_path, tmp_path / "again", from_pickle=True)
    for file in ("model.safetensors", "config.json"):
        one, other = (tmp_path / out / file for out in ("out", "again"))
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("prefix", ["model.mm_projector.", "base_model.model.model.mm_projector."])
@pytest.mark.parametrize(
    ("name", "inner"), [("ldpnet", "model."), ("ldpnetv2", ""), ("mlp2x_res2x_gelu", "")]
)
def test_mobilevlms_pickles(name: str, inner: str, prefix: str, tmp_path: Path) -> None:
    vectors = load_file(GOLDEN / f"{name}.safetensors")
    state = {f"{prefix}{inner}{k[2:]}": each for k, each in vectors.items() if k[:2] == "w."}
    torch.save(OrderedDict(state), tmp_path / "non_lora_trainables.bin")
    convert_checkpoint(tmp_path, tmp_path / "out", from_pickle=True)
    projector = load_projector(tmp_path / "out")
    for scale, y in ((1.0, "y"), (1e-3, "y_small")):
        with torch.inference_mode():
            ours = projector(scale * vectors["x"])
        assert (ours - vectors[y]).abs().max() / vectors[y].abs().max() < 1e-5


def test_whole_models_in_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = {f"language_model.{n}.weight": torch.zeros(9, 9) for n in range(4)}
    state = {**others, **hf_mlp()}
    config = {"model_type": "llava", "projector_hidden_act": "quick_gelu"}
    for folder in ("whole", "shards"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(json.dumps(config))
        torch.save({"lr": 0.1}, tmp_path / folder / "training_args.bin")
    torch.save(state, tmp_path / "whole" / "pytorch_model.bin")
    homes = {key: f"pytorch_model-{i % 3}.bin" for i, key in enumerate(state)}
    for name in set(homes.values()):
        shard = {key: state[key] for key, home in homes.items() if home == name}
        torch.save(shard, tmp_path / "shards" / name)
    index = tmp_path / "shards" / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": homes}))
    read: list[int] = []
    tensor = TensorFile._tensor

    def spy(self: TensorFile, file: Any, stored: Any, changed: bool) -> Tensor:
        read.append(stored.nbytes)
        return tensor(self, file, stored, changed)

    monkeypatch.setattr(TensorFile, "_tensor", spy)
    for folder in ("whole", "shards"):
        read.clear()
        found = convert_checkpoint(tmp_path / folder, tmp_path / f"{folder}-out", from_pickle=True)
        assert (found.family, found.left, found.dtype) == ("mlp", 4, torch.float32)
        assert sum(read) == sum(each.nbytes for each in hf_mlp().values())
        loaded = to_upstream(load_projector(tmp_path / f"{folder}-out"), "llava")
        for key, each in hf_mlp().items():
            assert loaded[key.removeprefix("multi_modal_projector.")].shape == each.shape
            assert torch.equal(loaded[key.removeprefix("multi_modal_projector.")], state[key])
    index.write_text(json.dumps({"weight_map": {**homes, "a": "../evil.bin"}}))
    assert refusal(tmp_path / "shards") == (
        "pytorch_model.bin.index.json: shard '../evil.bin' is no plain file name. Shards stand "
        "beside their index."
    )


def views() -> dict[str, Tensor]:
    """The MLP in tensors that are parts or turns of others, as careless code saves them."""
    state = mlp()
    big = torch.randn(3, 24, 24)
    big[1] = state["mm_projector.2.weight"]
    both = torch.cat([state["mm_projector.0.bias"], state["mm_projector.2.bias"]])
    return {
        "mm_projector.0.weight": state["mm_projector.0.weight"].t().contiguous().t(),
        "mm_projector.0.bias": both[:24],
        "mm_projector.2.weight": nn.Parameter(big[1]),
        "mm_projector.2.bias": both[24:],
    }


def test_views_are_read_as_what_they_show(tmp_path: Path) -> None:
    torch.save(views(), tmp_path / "x.pt")
    torch.save(mlp(), tmp_path / "y.pt")
    file = PickleFile(tmp_path / "x.pt")
    assert file.tensors["mm_projector.0.weight"].strides == (1, 24)
    for key, tensor in file.read(file.tensors).items():
        assert tensor.is_contiguous()
        assert torch.equal(tensor, mlp()[key])
    for name in ("x", "y"):
        convert_checkpoint(tmp_path / f"{name}.pt", tmp_path / name, from_pickle=True)
    assert same(load_projector(tmp_path / "x"), load_projector(tmp_path / "y"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes_are_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {key: tensor.to(dtype) for key, tensor in mlp().items()}
    torch.save(state, tmp_path / "x.bin")
    assert convert_checkpoint(tmp_path / "x.bin", tmp_path / "x", from_pickle=True).dtype == dtype
    loaded = to_upstream(load_projector(tmp_path / "x"), "mlp")
    assert all(torch.equal(loaded[key[13:]], each) for key, each in state.items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3, "hyper_parameters": {"lr": 0.1}},
        lambda state: {"model": OrderedDict(state), "optimizer": {"state": {0: {"step": 1}}}},
        lambda state: {"module": state, "none": None, "list": [1, "a", 2.5, True], 7: (1, 2)},
    ],
)
def test_the_only_dict_of_tensors_inside(wrap: Callable[[Any], Any], tmp_path: Path) -> None:
    torch.save(wrap(mlp()), tmp_path / "x.ckpt")
    assert list(PickleFile(tmp_path / "x.ckpt").tensors) == list(mlp())


def test_methods_are_not_to_be_hidden(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(archive(pickled(shadowed()), ("data/0", bytes(16))))
    assert list(PickleFile(tmp_path / "x.bin").tensors) == ["k"]


def test_what_else_a_file_holds_may_be_of_any_kind(tmp_path: Path) -> None:
    others = {
        "int": torch.zeros(3, dtype=torch.int64),
        "bool": torch.zeros(3, dtype=torch.bool),
        "fp8": torch.zeros(3).to(torch.float8_e4m3fn),
        "uint16": torch.zeros(3, dtype=torch.uint16),
        "complex": torch.zeros(3, dtype=torch.complex64).conj(),
        "expanded": torch.zeros(1).expand(10, 10),
        "scalar": torch.tensor(1.0),
        "empty": torch.zeros(0, 3),
        "x" * 3_000: torch.zeros(1),
    }
    torch.save({**others, **mlp()}, tmp_path / "x.bin")
    found = convert_checkpoint(tmp_path / "x.bin", tmp_path / "out", from_pickle=True)
    assert (found.family, found.left) == ("mlp", 9)


# ---------------------------------------------------------------------- hostile and broken pickles


class Storage:
    """What a pickle calls a storage."""

    def __init__(self, numel: Any, key: str = "0", kind: Any = torch.FloatStorage) -> None:
        self.id = ("storage", kind, key, "cpu", numel)


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.reduced


class Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return value.id if isinstance(value, Storage) else None


def pickled(value: Any, protocol: int = 2) -> bytes:
    buffer = io.BytesIO()
    Pickler(buffer, protocol).dump(value)
    return buffer.getvalue()


def tensor(size: Any, stride: Any, numel: Any, offset: Any = 0, hooks: Any = None) -> Call:
    rebuild = torch._utils._rebuild_tensor_v2
    return Call(rebuild, Storage(numel), offset, size, stride, False, hooks or OrderedDict())


def archive(data: bytes, *more: tuple[str, bytes], root: str = "x", **options: Any) -> bytes:
    """Write an archive as torch.save does, of any pickle and any members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as file:
        for name, content in (("data.pkl", data), ("version", b"3\n"), *more):
            file.writestr(f"{root}/{name}", content)
    return buffer.getvalue()


def one(value: Any, nbytes: int = 16) -> bytes:
    """An archive of one key, and of one storage."""
    return archive(pickled({"k": value}), ("data/0", bytes(nbytes)))


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def rewritten(data: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return buffer.getvalue()


def twice() -> bytes:
    buffer = io.BytesIO()
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(buffer, "w") as file:
        for name in ("data.pkl", "data/0", "data/0"):
            file.writestr(f"x/{name}", b"")
    return buffer.getvalue()


def edited_directory(change: Callable[[bytearray, int], None]) -> bytes:
    """Change the directory's entry of `data/0`, which is the last one."""
    data = bytearray(one(tensor((4,), (1,), 4)))
    change(data, data.rindex(b"PK\x01\x02"))
    return bytes(data)


def put(at: int, value: bytes) -> Callable[[bytearray, int], None]:
    def change(data: bytearray, entry: int) -> None:
        data[entry + at : entry + at + len(value)] = value

    return change


def shadowed() -> Any:
    """An OrderedDict whose attributes hide its methods."""
    items = [["k", tensor((4,), (1,), 4)]]
    return Call(OrderedDict, items, state={"items": 1, "values": 2, "__class__": 3})


REFUSES = (
    f"X: torch's restricted loader refuses it; expected nothing but tensors by name. {STATE_DICT}"
)
OLD = (
    "X: a pickle without an archive, as torch before 1.6 and other tools write it; expected an "
    "archive of torch.save. Load it with torch.load(PATH, weights_only=True) and save it again "
    "with torch.save."
)
ELSE = f"X: a zip archive of something else; expected an archive of torch.save. {AGAIN}"
DIRECTORY = f"X: its zip directory is missing or damaged. {CUT}"
RUN = "touch /tmp/mobilevlm-was-run"


def asks(name: str) -> str:
    return f"X: it asks for '{name}', which is no tensor; expected tensors by name. {STATE_DICT}"


def told(name: str, *hint: str) -> str:
    return f"X: {name}; expected tensors by name. {STATE_DICT}"


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    # Code.
    "os.system": (lambda: one(Call(os.system, RUN)), asks("posix.system")),
    "eval": (lambda: one(Call(eval, "1")), asks("__builtin__.eval")),
    "getattr": (lambda: one(Call(getattr, 1, "real")), asks("__builtin__.getattr")),
    "os.system as a key": (
        lambda: archive(pickled({Call(os.system, RUN): 1})),
        asks("posix.system"),
    ),
    "os.system in an unused value": (
        lambda: archive(pickled({"state_dict": mlp, "x": Call(os.system, RUN)}, 2)),
        asks("test_checkpoints.mlp"),
    ),
    "protocol 4": (lambda: archive(pickled({"k": Call(os.system, RUN)}, 4)), REFUSES),
    "module": (
        lambda: saved(nn.Linear(2, 2)),
        asks("torch.nn.modules.linear.Linear"),
    ),
    "numpy": (
        lambda: saved({"k": np.zeros(3)}),
        asks("numpy._core.multiarray._reconstruct"),
    ),
    "torchscript": (
        lambda: archive(b"", ("constants.pkl", b""), ("code/x.py", b"")),
        f"X: a TorchScript archive, which is code. {STATE_DICT}",
    ),
    # Other files.
    "legacy": (lambda: saved(mlp(), _use_new_zipfile_serialization=False), OLD),
    "raw pickle": (lambda: pickle.dumps({"k": 1}), OLD),
    "numpy's pickle": (lambda: pickle.dumps(np.zeros(3), 4), OLD),
    "legacy tar": (lambda: bytes(257) + b"ustar" + bytes(250), OLD),
    "npz": (lambda: rewritten(npz()), ELSE),
    "safetensors": (
        lambda: header("{}"),
        "X: a safetensors file; expected an archive of torch.save. Leave out --from-pickle.",
    ),
    "git-lfs": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n",
        "X: a git-lfs pointer, not the file itself. Run: git lfs pull",
    ),
    "html": (
        lambda: b"<html>404</html>",
        "X: a web page, not a checkpoint. Download the file itself.",
    ),
    "gguf": (
        lambda: b"GGUF\x03",
        "X: a GGUF file; expected an archive of torch.save. Use the model it was converted from.",
    ),
    "empty": (bytes, f"X: no pickle of PyTorch's; expected an archive of torch.save. {CUT}"),
    # Archives.
    "truncated": (lambda: saved(mlp())[:-9], DIRECTORY),
    "only its start": (lambda: saved(mlp())[:200], DIRECTORY),
    "its middle missing": (
        lambda: one(tensor((4,), (1,), 4)).replace(b"version3\n", b""),
        f"X['x/data.pkl']: not where the zip directory says. {CUT}",
    ),
    "compressed": (
        lambda: rewritten(saved({"k": torch.zeros(1000)}), zipfile.ZIP_DEFLATED),
        f"X['archive/data.pkl']: compressed, which torch.save never does. Unpack it. {AGAIN}",
    ),
    "encrypted": (
        lambda: edited_directory(put(8, b"\x01")),
        f"X['x/data/0']: encrypted, which torch.save never does. Unpack it. {AGAIN}",
    ),
    "twice": (twice, f"X['x/data/0']: there twice. {AGAIN}"),
    "two roots": (
        lambda: archive(pickled({}), ("../y/data/0", b"")).replace(b"x/../y", b"yy/zzz"),
        f"X: more than one archive in one file. {AGAIN}",
    ),
    "outside": (
        lambda: archive(pickled({}), ("../../etc/passwd", b"")),
        f"X['x/../../etc/passwd']: no name for a member of an archive. {AGAIN}",
    ),
    "newline": (
        lambda: archive(pickled({}), ("data/\n", b"")),
        f"X['x/data/\\n']: no name for a member of an archive. {AGAIN}",
    ),
    "nowhere": (
        lambda: edited_directory(put(42, b"\xff\xff\xff\x7f")),
        f"X['x/data/0']: not where the zip directory says. {CUT}",
    ),
    "overlapping": (
        lambda: edited_directory(put(42, bytes(4))),
        f"X: its members overlap at byte 0. {CUT}",
    ),
    "a bomb of one member": (
        lambda: edited_directory(put(20, b"\xff\xff\xff\x7f\xff\xff\xff\x7f")),
        f"X: its members end beyond the file at byte 243. {CUT}",
    ),
    "big-endian": (
        lambda: archive(pickled({}), ("byteorder", b"big")),
        "X: its numbers are big-endian. Save it on a little-endian machine.",
    ),
    # Pickles.
    "large": (
        lambda: archive(pickled({"k": "a" * 10_000_000})),
        "X: a pickle of 10,000,022 bytes beside the tensors' own; expected at most 10,000,000. "
        + STATE_DICT,
    ),
    "cut off": (lambda: archive(pickled({"k": 1})[:-4]), f"X: its pickle is damaged. {CUT}"),
    "unknown opcode": (lambda: archive(b"\x80\x02\xff."), f"X: its pickle is damaged. {CUT}"),
    "unknown memo": (lambda: archive(b"\x80\x02h\x07."), f"X: its pickle is damaged. {CUT}"),
    "empty stack": (lambda: archive(b"\x80\x02ss."), REFUSES),
    "a hash without end": (
        lambda: archive(b"\x80\x02})" + b"q\x00h\x00\x86" * 60 + b"K\x01s."),
        told("a tuple of more than 1,000 values in its pickle"),
    ),
    "a hash too deep": (
        lambda: archive(b"\x80\x02})" + b"\x85" * 1_000_000 + b"K\x01s."),
        told("a tuple of more than 1,000 values in its pickle"),
    ),
    "allocation": (
        lambda: one(Call(torch.FloatTensor, 1 << 40)),
        asks("torch.FloatTensor"),
    ),
    "bytearray": (lambda: one(Call(bytearray, 1 << 40)), asks("__builtin__.bytearray")),
    # What comes out.
    "a list": (lambda: saved([torch.zeros(3)]), told("a pickled list without tensors")),
    "a tensor": (lambda: saved(torch.zeros(3)), told("a pickled Tensor without tensors")),
    "no tensors": (lambda: saved({"a": 1}), told("a pickled dict without tensors")),
    "an empty dict": (lambda: saved({}), told("a pickled dict without tensors")),
    "not only tensors": (
        lambda: saved({**mlp(), "epoch": 3}),
        f"X['epoch']: of type int; expected a tensor. {STATE_DICT}",
    ),
    "not only tensors inside": (
        lambda: saved({"model": {**mlp(), "epoch": [3]}}),
        f"X['model']['epoch']: of type list; expected a tensor. {STATE_DICT}",
    ),
    "a number as a key": (
        lambda: saved({**mlp(), 7: torch.zeros(3)}),
        told("a key that is no text but of type int"),
    ),
    "a tuple as a key": (
        lambda: saved({**mlp(), (1, "a"): torch.zeros(3)}),
        told("a key that is no text but of type tuple"),
    ),
    "two dicts": (
        lambda: saved({"model": mlp(), "ema": mlp()}),
        f"X: more than one dict of tensors: 'model', 'ema'; expected one. {STATE_DICT}",
    ),
    # Tensors that lie.
    "longer than its storage": (
        lambda: one(tensor((8,), (1,), 8)),
        f"X['k']: it needs 32 bytes, the archive has 16 for it. {CUT}",
    ),
    "longer than it says": (
        lambda: one(tensor((8,), (1,), 4)),
        f"X['k']: it needs 32 bytes, the archive has 16 for it. {CUT}",
    ),
    "shorter than its storage": (
        lambda: one(tensor((2,), (1,), 2)),
        f"X['k']: it needs 8 bytes, the archive has 16 for it. {CUT}",
    ),
    "huge": (
        lambda: one(tensor((100_000, 100_000), (100_000, 1), 10**10)),
        f"X['k']: it needs 40,000,000,000 bytes, the archive has 16 for it. {CUT}",
    ),
    "too huge": (lambda: one(tensor((1 << 40, 1 << 40), (1, 1), 4)), REFUSES),
    "a negative size": (lambda: one(tensor((-1,), (1,), 4)), REFUSES),
    "a negative storage": (
        lambda: one(tensor((0,), (1,), -4)),
        f"X['k']: it needs -16 bytes, the archive has 16 for it. {CUT}",
    ),
    "a far offset": (
        lambda: one(tensor((2,), (1,), 4, offset=1 << 62)),
        f"X['k']: it ends at byte 18,446,744,073,709,551,624 of its storage's 16. {AGAIN}",
    ),
    "text for a size": (lambda: one(tensor("ab", (1,), 4)), REFUSES),
    "a storage that is not there": (
        lambda: archive(pickled({"k": tensor((4,), (1,), 4)})),
        REFUSES,
    ),
    "a storage of its own": (
        lambda: of_storage(b""),
        f"X['k']: a tensor of no storage in the archive. {AGAIN}",
    ),
    "a storage of its own that says where it is": (
        lambda: of_storage(b"}" + part("_checkpoint_offset") + b"]sb"),
        f"X['k']: a tensor of no storage in the archive. {AGAIN}",
    ),
}


def part(value: Any) -> bytes:
    return pickled(value)[2:-1]


def of_storage(more: bytes) -> bytes:
    """An archive of a tensor whose storage is made by the pickle, and treated further."""
    own = b"}" + part("_untyped_storage") + part(Call(torch.UntypedStorage, 16)) + more + b"sb"
    data = b"\x80\x02}" + part("k") + b"ctorch._utils\n_rebuild_tensor_v2\n(" + part(Storage(4))
    data += own + b"K\x00K\x04\x85K\x01\x85\x89" + part(OrderedDict()) + b"tRs."
    return archive(data, ("data/0", bytes(16)))


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(3))
    return buffer.getvalue()


@pytest.mark.parametrize("name", HOSTILE)
def test_pickles_that_are_refused(name: str, tmp_path: Path) -> None:
    make, message = HOSTILE[name]
    (tmp_path / "x.bin").write_bytes(make())
    start = time.perf_counter()
    assert refusal(tmp_path / "x.bin") == message
    assert time.perf_counter() - start < 10
    assert not Path(RUN.split()[1]).exists()
