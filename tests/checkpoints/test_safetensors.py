"""The reader of safetensors: what it maps, and what the system refuses."""

import errno
import json
import mmap
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import header, mlp
from safetensors.torch import save, save_file
from torch import Tensor

from mobilevlm import build_projector
from mobilevlm.checkpoints.errors import CheckpointError
from mobilevlm.checkpoints.formats import tensor_file
from mobilevlm.checkpoints.formats.safetensors import SafetensorsFile
from mobilevlm.checkpoints.load import load_projector
from mobilevlm.checkpoints.mapping import to_upstream


@pytest.mark.parametrize("start", [b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"])
def test_a_header_whose_length_begins_as_a_pickle_does(start: bytes, tmp_path: Path) -> None:
    """A header of 640 bytes, for one, is no pickle of protocol 2."""
    length = int.from_bytes(start, "little")
    plain = len(save({"a": torch.ones(2)}, {"note": ""})) - 2 * 4 - 8
    data = save({"a": torch.ones(2)}, {"note": "x" * (length - plain)})
    assert data.startswith(start)
    (tmp_path / "a.safetensors").write_bytes(data)
    assert list(SafetensorsFile(tmp_path / "a.safetensors").tensors) == ["a"]


def test_a_file_that_changes_under_way(tmp_path: Path) -> None:
    path = tmp_path / "x"
    save_file(mlp(), path)
    file = SafetensorsFile(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CheckpointError) as caught:
        file.read(["mm_projector.2.weight"])
    assert str(caught.value) == f"{path}: the file changed while it was read. Try again."


def test_tensors_are_views_of_the_file_where_they_are_aligned(tmp_path: Path) -> None:
    entries = (
        '"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        '"b":{"dtype":"U8","shape":[1],"data_offsets":[8,9]},'
        '"c":{"dtype":"F32","shape":[1],"data_offsets":[9,13]},'
        '"d":{"dtype":"F32","shape":[0,3],"data_offsets":[13,13]}'
    )
    entries += " " * (-len(entries) - 2 - 8 & 7)
    (tmp_path / "x").write_bytes(header("{" + entries + "}", 13))
    tensors = SafetensorsFile(tmp_path / "x").read("abcd")
    assert {key: (each.dtype, tuple(each.shape)) for key, each in tensors.items()} == {
        "a": (torch.float32, (2,)),
        "b": (torch.uint8, (1,)),
        "c": (torch.float32, (1,)),
        "d": (torch.float32, (0, 3)),
    }
    assert tensors["b"].data_ptr() - tensors["a"].data_ptr() == 8
    assert tensors["c"].data_ptr() % 4 == 0


def sparse(path: Path, gap: int) -> dict[str, Tensor]:
    """Write a projector whose tensors lie a gap apart, without the gaps' bytes; return it."""
    state: dict[str, Tensor] = mlp()
    entries: dict[str, dict[str, Any]] = {}
    end = 0
    for key, tensor in state.items():
        for name, dtype, shape, nbytes in (
            (key, "F32", [*tensor.shape], tensor.nbytes),
            (f"other.{key}", "U8", [gap], gap),
        ):
            span = [end, end + nbytes]
            entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": span}
            end += nbytes
    start = header(json.dumps(entries))
    with path.open("wb") as file:
        file.write(start)
        for tensor in state.values():
            file.write(tensor.numpy().tobytes())
            file.seek(gap, os.SEEK_CUR)
        file.truncate(len(start) + end)
    return state


def test_a_file_larger_than_memory(tmp_path: Path) -> None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    path = tmp_path / "model.safetensors"
    try:
        state = sparse(path, memory)  # four times
    except OSError as error:
        pytest.skip(f"no sparse files: {error}")
    blocks = load_projector(path).blocks
    for ours, theirs in zip(blocks.parameters(), state.values(), strict=True):
        assert torch.equal(ours, theirs)


def test_little_but_the_tensors_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped: list[int] = []

    class Recorded(mmap.mmap):
        def __new__(cls, descriptor: int, length: int, **how: Any) -> Any:
            mapped.append(length)
            return super().__new__(cls, descriptor, length, **how)

    monkeypatch.setattr(mmap, "mmap", Recorded)
    path = tmp_path / "model.safetensors"
    sparse(path, 10 * tensor_file.WINDOW)
    load_projector(path)
    assert mapped == [tensor_file.WINDOW] * 4
    mapped.clear()
    save_file(mlp(), path)
    load_projector(path)
    assert mapped == [path.stat().st_size]


def test_a_tensor_across_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "mobilevlm.checkpoints.formats.tensor_file.WINDOW", mmap.ALLOCATIONGRANULARITY
    )
    state = {
        f"mm_projector.{key}": tensor
        for key, tensor in to_upstream(build_projector("mlp2x-gelu", 96, 80), "mlp").items()
    }
    save_file(state, tmp_path / "x")
    file = SafetensorsFile(tmp_path / "x")
    for key, tensor in [*state.items(), *reversed(state.items())]:
        assert torch.equal(file.read([key])[key], tensor)
    read = file.read(state)
    assert all(torch.equal(read[key], tensor) for key, tensor in state.items())


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOMEM, "Cannot allocate memory. There is too little memory for its tensors."),
        (errno.EMFILE, "Too many open files. Close some files, or allow more: ulimit -n."),
    ],
)
def test_what_the_system_refuses(
    number: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    save_file(mlp(), tmp_path / "x")
    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(CheckpointError) as caught:
        load_projector(tmp_path / "x")
    assert str(caught.value) == f"{tmp_path / 'x'}: cannot be read: {message}"


def test_tensors_may_be_described_in_any_order(tmp_path: Path) -> None:
    entries = '{"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]},'
    entries += '"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}'
    (tmp_path / "x").write_bytes(header(entries) + b"\x01\x02\x03")
    tensors = SafetensorsFile(tmp_path / "x").read("ab")
    assert {key: each.tolist() for key, each in tensors.items()} == {"a": [1, 2], "b": [3]}


def test_a_tensor_may_have_64_axes(tmp_path: Path) -> None:
    entry = f'{{"dtype":"U8","shape":{[1] * 64},"data_offsets":[0,1]}}'
    (tmp_path / "x").write_bytes(header(f'{{"a":{entry}}}', 1))
    assert SafetensorsFile(tmp_path / "x").tensors["a"].shape == (1,) * 64


def test_the_longest_header_allowed_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x").write_bytes(header("{}"))
    monkeypatch.setattr("mobilevlm.checkpoints.formats.safetensors.MAX_HEADER", 2)
    assert not SafetensorsFile(tmp_path / "x").tensors
