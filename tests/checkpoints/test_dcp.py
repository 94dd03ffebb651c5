"""Checkpoints of torch.distributed.checkpoint: read without running what their pickle says."""

import io
import os
import pickle
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import mlp, same
from helpers.pickles import EVAL, RUN, Call
from helpers.ranks import run_two
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from mobilevlm.checkpoints.convert import convert_checkpoint
from mobilevlm.checkpoints.errors import CheckpointError
from mobilevlm.checkpoints.formats import dcp as reader
from mobilevlm.checkpoints.formats.dcp import DcpFile
from mobilevlm.checkpoints.load import load_projector

KEY = "model.mm_projector.0.weight"


def save(state: Any, folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(state, checkpoint_id=folder, no_dist=True)
    return folder


def convert(folder: Path) -> Any:
    out = folder.parent / "converted"
    convert_checkpoint(folder, out, from_pickle=True, replace=True)
    return load_projector(out)


def plain(folder: Path) -> Any:
    save_file(mlp(), folder / "plain.safetensors")
    return load_projector(folder / "plain.safetensors")


def refusal(folder: Path) -> str:
    out = folder.parent / "refused"
    with pytest.raises(CheckpointError) as caught:
        convert_checkpoint(folder, out, from_pickle=True)
    assert not out.exists()
    return str(caught.value).replace(f"{folder}/", "").replace(str(folder), "X")


def trained() -> dict[str, Any]:
    """What a trainer saves: a model, an optimizer's state, and what is not a tensor."""
    state = {f"layers.{n}.weight": torch.randn(8, 8) for n in range(3)}
    moments = {key: {"exp_avg": torch.zeros_like(tensor)} for key, tensor in mlp().items()}
    return {"model": {**mlp(), **state}, "optimizer": {"state": moments}, "step": 3, "seen": [1]}


def test_a_folder_that_torch_wrote(tmp_path: Path) -> None:
    folder = save(trained(), tmp_path / "dcp")
    assert same(convert(folder), plain(tmp_path))
    save({"model": {f"_orig_mod.{key}": t.bfloat16() for key, t in mlp().items()}}, folder)
    assert same(convert(folder), plain(tmp_path).bfloat16())
    with pytest.raises(CheckpointError) as caught:
        load_projector(folder)
    assert str(caught.value) == (
        f"{folder}: a checkpoint of torch.distributed.checkpoint; expected model.safetensors. It "
        "holds pickles, which can run code, so it is not loaded. Convert it: "
        f"convert_checkpoint('{folder}', 'projector', from_pickle=True)"
    )
    (folder / ".metadata").unlink()
    assert refusal(folder).endswith("Its file .metadata is missing: copy that too.")


def test_only_the_projectors_chunks_are_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(trained(), tmp_path / "dcp")
    opened: list[int] = []
    real = reader.PickledTensor

    def spy(path: Path, start: int, size: int) -> Any:
        opened.append(start)
        return real(path, start, size)

    monkeypatch.setattr(reader, "PickledTensor", spy)
    convert(folder)
    assert len(set(opened)) == len(mlp())


TWO = """
from torch.distributed import checkpoint as dcp
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh
from safetensors.torch import load_file

mesh = init_device_mesh("cpu", (2,))
whole = load_file(f"{folder}/plain.safetensors")
shards = {}
for index, (key, tensor) in enumerate(whole.items()):
    shards[key] = distribute_tensor(tensor, mesh, [Shard(index % tensor.dim())])
dcp.save({"model": shards}, checkpoint_id=f"{folder}/dcp")
"""


@pytest.mark.slow
def test_a_folder_that_two_processes_wrote(tmp_path: Path) -> None:
    expected = plain(tmp_path)
    run_two(TWO, tmp_path)
    assert {path.name for path in (tmp_path / "dcp").iterdir()} == {
        ".metadata",
        "__0_0.distcp",
        "__1_0.distcp",
    }
    assert same(convert(tmp_path / "dcp"), expected)


# ----------------------------------------------------------------- written by hand


def dumped(tensor: Tensor) -> bytes:
    buffer = io.BytesIO()
    torch.save(tensor, buffer)
    return buffer.getvalue()


def sharded(folder: Path, rows: int = 5) -> Metadata:
    """Write the MLP in chunks of some rows, each in a file of its own; return the metadata."""
    folder.mkdir(exist_ok=True)
    entries, storages = {}, {}
    for key, tensor in mlp().items():
        chunks = []
        for start in range(0, len(tensor), rows):
            part = tensor[start : start + rows].clone()
            offsets = torch.Size([start] + [0] * (tensor.dim() - 1))
            chunks.append(ChunkStorageMetadata(offsets, part.shape))
            name = f"__{key}_{start}.distcp"
            data = dumped(part)
            (folder / name).write_bytes(b"12345" + data)
            storages[MetadataIndex(f"model.{key}", offsets)] = _StorageInfo(name, 5, len(data))
        entries[f"model.{key}"] = TensorStorageMetadata(
            TensorProperties(tensor.dtype), tensor.shape, chunks
        )
    metadata = Metadata(entries, None, storages)
    write(metadata, folder)
    return metadata


def write(metadata: Any, folder: Path, protocol: int = pickle.DEFAULT_PROTOCOL) -> None:
    (folder / ".metadata").write_bytes(pickle.dumps(metadata, protocol))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_chunks_are_put_together(protocol: int, tmp_path: Path) -> None:
    metadata = sharded(tmp_path / "dcp")
    write(metadata, tmp_path / "dcp", protocol)
    assert same(convert(tmp_path / "dcp"), plain(tmp_path))
    sharded(tmp_path / "dcp", 1)
    assert same(convert(tmp_path / "dcp"), plain(tmp_path))


Change = Callable[[Metadata], None]
FIRST = MetadataIndex(KEY, torch.Size([0, 0]))


def storage(**changes: Any) -> Change:
    def change(metadata: Metadata) -> None:
        metadata.storage_data[FIRST] = replace(metadata.storage_data[FIRST], **changes)

    return change


def chunk(index: int, offsets: tuple[int, ...], sizes: tuple[int, ...]) -> Change:
    def change(metadata: Metadata) -> None:
        entry = metadata.state_dict_metadata[KEY]
        entry.chunks[index] = ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))
        found = MetadataIndex(KEY, torch.Size(offsets))
        metadata.storage_data.setdefault(found, metadata.storage_data[FIRST])

    return change


def entry(**changes: Any) -> Change:
    def change(metadata: Metadata) -> None:
        metadata.state_dict_metadata[KEY] = replace(metadata.state_dict_metadata[KEY], **changes)

    return change


def without_a_chunk(metadata: Metadata) -> None:
    del metadata.state_dict_metadata[KEY].chunks[1]


def the_same_bytes_twice(metadata: Metadata) -> None:
    second = MetadataIndex(KEY, torch.Size([5, 0]))
    metadata.storage_data[second] = metadata.storage_data[FIRST]


def nowhere(metadata: Metadata) -> None:
    del metadata.storage_data[FIRST]


COVER = f".metadata['{KEY}']: chunks that do not cover (24, 16) once. It is cut off"
NOWHERE = f".metadata['{KEY}']: a chunk that is nowhere. It is cut off"
LIES: dict[str, tuple[Change, str]] = {
    "a gap": (without_a_chunk, COVER),
    "an overlap": (chunk(1, (4, 0), (5, 16)), COVER),
    "beyond the tensor": (chunk(4, (20, 0), (5, 16)), COVER),
    "of other axes": (chunk(0, (0,), (5,)), COVER),
    "no chunks": (entry(chunks=[]), COVER),
    "the same bytes twice": (the_same_bytes_twice, COVER),
    "another shape": (chunk(0, (0, 0), (5, 16, 1)), COVER),
    "chunks of another kind": (
        entry(chunks=7),
        f".metadata['{KEY}']: no list of chunks that can be read",
    ),
    "nowhere": (nowhere, NOWHERE),
    "a negative offset": (storage(offset=-1), NOWHERE),
    "an offset that is no number": (storage(offset="5"), NOWHERE),
    "a length that is no number": (storage(length=None), NOWHERE),
    "an offset beyond the file": (
        storage(offset=10**15),
        "__mm_projector.0.weight_0.distcp: the file is",
    ),
    "a length beyond the file": (
        storage(length=10**15),
        "__mm_projector.0.weight_0.distcp: the file is",
    ),
    "an offset into other bytes": (
        storage(offset=6),
        "__mm_projector.0.weight_0.distcp: ",
    ),
    "a length that is too short": (
        storage(length=100),
        "__mm_projector.0.weight_0.distcp: its zip directory is missing or damaged",
    ),
    "another folder's file": (
        storage(relative_path="../secret.distcp"),
        f".metadata['{KEY}']: '../secret.distcp' is not a plain file name",
    ),
    "an absolute file": (
        storage(relative_path="/etc/passwd"),
        f".metadata['{KEY}']: '/etc/passwd' is not a plain file name",
    ),
    "the folder": (storage(relative_path=".."), f".metadata['{KEY}']: '..' is not a plain"),
    "a file that is missing": (
        storage(relative_path="x.distcp"),
        "x.distcp: cannot be read: No such file or directory",
    ),
    "compressed": (
        storage(transform_descriptors=["gzip"]),
        f".metadata['{KEY}']: a chunk that is compressed",
    ),
    "another tensor's bytes": (
        storage(relative_path="__mm_projector.0.bias_0.distcp", length=0),
        "__mm_projector.0.bias_0.distcp: ",
    ),
    "another dtype": (
        entry(properties=TensorProperties(torch.float16)),
        f".metadata['{KEY}']: a chunk of (5, 16) and torch.float32; expected (5, 16) and "
        "torch.float16",
    ),
    "a huge tensor": (entry(size=torch.Size([1 << 61, 16])), ".metadata['" + KEY),
    "another size": (
        entry(size=torch.Size([25, 16])),
        "X['model.mm_projector.0.weight']: a tensor of (25, 16); expected (24, 16)",
    ),
    "a size that is no size": (entry(size="x"), f".metadata['{KEY}']: not a tensor's description"),
    "a dtype that is none": (
        entry(properties=TensorProperties("float32")),
        f".metadata['{KEY}']: not a tensor's description",
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_metadata_that_lies_is_refused(name: str, tmp_path: Path) -> None:
    change, message = LIES[name]
    metadata = sharded(tmp_path / "dcp")
    change(metadata)
    write(metadata, tmp_path / "dcp")
    assert refusal(tmp_path / "dcp").startswith(message)


def cut(*offsets_and_shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> list[reader._Chunk]:
    return [
        reader._Chunk(offsets, shape, "x", number, 1)
        for number, (offsets, shape) in enumerate(offsets_and_shapes)
    ]


@pytest.mark.parametrize(
    ("shape", "chunks", "covers"),
    [
        ((), cut(((), ())), True),
        ((), cut(), False),
        ((0, 3), cut(((0, 0), (0, 3))), True),
        ((5,), cut(((2,), (2,)), ((0,), (2,)), ((4,), (1,)), ((5,), (0,))), True),
        ((5,), cut(((0,), (3,)), ((4,), (1,))), False),
        ((5,), cut(((0,), (3,)), ((2,), (2,))), False),
        ((3, 4), cut(((0, 0), (2, 4)), ((2, 0), (1, 4))), True),
        ((2, 2), cut(*(((a, b), (1, 1)) for a in (0, 1) for b in (0, 1))), True),
        ((2, 2), cut(*(((a, b), (1, 1)) for a, b in ((0, 0), (0, 1), (1, 1)))), False),
        ((2, 2), cut(*(((a, b), (1, 1)) for a, b in ((0, 0), (0, 1), (1, 1), (1, 1)))), False),
        ((2, 2), cut(((0, 0), (1, 1)), ((1, 1), (1, 1))), False),
    ],
)
def test_chunks_cover_a_tensor_once(
    shape: tuple[int, ...], chunks: list[reader._Chunk], covers: bool
) -> None:
    assert reader._is_grid(chunks, shape) is covers


def test_many_chunks_take_no_time(tmp_path: Path) -> None:
    """Compared in pairs, these took ten seconds each time."""
    metadata = sharded(tmp_path / "dcp")
    nothing = ChunkStorageMetadata(torch.Size([0, 0]), torch.Size([0, 0]))
    metadata.state_dict_metadata[KEY].chunks[:] = [nothing] * reader.MAX_CHUNKS
    write(metadata, tmp_path / "dcp")
    file = DcpFile(tmp_path / "dcp" / ".metadata")
    start = time.process_time()
    for _ in range(20):
        with pytest.raises(CheckpointError, match="do not cover"):
            file.read([KEY])
    assert time.process_time() - start < 20


def test_a_chunk_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    sharded(tmp_path / "dcp")
    path = tmp_path / "dcp" / "__mm_projector.0.weight_0.distcp"
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(5, 16)}, buffer)
    data = buffer.getvalue()
    metadata = sharded(tmp_path / "dcp")
    storage(length=len(data))(metadata)
    write(metadata, tmp_path / "dcp")
    path.write_bytes(b"12345" + data)
    assert refusal(tmp_path / "dcp").startswith(f"{path.name}: a pickled dict; expected a tensor")


# ---------------------------------------------------------------------------- attacks


def attacks() -> dict[str, bytes]:
    """Pickles that are to be refused; those that run something leave a file behind if it runs."""
    known = "torch.distributed.checkpoint.metadata"
    metadata = f"c{known}\nMetadata\n"
    return {
        "os.system": pickle.dumps(Call(os.system, RUN)),
        "os.system, protocol 0": pickle.dumps(Call(os.system, RUN), 0),
        "os.system in a field": pickle.dumps({"state_dict_metadata": Call(os.system, RUN)}),
        "eval": pickle.dumps(Call(eval, EVAL)),
        "getattr": b"cbuiltins\ngetattr\n.",
        "inst": f"(S'{RUN}'\nios\nsystem\n.".encode(),
        "obj": f"(cos\nsystem\nS'{RUN}'\no.".encode(),
        "extension": b"\x82\x01.",
        "a persistent id": b"Px\n.",
        "a bytearray of a terabyte": b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b".",
        "a long of a gigabyte": b"\x80\x02\x8b" + (1 << 30).to_bytes(4, "little") + b".",
        "a name inside a name": b"\x80\x04\x8c\x25torch.distributed.checkpoint.metadata"
        b"\x8c\x0bio.os.system\x93.",
        "what torch's module imports": f"c{known}\nos\n.".encode(),
        "a class is changed": f"{metadata}(NU\x05state}}U\x01xU\x01ystb.".encode(),
        "a class is changed, protocol 4": b"\x80\x04"
        + metadata.encode()
        + b"N}\x8c\x08__init__"
        + metadata.encode()
        + b"s\x86b.",
        "nested tuples": b"\x80\x02)" + b"\x85" * 5_000 + b".",
        "doubled tuples": b"\x80\x02)" + b"q\x00h\x00\x86" * 60 + b".",
        "no pickle": b"hello",
        "empty": b"",
        "cut off": pickle.dumps(Metadata({}, None, {}))[:-20],
        "another object": pickle.dumps([1, 2]),
        "metadata without a state": f"{metadata})\x81.".encode("latin-1"),
        "fields of another kind": pickle.dumps(Metadata([], None, 3)),  # type: ignore[arg-type]
        "a record as its own key": b"\x80\x02" + metadata.encode() + b")\x81q\x00}h\x00h\x00sb.",
    }


ATTACKS = attacks()


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_refused_and_nothing_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "dcp"
    folder.mkdir()
    (folder / ".metadata").write_bytes(ATTACKS[name])
    before = {each: dict(vars(each)) for each in reader._CLASSES.values()}
    monkeypatch.chdir(folder)
    assert refusal(folder).startswith(".metadata: ")
    assert [each.name for each in folder.iterdir()] == [".metadata"]
    assert {each: dict(vars(each)) for each in reader._CLASSES.values()} == before


def test_what_is_asked_for_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "dcp"
    folder.mkdir()
    write(Call(os.system, "true"), folder)
    assert refusal(folder) == (
        ".metadata: it asks for 'posix.system'; expected what describes tensors. Save the state "
        "dict alone, with torch.save, where it was made."
    )


def test_long_metadata_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "dcp"
    sharded(folder)
    with monkeypatch.context() as patch:
        patch.setattr(reader, "MAX_OPCODES", 100)
        assert refusal(folder).startswith(".metadata: a pickle of more than 100 opcodes")
    with open(folder / ".metadata", "r+b") as file:
        file.truncate(reader.MAX_METADATA + 1)
    assert refusal(folder).startswith(".metadata: too long; expected at most 100,000,000 bytes")


def test_no_class_of_torchs_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even those that it names are looked up."""
    folder = save(trained(), tmp_path / "dcp")
    module = sys.modules["torch.distributed.checkpoint.metadata"]

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError

    for name in ("Metadata", "TensorStorageMetadata", "MetadataIndex", "TensorProperties"):
        monkeypatch.setattr(module, name, fail)
    assert DcpFile(folder / ".metadata").tensors[KEY].shape == (24, 16)
