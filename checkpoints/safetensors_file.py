"""A safetensors file, looked at closely before any of it is believed."""

from __future__ import annotations

import json
from io import BufferedReader
from typing import Any

import torch

from ..projectors.json_file import DuplicateKey, no_duplicates
from ..registry import quote
from .errors import CheckpointError, convert_pickle
from .tensor_file import Stored, TensorFile, refuse_others

__all__ = ["DTYPES", "SafetensorsFile"]

MAX_HEADER = 100_000_000
DTYPES = {
    "BF16": torch.bfloat16,
    "BOOL": torch.bool,
    "C64": torch.complex64,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "I8": torch.int8,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "U8": torch.uint8,
}


class SafetensorsFile(TensorFile):
    """A safetensors file, whose header is checked in full; see `TensorFile`."""

    kind = "a safetensors file"

    def _describe(self, file: BufferedReader, size: int) -> None:
        where = str(self.path)
        start = file.read(512)
        header = start[8:9] == b"{"  # whose length, before it, may begin as a pickle does
        if not header:
            refuse_others(start, where, self.kind)
        if not header and start.startswith(
            (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
        ):
            raise CheckpointError(
                "a pickle (PyTorch's own format)",
                where,
                self.kind,
                f"A pickle can run code, so it is not loaded. {convert_pickle(self.path)}",
            )
        length = int.from_bytes(start[:8], "little")
        if length > MAX_HEADER:
            raise CheckpointError(f"a header of {length:,} bytes", where, self.kind, _CUT)
        if length > size - 8:  # always, where there are fewer than 8
            raise CheckpointError(_sizes_differ(size, 8 + length), where, hint=_CUT)
        file.seek(8)
        text = file.read(length)
        self._data = 8 + length
        self._read_header(text, size - self._data)

    def _read_header(self, text: bytes, room: int) -> None:
        where = str(self.path)
        try:
            header = json.loads(text.decode("utf-8"), object_pairs_hook=no_duplicates)
        except DuplicateKey as error:
            raise CheckpointError(
                f"its header gives {quote(error.key)} twice", where, hint=_AGAIN
            ) from None
        except RecursionError:
            raise CheckpointError("its header is nested too deep", where, hint=_AGAIN) from None
        except ValueError as error:
            raise CheckpointError(
                f"its header is not JSON: {quote(str(error))}", where, "a safetensors file", _AGAIN
            ) from None
        if not isinstance(header, dict):
            raise CheckpointError("its header is no JSON object", where, hint=_AGAIN)
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(
            isinstance(value, str) for value in metadata.values()
        ):
            raise CheckpointError("its metadata is not text to text", where, hint=_AGAIN)
        self.metadata = metadata
        spans: list[tuple[int, int]] = []
        for key, entry in header.items():
            stored = self.tensors[key] = _entry(key, entry, where)
            spans.append((stored.start, stored.start + stored.nbytes))
        end = 0
        for first, last in sorted(spans):
            if first != end:
                kind = "overlap" if first < end else "leave a hole"
                raise CheckpointError(f"its tensors {kind} at byte {first:,}", where, hint=_AGAIN)
            end = last
        if end != room:
            raise CheckpointError(
                _sizes_differ(self._data + room, self._data + end),
                where,
                hint=_CUT if end > room else "Something was appended to it: save it again.",
            )


_CUT = "It is cut off, or something else: download or save it again."
_AGAIN = "Download or save it again."


def _sizes_differ(found: int, promised: int) -> str:
    if not found:
        return "the file is empty"
    return f"the file is {found:,} bytes, its header promises {promised:,}"


def _entry(key: str, entry: Any, where: str) -> Stored:
    path = f"{where}[{quote(key)}]"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError("not a tensor's entry", path, "dtype, shape and data_offsets", _AGAIN)
    name, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(name, str) or name not in DTYPES:
        raise CheckpointError(
            f"dtype {quote(name)} is not known",
            path,
            "one of BF16, F16, F32, F64 and the like",
            "Save it again in one of them.",
        )
    if not _sizes(shape) or not _sizes(span) or len(span) != 2 or span[0] > span[1]:
        raise CheckpointError(
            f"shape {quote(shape)} at {quote(span)} makes no sense", path, hint=_AGAIN
        )
    nbytes = DTYPES[name].itemsize
    for side in shape:
        nbytes *= side
        if nbytes > 1 << 62:
            raise CheckpointError(
                f"shape {quote(shape)} is too large for any file", path, hint=_AGAIN
            )
    if span[1] - span[0] != nbytes:
        raise CheckpointError(
            f"{span[1] - span[0]:,} bytes", path, f"{nbytes:,} for {name} of {tuple(shape)}", _AGAIN
        )
    return Stored(DTYPES[name], tuple(shape), span[0], nbytes)


def _sizes(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= 64
        and all(type(each) is int and 0 <= each < 1 << 62 for each in value)
    )
