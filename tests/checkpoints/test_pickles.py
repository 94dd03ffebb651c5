"""Pickles: looked into without running them, hostile and broken ones too."""

import argparse
import errno
import io
import json
import os
import pickle
import subprocess
import sys
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.checkpoints import PREFIXES, header, hf_mlp, mlp, same
from helpers.checkpoints import pickle_refusal as refusal
from helpers.golden import GOLDEN
from helpers.pickles import EVAL, RUN, Call
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mobilevlm import (
    CheckpointError,
    build_projector,
    convert_checkpoint,
    load_projector,
    to_upstream,
)
from mobilevlm.checkpoints.formats import torch_pickle
from mobilevlm.checkpoints.formats.tensor_file import TensorFile
from mobilevlm.checkpoints.formats.torch_pickle import PickleFile

STATE_DICT = "Save the state dict alone, with torch.save, where the file was made."
CUT = "It is cut off or damaged: download or save it again."
AGAIN = "Save it again with torch.save."


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

    def spy(self: TensorFile, stored: Any) -> Tensor:
        read.append(stored.nbytes)
        return tensor(self, stored)

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
        "pytorch_model.bin.index.json: shard '../evil.bin' is not a plain file name. Shards stand "
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
    assert {stored.fault for stored in file.tensors.values()} == {""}
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
        # A tuple counts as what it holds, its lists as one each.
        lambda state: {"model": state, "seen": tuple([each, each] for each in range(999))},
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

    def __init__(self, numel: Any, place: str = "cpu") -> None:
        self.id = ("storage", torch.FloatStorage, "0", place, numel)


class Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return value.id if isinstance(value, Storage) else None


def pickled(value: Any, protocol: int = 2) -> bytes:
    buffer = io.BytesIO()
    Pickler(buffer, protocol).dump(value)
    return buffer.getvalue()


def tensor(size: Any, stride: Any, numel: Any, offset: Any = 0, place: str = "cpu") -> Call:
    rebuild = torch._utils._rebuild_tensor_v2
    return Call(rebuild, Storage(numel, place), offset, size, stride, False, OrderedDict())


def archive(data: bytes, *more: tuple[str, bytes]) -> bytes:
    """Write an archive as torch.save does, of any pickle and any members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in (("data.pkl", data), ("version", b"3\n"), *more):
            file.writestr(f"x/{name}", content)
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
    with zipfile.ZipFile(buffer, "w") as file:
        for name in ("data.pkl", "data/0", "data/1"):
            file.writestr(f"x/{name}", b"")
    return buffer.getvalue().replace(b"data/1", b"data/0")


def edited_directory(change: Callable[[bytearray, int], None]) -> bytes:
    """Change the directory's entry of `data/0`, which is the last one."""
    data = bytearray(one(tensor((4,), (1,), 4)))
    change(data, data.rindex(b"PK\x01\x02"))
    return bytes(data)


def put(at: int, value: bytes) -> Callable[[bytearray, int], None]:
    def change(data: bytearray, entry: int) -> None:
        data[entry + at : entry + at + len(value)] = value

    return change


def at_the_end() -> bytes:
    """An archive whose last bytes begin a member, as its directory says of `data/0`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("x/data.pkl", pickled({}))
        file.writestr("x/data/0", b"")
        file.comment = b"PK\x03\x04"
    data = bytearray(buffer.getvalue())
    put(42, (len(data) - 4).to_bytes(4, "little"))(data, data.rindex(b"PK\x01\x02"))
    return bytes(data)


def shadowed() -> Any:
    """An OrderedDict whose attributes hide its methods."""
    items = [["k", tensor((4,), (1,), 4)]]
    return Call(OrderedDict, items, state={"items": 1, "values": 2, "__class__": 3})


REFUSES = "X: torch's restricted loader refuses it; expected nothing but tensors by name. "
REFUSES += STATE_DICT
OLD = (
    "X: a pickle without an archive, as torch before 1.6 and other tools write it; expected an "
    "archive of torch.save. Load it with torch.load(PATH, weights_only=True) and save it again "
    "with torch.save."
)
ELSE = f"X: a zip archive of something else; expected an archive of torch.save. {AGAIN}"
DIRECTORY = f"X: its zip directory is missing or damaged. {CUT}"


def asks(name: str) -> str:
    return told(f"it asks for '{name}', which is not a tensor")


def told(name: str) -> str:
    return f"X: {name}; expected tensors by name. {STATE_DICT}"


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    # Code.
    "os.system": (lambda: one(Call(os.system, RUN)), asks("posix.system")),
    "eval": (lambda: one(Call(eval, EVAL)), asks("__builtin__.eval")),
    "getattr": (lambda: one(Call(getattr, 1, "real")), asks("__builtin__.getattr")),
    "os.system as a key": (
        lambda: archive(pickled({Call(os.system, RUN): 1})),
        asks("posix.system"),
    ),
    "os.system in an unused value": (
        lambda: archive(pickled({"state_dict": mlp, "x": Call(os.system, RUN)}, 2)),
        asks("helpers.checkpoints.mlp"),
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
        "X: a safetensors file; expected an archive of torch.save. Leave out from_pickle=True.",
    ),
    "git-lfs": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n",
        "X: a git-lfs pointer; expected an archive of torch.save. Run: git lfs pull",
    ),
    "html": (
        lambda: b"<html>404</html>",
        "X: a web page; expected an archive of torch.save. Download the file itself.",
    ),
    "gguf": (
        lambda: b"GGUF\x03",
        "X: a GGUF file; expected an archive of torch.save. Use the model it was converted from.",
    ),
    "empty": (bytes, f"X: not a pickle of PyTorch; expected an archive of torch.save. {CUT}"),
    # Archives.
    "truncated": (lambda: saved(mlp())[:-9], DIRECTORY),
    "only its start": (lambda: saved(mlp())[:200], DIRECTORY),
    "its middle missing": (
        lambda: one(tensor((4,), (1,), 4)).replace(b"version3\n", b""),
        f"X['x/data.pkl']: not where the zip directory says. {CUT}",
    ),
    "compressed": (
        lambda: rewritten(saved({"k": torch.zeros(1000)}), zipfile.ZIP_DEFLATED),
        "X['archive/data.pkl']: compressed or encrypted, which torch.save never does. Unpack it. "
        f"{AGAIN}",
    ),
    "encrypted": (
        lambda: edited_directory(put(8, b"\x01")),
        f"X['x/data/0']: compressed or encrypted, which torch.save never does. Unpack it. {AGAIN}",
    ),
    "twice": (twice, f"X['x/data/0']: there twice. {AGAIN}"),
    "two roots": (
        lambda: archive(pickled({}), ("../y/data/0", b"")).replace(b"x/../y", b"yy/zzz"),
        f"X: more than one archive in one file. {AGAIN}",
    ),
    "outside": (
        lambda: archive(pickled({}), ("../../etc/passwd", b"")),
        f"X['x/../../etc/passwd']: a member's name that torch.save never writes. {AGAIN}",
    ),
    "nameless": (
        lambda: archive(pickled({}), ("data//0", b"")),
        f"X['x/data//0']: a member's name that torch.save never writes. {AGAIN}",
    ),
    "here": (
        lambda: archive(pickled({}), ("./data/0", b"")),
        f"X['x/./data/0']: a member's name that torch.save never writes. {AGAIN}",
    ),
    "newline": (
        lambda: archive(pickled({}), ("data/\n", b"")),
        f"X['x/data/\\n']: a member's name that torch.save never writes. {AGAIN}",
    ),
    "nowhere": (
        lambda: edited_directory(put(42, b"\xff\xff\xff\x7f")),
        f"X['x/data/0']: not where the zip directory says. {CUT}",
    ),
    "elsewhere": (
        lambda: edited_directory(put(42, b"\x01\x00\x00\x00")),
        f"X['x/data/0']: not where the zip directory says. {CUT}",
    ),
    "at the very end": (
        at_the_end,
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
    "a member up to the very end": (
        lambda: edited_directory(put(20, (203).to_bytes(4, "little") * 2)),
        f"X['k']: it needs 16 bytes, the archive has 203 for it. {CUT}",
    ),
    "big-endian": (
        lambda: archive(pickled({}), ("byteorder", b"big")),
        "X: its numbers are big-endian. Save it on a little-endian machine.",
    ),
    # Pickles.
    "large": (
        lambda: archive(pickled({"k": "a" * 10_000_000})),
        "X: a pickle of 10,000,022 bytes, without the tensors' own; expected at most 10,000,000. "
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
    "a hash without end, remembered second": (
        lambda: archive(b"\x80\x02})q\x00" + b"q\x01h\x01\x86" * 60 + b"K\x01s."),
        told("a tuple of more than 1,000 values in its pickle"),
    ),
    "a hash without end, remembered late": (
        lambda: archive(
            b"\x80\x02})q\x00" + b"r\x00\x01\x00\x00j\x00\x01\x00\x00\x86" * 60 + b"K\x01s."
        ),
        told("a tuple of more than 1,000 values in its pickle"),
    ),
    "a hash too deep": (
        lambda: archive(b"\x80\x02})" + b"\x85" * 1_000_000 + b"K\x01s."),
        told("a tuple of more than 1,000 values in its pickle"),
    ),
    "a tuple too long": (
        lambda: saved({"x": tuple(range(1_000))}),
        told("a tuple of more than 1,000 values in its pickle"),
    ),
    "tuples too long together": (
        lambda: saved({"x": (tuple(range(600)), tuple(range(600)))}),
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
    "more tensors inside": (
        lambda: saved({**mlp(), "ema": mlp()}),
        f"X['ema']: of type dict; expected a tensor. {STATE_DICT}",
    ),
    "a number as a key": (
        lambda: saved({**mlp(), 7: torch.zeros(3)}),
        f"X: a key of type int; expected text. {STATE_DICT}",
    ),
    "a tuple as a key": (
        lambda: saved({**mlp(), (1, "a"): torch.zeros(3)}),
        f"X: a key of type tuple; expected text. {STATE_DICT}",
    ),
    "two dicts": (
        lambda: saved({"model": mlp(), "ema": mlp()}),
        "X: more than one projector fits: mlp under 'model.mm_projector.', mlp under "
        "'ema.mm_projector.'. Say which one, as root='model.mm_projector.'.",
    ),
    "two dicts that are not tensors alone": (
        lambda: saved({"model": {**mlp(), "n": 1}, "ema": {**mlp(), 3: torch.zeros(1)}}),
        f"X: more than one dict of tensors: 'model', 'ema'; expected one. {STATE_DICT}",
    ),
    "two dicts whose keys become one": (
        lambda: saved({"a.b": {"c": torch.zeros(1)}, "a": {"b.c": torch.zeros(1)}}),
        f"X: more than one dict of tensors: 'a.b', 'a'; expected one. {STATE_DICT}",
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
        f"X['k']: a tensor without a storage in the archive. {AGAIN}",
    ),
    "a storage of its own that says where it is": (
        lambda: of_storage(b"}" + part("_checkpoint_offset") + b"]sb"),
        f"X['k']: a tensor without a storage in the archive. {AGAIN}",
    ),
    "a storage of its own that says it is nowhere": (
        lambda: of_storage(b"}" + part("_checkpoint_offset") + b"K\x01sb"),
        f"X['k']: a tensor without a storage in the archive. {AGAIN}",
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
def test_pickles_that_are_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, message = HOSTILE[name]
    (tmp_path / "x.bin").write_bytes(make())
    monkeypatch.chdir(tmp_path)
    start = time.perf_counter()
    assert refusal(tmp_path / "x.bin") == message
    assert time.perf_counter() - start < 10
    assert [each.name for each in tmp_path.iterdir()] == ["x.bin"]


EXPANDED = "expanded from fewer numbers, or overlapping itself"


@pytest.mark.parametrize(
    ("weight", "fault"),
    [
        (torch.zeros(24, 1).expand(24, 16), EXPANDED),
        (torch.zeros(1).expand(24, 16), EXPANDED),
        (torch.zeros(100).as_strided((24, 16), (2, 1)), EXPANDED),
        # Every row begins with the last number of the one before.
        (torch.zeros(361).as_strided((24, 16), (15, 1)), EXPANDED),
        # 8 kB that claim to be ten billion numbers.
        (torch.zeros(1).expand(100_000, 100_000), EXPANDED),
        (
            torch.zeros(24, 16, dtype=torch.complex64).conj().imag,
            "negated or conjugated only when it is used",
        ),
        (
            torch.zeros(24, 16, dtype=torch.complex64).conj(),
            "negated or conjugated only when it is used",
        ),
    ],
)
def test_tensors_without_numbers_of_their_own(weight: Tensor, fault: str, tmp_path: Path) -> None:
    torch.save({**mlp(), "mm_projector.0.weight": weight}, tmp_path / "x.bin")
    assert (tmp_path / "x.bin").stat().st_size < 10_000
    assert refusal(tmp_path / "x.bin") == (
        f"X['mm_projector.0.weight']: a tensor of {tuple(weight.shape)}, {fault}; expected a "
        "tensor of its own numbers. Call .clone() on it before torch.save."
    )


@pytest.mark.parametrize("weight", [torch.empty(0), torch.empty(1, 0).expand(24, 0)])
def test_zero_3_in_a_pickle(weight: Tensor, tmp_path: Path) -> None:
    torch.save({**mlp(), "mm_projector.0.weight": weight}, tmp_path / "x.bin")
    assert refusal(tmp_path / "x.bin") == (
        f"X['mm_projector.0.weight']: an empty tensor of {tuple(weight.shape)}, a DeepSpeed "
        "ZeRO-3 placeholder; expected the gathered weights. Save inside "
        "deepspeed.zero.GatheredParameters, or run zero_to_fp32.py first."
    )


@pytest.mark.parametrize("version", ["2.10.0+cu128", "2.6.0", "1.13.1"])
def test_old_torch(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(mlp(), tmp_path / "x.bin")
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("loaded"))
    assert refusal(tmp_path / "x.bin") == (
        f"X: a pickle, which torch {version} cannot check safely; expected torch 2.11 or "
        "later. Upgrade torch."
    )


@pytest.mark.parametrize("version", ["2.11.0", "2.13.0+cpu", "3.0.0a0+git123"])
def test_new_torch(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(mlp(), tmp_path / "x.bin")
    monkeypatch.setattr(torch, "__version__", version)
    assert len(PickleFile(tmp_path / "x.bin").tensors) == 4


def test_torch_is_given_the_pickle_alone_and_the_restricted_loader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(mlp(), tmp_path / "x.bin")
    # The environment cannot lift the restriction either.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    load, calls = torch.load, []

    def spy(file: io.BytesIO, **arguments: Any) -> Any:
        calls.append(arguments)
        assert len(file.getvalue()) < 3_000  # of 4,224 bytes of weights and the archive's own
        return load(file, **arguments)

    monkeypatch.setattr(torch, "load", spy)
    convert_checkpoint(tmp_path / "x.bin", tmp_path / "out", from_pickle=True)
    assert calls == [{"map_location": "meta", "weights_only": True}]


@pytest.mark.parametrize("place", ["cuda:7", "mps", "hpu:0", "nowhere"])
def test_tensors_of_other_devices(place: str, tmp_path: Path) -> None:
    numbers = torch.arange(4.0)
    data = pickled({"k": tensor((2, 2), (2, 1), 4, place=place)})
    (tmp_path / "x.bin").write_bytes(archive(data, ("data/0", numbers.numpy().tobytes())))
    assert torch.equal(PickleFile(tmp_path / "x.bin").read(["k"])["k"], numbers.view(2, 2))


def test_irregular_files(tmp_path: Path) -> None:
    torch.save(mlp(), tmp_path / "x.bin")
    (tmp_path / "link.bin").symlink_to("x.bin")
    convert_checkpoint(tmp_path / "link.bin", tmp_path / "out", from_pickle=True)
    os.mkfifo(tmp_path / "pipe.bin")
    irregular = "X: cannot be read: not a regular file. Name another path."
    assert refusal(tmp_path / "pipe.bin") == irregular
    assert refusal(tmp_path / "none.bin") == (
        "X: cannot be read: No such file or directory. Look at the path; nothing is downloaded."
    )


def test_folders_of_pickles(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    expected = "pytorch_model.bin or mm_projector.bin or non_lora_trainables.bin"
    assert refusal(folder) == (
        f"X: no weights in this folder; expected {expected}. Name the file or the folder that "
        "holds them."
    )
    save_file(mlp(), folder / "model.safetensors")
    assert refusal(folder) == (
        f"X: no weights in this folder; expected {expected}. Leave out from_pickle=True: "
        "model.safetensors is not a pickle."
    )
    for name in ("training_args.bin", "a.bin", "b.bin"):
        torch.save(mlp(), folder / name)
    assert refusal(folder) == (
        "X: 2 bin files and no pytorch_model.bin.index.json. Name one of them: a.bin, b.bin."
    )
    (folder / "b.bin").unlink()
    convert_checkpoint(folder, tmp_path / "out", from_pickle=True)


@pytest.mark.parametrize("other", [argparse.Namespace(lr=0.1), np.float64(0.5)])
def test_what_is_data_alone_can_be_allowed_as_the_message_says(
    other: object, tmp_path: Path
) -> None:
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": mlp(), "other": other}, path)
    said = refusal(path)
    assert "which is not a tensor; expected tensors by name. It is data. Read it by" in said
    code = said.split("`")[1].replace("PATH", "path")
    scope: dict[str, Any] = {"torch": torch, "numpy": np, "argparse": argparse, "path": path}
    exec(code, scope)
    torch.save(scope["found"]["state_dict"], path)
    assert convert_checkpoint(path, tmp_path / "out", from_pickle=True).family == "mlp"


def test_of_several_dicts_the_one_with_a_projector_is_taken(tmp_path: Path) -> None:
    others = {
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
        "ema": {"decay": torch.zeros(1)},
        "metrics": {"loss": torch.zeros(1), "step": 3},
    }
    torch.save({**others, "model": mlp()}, tmp_path / "x.ckpt")
    found = convert_checkpoint(tmp_path / "x.ckpt", tmp_path / "out", from_pickle=True)
    assert (found.family, found.root, found.left) == ("mlp", "model.mm_projector.", 1)
    back = to_upstream(load_projector(tmp_path / "out"), "mlp")
    assert all(torch.equal(back[key[13:]], tensor) for key, tensor in mlp().items())
    both = {"model": mlp(), "ema": {key: 2 * tensor for key, tensor in mlp().items()}}
    torch.save(both, tmp_path / "y.pt")
    convert_checkpoint(
        tmp_path / "y.pt", tmp_path / "ema", from_pickle=True, root="ema.mm_projector"
    )
    back = to_upstream(load_projector(tmp_path / "ema"), "mlp")
    assert all(torch.equal(back[key[13:]], 2 * tensor) for key, tensor in mlp().items())


def test_a_folder_of_pickles_without_a_projector(tmp_path: Path) -> None:
    torch.save({"lm_head.weight": torch.zeros(2, 2)}, tmp_path / "pytorch_model.bin")
    assert refusal(tmp_path) == (
        "X: no projector that is known, among 1 tensors, none of which looks like a connector's. "
        "Describe it as a document, and name its modules in order of use: "
        "convert_checkpoint('X', 'projector', from_pickle=True, spec=document, module_names=[...])."
    )


def test_a_lora_folder_says_where_the_projector_may_be(tmp_path: Path) -> None:
    save_file({"lora_A.weight": torch.zeros(2, 2)}, tmp_path / "adapter_model.safetensors")
    torch.save(mlp(), tmp_path / "non_lora_trainables.bin")
    with pytest.raises(CheckpointError) as caught:
        load_projector(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: no projector that is known, among 1 tensors, none of which looks like a "
        "connector's. Is it in non_lora_trainables.bin, a pickle? Convert it: "
        f"convert_checkpoint('{tmp_path}/non_lora_trainables.bin', 'projector', from_pickle=True)"
    )
    assert convert_checkpoint(tmp_path, tmp_path / "out", from_pickle=True).family == "mlp"


def test_a_pickle_that_changes_under_way(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    torch.save(mlp(), path)
    file = PickleFile(path)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(CheckpointError) as caught:
        file.read(["mm_projector.2.weight"])
    assert str(caught.value) == f"{path}: the file changed while it was read. Try again."


def test_a_directory_of_any_size_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(mlp(), tmp_path / "x.bin")
    monkeypatch.setattr(torch_pickle, "MAX_DIRECTORY", 400)
    assert refusal(tmp_path / "x.bin") == DIRECTORY


def test_the_largest_pickle_allowed_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(mlp(), tmp_path / "x.bin")
    with zipfile.ZipFile(tmp_path / "x.bin") as file:
        size = file.getinfo("x/data.pkl").file_size
    monkeypatch.setattr(torch_pickle, "MAX_PICKLE", size)
    assert list(PickleFile(tmp_path / "x.bin").tensors) == list(mlp())


def test_a_directory_may_be_in_any_order(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.bin", "w") as file:
        for name, data in (("data.pkl", pickled({"k": tensor((2,), (1,), 2)})), ("data/0", b"")):
            file.writestr(f"x/{name}", data or torch.ones(2).numpy().tobytes())
        file.filelist.reverse()
    assert PickleFile(tmp_path / "x.bin").read(["k"])["k"].tolist() == [1, 1]


def test_a_disk_that_fails_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(mlp(), tmp_path / "x.bin")

    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(zipfile, "ZipFile", fail)
    assert refusal(tmp_path / "x.bin") == (
        "X: cannot be read: Input/output error. Look at the path and its permissions."
    )


FUZZ = """
import random, resource, sys, warnings
from collections import Counter
from pathlib import Path

resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
import torch
from mobilevlm.checkpoints.errors import CheckpointError
from mobilevlm.checkpoints.formats.torch_pickle import PickleFile

torch.set_num_threads(1)
path, cases = Path(sys.argv[1]), int(sys.argv[2])
original = path.read_bytes()
end = original.index(b"PK\\x01\\x02")  # the directory
start = original.index(b"\\x80\\x02")  # the pickle
stop = original.index(b"PK\\x03\\x04", start)
random = random.Random(0)
outcomes = Counter()
for _ in range(cases):
    data = bytearray(original)
    for _ in range(random.choice((1, 1, 2, 8))):
        first, last = random.choice(((0, len(data)), (start, stop), (end, len(original))))
        place = random.randrange(first, min(last, len(data)))
        kind = random.randrange(5)
        if kind == 0:
            data[place] ^= 1 << random.randrange(8)
        elif kind == 1:
            data[place] = random.choice((0, 1, 127, 128, 255, *b"(.Rb}]tsuhqQKM\\x85\\x86"))
        elif kind == 2:
            at = random.randrange(len(original))
            data[place : place + 8] = original[at : at + 8]
        elif kind == 3:
            del data[place : place + random.randrange(1, 5)]
        else:
            data[place:place] = bytes(random.randrange(256) for _ in range(random.randrange(1, 5)))
    path.write_bytes(data)
    try:
        file = PickleFile(path)
        tensors = file.read(key for key, stored in file.tensors.items() if not stored.fault)
    except CheckpointError as error:
        assert str(error).startswith(str(path)), error
        outcomes["refused"] += 1
        continue
    for key, tensor in tensors.items():
        assert tensor.nbytes <= len(data)
    outcomes["read"] += 1
print(dict(outcomes))
"""


def test_broken_pickles(tmp_path: Path) -> None:
    torch.save({"model": OrderedDict(views())}, tmp_path / "x.bin")
    done = subprocess.run(
        [sys.executable, "-c", FUZZ, str(tmp_path / "x.bin"), "800"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "refused" in done.stdout
    assert "read" in done.stdout
