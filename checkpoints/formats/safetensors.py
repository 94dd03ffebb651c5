"""A safetensors file. Its header is checked in full before anything else is read.

`safetensors.safe_open` checks a header too, but it needs the whole file: it maps all of it, so a
file larger than memory fails, and it gives no byte ranges. It also takes a key that is given
twice, and its older versions refuse a file for one tensor of a dtype that is new.
"""

from __future__ import annotations

import math
from io import BufferedReader
from typing import Any

import torch

from ...projectors.json_file import JsonReader
from ...registry import quote
from ..errors import CheckpointError, convert_pickle
from .tensor_file import TensorFile, TensorInfo, refuse_other_formats

__all__ = ["DTYPES", "SafetensorsFile", "parse_header"]

MAX_HEADER = 100_000_000
_NAMES = {
    "BF16": "bfloat16",
    "BOOL": "bool",
    "C64": "complex64",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "I8": "int8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "U8": "uint8",
}
# Older releases of torch do not have all of them.
DTYPES = {key: getattr(torch, name) for key, name in _NAMES.items() if hasattr(torch, name)}

_CUT = "It is cut off, or something else: download or save it again."
_AGAIN = "Download or save it again."
_READER = JsonReader(CheckpointError, MAX_HEADER, hint=_AGAIN)
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


class SafetensorsFile(TensorFile):
    """A safetensors file; see `TensorFile`."""

    kind = "a safetensors file"

    def _describe(self, file: BufferedReader, size: int) -> None:
        start = file.read(512)
        if start[8:9] != b"{":  # a header's length, in the first bytes, may look like a pickle
            refuse_other_formats(start, self.where, self.kind)
            if start.startswith(_PICKLES):
                hint = f"A pickle can run code, so it is not loaded. {convert_pickle(self.where)}"
                raise self.error("a pickle (PyTorch's own format)", self.kind, hint)
        length = int.from_bytes(start[:8], "little")
        if length > MAX_HEADER:
            raise self.error(f"a header of {length:,} bytes", self.kind, _CUT)
        end = 8 + length
        if size >= end:
            file.seek(8)
            self.tensors, self.metadata, end = parse_header(file.read(length), self.where)
        if size != end:
            found = f"the file is {size:,} bytes, its header promises {end:,}"
            hint = _CUT if size < end else "Something was appended to it: save it again."
            raise self.error(found if size else "the file is empty", hint=hint)


def parse_header(data: bytes, where: str) -> tuple[dict[str, TensorInfo], dict[str, str], int]:
    """Read a header: the bytes between its length, the first eight of a file, and the tensors.

    Args:
        data: The header.
        where: What messages call the file.

    Returns:
        The tensors by key, with their positions in the file; the metadata; the file's size.

    Raises:
        CheckpointError: The header is damaged or contradicts itself.
    """
    header = _READER.parse(data, f"{where}: header")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError("its metadata is not text to text", where, hint=_AGAIN)
    end = 8 + len(data)
    tensors = {
        key: _tensor_info(entry, end, f"{where}[{quote(key)}]") for key, entry in header.items()
    }
    for start, nbytes in sorted((info.start, info.nbytes) for info in tensors.values()):
        if start != end:
            kind = "overlap" if start < end else "leave a hole"
            found = f"its tensors {kind} at byte {start - 8 - len(data):,}"
            raise CheckpointError(found, where, hint=_AGAIN)
        end += nbytes
    return tensors, metadata, end


def _tensor_info(entry: Any, data_start: int, where: str) -> TensorInfo:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(
            "not a tensor's entry", where, "dtype, shape and data_offsets", _AGAIN
        )
    name, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(name, str):
        raise CheckpointError(f"dtype {quote(name)}", where, "a name, such as BF16", _AGAIN)
    sizes = _are_sizes(shape) and _are_sizes(span) and len(span) == 2
    # torch multiplies the sides even where one of them is 0.
    if not sizes or math.prod(side or 1 for side in shape) > 1 << 60:
        found = f"shape {quote(shape)} at {quote(span)} does not make sense"
        raise CheckpointError(found, where, hint=_AGAIN)
    dtype = DTYPES.get(name)
    if dtype is None and span[0] <= span[1]:
        # Of another tensor it spoils nothing. Whether its size is right cannot be said.
        fault = f"of the dtype {quote(name)}, which is not known"
        hint = "Save it again in one of BF16, F16, F32, F64 and the like."
        start, nbytes = data_start + span[0], span[1] - span[0]
        return TensorInfo(torch.uint8, tuple(shape), start, nbytes, None, fault, hint)
    nbytes = math.prod(shape) * (1 if dtype is None else dtype.itemsize)
    if dtype is None or span[1] - span[0] != nbytes:
        expected = f"{nbytes:,} for {name} of {tuple(shape)}"
        raise CheckpointError(f"{span[1] - span[0]:,} bytes", where, expected, _AGAIN)
    return TensorInfo(dtype, tuple(shape), data_start + span[0], nbytes)


def _are_sizes(value: Any) -> bool:
    """Return whether this is a list of sizes, of as many axes as torch has at most."""
    return (
        isinstance(value, list)
        and len(value) <= 64
        and all(type(each) is int and 0 <= each < 1 << 62 for each in value)
    )
