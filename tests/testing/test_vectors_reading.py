"""The checker of test vectors reads files without a library for their format."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from mobilevlm.testing.vectors.check import PackError, read_tensors

Array = Any


def test_bfloat16_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
    safetensors.torch.save_file({"x": every.view(256, 256)}, tmp_path / "x")
    [(name, found)] = read_tensors(tmp_path / "x").items()
    assert (name, found.dtype, found.shape) == ("x", np.float32, (256, 256))
    np.testing.assert_array_equal(found.ravel(), every.float().numpy())


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.float64, torch.float32, torch.float16, torch.bool),
        *(torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    ],
    ids=str,
)
def test_other_dtypes_are_read_as_torch_reads_them(dtype: torch.dtype, tmp_path: Path) -> None:
    values = {
        "b": torch.tensor([[1, 0, 3], [0, 5, 127]]).to(dtype),
        "a": torch.tensor(7).to(dtype),
        "empty": torch.zeros(0, 3).to(dtype),
    }
    safetensors.torch.save_file(values, tmp_path / "x", {"note": "metadata is skipped"})
    found = read_tensors(tmp_path / "x")
    assert found.keys() == values.keys()
    for name, value in values.items():
        assert found[name].dtype == value.numpy().dtype
        np.testing.assert_array_equal(found[name], value.numpy())


def test_files_of_numpy_are_told_by_their_first_bytes(tmp_path: Path) -> None:
    x = np.array([[1, -2, 3], [4, 5, -6]], np.float32)
    with (tmp_path / "x").open("wb") as file:
        np.save(file, x)
    with (tmp_path / "y").open("wb") as file:
        np.savez_compressed(file, output=x, **{"blocks.0": x + 1})
    np.testing.assert_array_equal(read_tensors(tmp_path / "x")["output"], x)
    np.testing.assert_array_equal(read_tensors(tmp_path / "y")["blocks.0"], x + 1)


def of_header(header: Any, size: int = 8) -> bytes:
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    return len(text).to_bytes(8, "little") + text + bytes(size)


def tensor(dtype: Any = "F32", shape: Any = (2,), span: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": span}


def numpy_bytes(array: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


EXPECTED = "expected safetensors, .npz or .npy. It may be cut off."
BROKEN: dict[str, tuple[bytes, str | None]] = {
    "empty": (b"", f": no header in 0 bytes; {EXPECTED}"),
    "another file": (b"hello, world", f": no header in 12 bytes; {EXPECTED}"),
    "cut header": (of_header({"a": 1}, 0)[:-1], f": no header in 15 bytes; {EXPECTED}"),
    "no JSON": (of_header(b"1:"), ": header: no JSON: Extra data: line 1 column 2 (char 1)"),
    "no UTF-8": (of_header(b'{"\xff": 1}'), None),
    "too deep": (of_header(b"[" * 100_000), None),
    "a list": (of_header([]), ": header: []; expected an object"),
    "no tensor": (of_header({"a": 1}), ": header: a: 1; expected an object"),
    "a field less": (of_header({"a": {"dtype": "F32"}}), ": header: a: has no 'shape'"),
    "no dtype": (of_header({"a": tensor(3)}), ": header: a: dtype: 3; expected text"),
    "no shape": (of_header({"a": tensor(shape=[-1])}), ": header: a: shape: -1; expected a size"),
    "true": (of_header({"a": tensor(shape=[True])}), ": header: a: shape: True; expected a size"),
    "one offset": (
        of_header({"a": tensor(span=[8])}),
        ": header: a: data_offsets: [8]; expected two sizes",
    ),
    "another dtype": (
        of_header({"a": tensor("F8_E4M3")}),
        "['a']: dtype F8_E4M3; expected one of BF16, BOOL, F16, F32, F64, I8, I16, I32, I64, U8, "
        "U16, U32, U64",
    ),
    "cut off": (of_header({"a": tensor()}, 7), "['a']: ends at byte 8 of 7: it is cut off"),
    "large": (of_header({"a": tensor(shape=[3])}), "['a']: F32 of [3] does not fit [0, 8]"),
    "half": (of_header({"a": tensor(span=[0, 7])}), "['a']: F32 of [2] does not fit [0, 7]"),
    "backwards": (
        of_header({"a": tensor(span=[0, 8]), "b": tensor(span=[8, 4])}),
        "['b']: F32 of [2] does not fit [8, 4]",
    ),
    "many axes": (of_header({"a": tensor(shape=[1] * 99)}), None),
    "huge": (
        of_header({"a": tensor(shape=[0, 1 << 40, 1 << 40], span=[0, 0])}),
        f"['a']: F32 of [0, {1 << 40}, {1 << 40}] does not fit [0, 0]",
    ),
    "overlap": (
        of_header({"a": tensor(), "b": tensor(span=[4, 12])}, 12),
        "['b']: at [4, 12]; expected 8, where the last one ends",
    ),
    "hole": (
        of_header({"a": tensor(), "b": tensor(span=[12, 20])}, 20),
        "['b']: at [12, 20]; expected 8, where the last one ends",
    ),
    "text": (
        numpy_bytes(np.array(["a"])),
        "['output']: dtype <U1; expected real numbers. Save it as float32.",
    ),
    "complex": (
        numpy_bytes(np.ones(2, complex)),
        "['output']: dtype complex128; expected real numbers. Save it as float32.",
    ),
    "objects": (numpy_bytes(np.array([{}])), None),
    "cut .npy": (numpy_bytes(np.ones(9))[:-1], None),
    "huge .npy": (numpy_bytes(np.ones(9)).replace(b"(9,)", b"(99999999999999,)"), None),
    "no .npz": (b"PK\x03\x04" + bytes(99), ": numpy cannot read it: File is not a zip file"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file(name: str, tmp_path: Path) -> None:
    data, message = BROKEN[name]
    path = tmp_path / "x"
    path.write_bytes(data)
    with pytest.raises(PackError) as caught:
        read_tensors(path)
    assert message is None or str(caught.value) == f"{path}{message}"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "x", "No such file or directory"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(PackError) as caught:
            read_tensors(path)
        assert str(caught.value) == f"{path}: {message}"


def test_a_file_that_is_cut_anywhere(tmp_path: Path) -> None:
    """It is refused, or ends between two members of an archive or after what matters."""
    x = np.array([1, -2, 3], np.float32)
    safetensors.numpy.save_file({"a": x, "b": x[:2]}, tmp_path / "whole")
    archive = io.BytesIO()
    np.savez(archive, a=x)
    for data in ((tmp_path / "whole").read_bytes(), archive.getvalue(), numpy_bytes(x)):
        for end in range(len(data)):
            (tmp_path / "cut").write_bytes(data[:end])
            with pytest.raises(PackError):
                read_tensors(tmp_path / "cut")
