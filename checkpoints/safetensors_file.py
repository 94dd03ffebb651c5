"""A safetensors file, looked at closely before any of it is believed."""

from __future__ import annotations

import json
import mmap
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..blocks.spec import first_duplicate
from ..registry import quote
from .errors import CheckpointError

__all__ = ["DuplicateKey", "SafetensorsFile", "Stored", "no_duplicates"]

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


@dataclass(frozen=True)
class Stored:
    """A tensor in a file, as the header describes it; `start` counts from the header's end."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    nbytes: int


class SafetensorsFile:
    """The header of a safetensors file, checked in full; tensors are read on demand.

    Args:
        path: The file. Nothing but the header is read.

    Attributes:
        path: The file.
        tensors: What it holds, by key.
        metadata: Its metadata, text to text.

    Raises:
        CheckpointError: It cannot be read, is something else, is cut off, or its header lies.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.tensors: dict[str, Stored] = {}
        self.metadata: dict[str, str] = {}
        with _opened(self.path) as (file, status):
            self._status = status
            where, size = str(self.path), status.st_size
            start = file.read(512)
            _refuse_others(start, where)
            length = int.from_bytes(start[:8], "little")
            if length > MAX_HEADER:
                raise CheckpointError(
                    f"a header of {length:,} bytes", where, "a safetensors file", _CUT
                )
            if size < 8 or length > size - 8:
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

    def read(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """Map some tensors; their pages are read when they are used, the rest never.

        As with safetensors' own reader, a file that somebody cuts off meanwhile takes the process
        with it; one that is replaced, as `save_projector` does, does no harm.

        Raises:
            CheckpointError: The file cannot be read, or is not the one it was.
        """
        with _opened(self.path) as (file, status):
            fields = ("st_dev", "st_ino", "st_size", "st_mtime_ns")
            changed = any(getattr(status, f) != getattr(self._status, f) for f in fields)
            if changed:
                raise CheckpointError(
                    "the file changed while it was read", str(self.path), hint="Try again."
                )
            # Private: whatever is written to the tensors stays out of the file.
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            return {key: self._tensor(pages, self.tensors[key]) for key in keys}

    def _tensor(self, pages: mmap.mmap, stored: Stored) -> Tensor:
        if not stored.nbytes:
            return torch.empty(stored.shape, dtype=stored.dtype)
        first = self._data + stored.start
        flat = torch.frombuffer(pages, dtype=torch.uint8, count=stored.nbytes, offset=first)
        if first % stored.dtype.itemsize:  # a view would not be aligned
            flat = flat.clone()
        return flat.view(stored.dtype).view(stored.shape)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BufferedReader, os.stat_result]]:
    """Open a regular file, refuse all else, and say so when it cannot be read."""
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for a writer for ever.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            os.close(handle)
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise CheckpointError(kind, str(path), "a safetensors file", "Name another path.")
        with os.fdopen(handle, "rb") as file:
            yield file, status
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(
            f"cannot be read: {error.strerror}", str(path), hint="Look at the path and its rights."
        ) from error


_CUT = "It is cut off, or something else: download or save it again."
_AGAIN = "Download or save it again."


def _sizes_differ(found: int, promised: int) -> str:
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


def _refuse_others(start: bytes, where: str) -> None:
    """Say what a file is that is no safetensors file, from its first bytes."""
    text = start.lstrip()[:64].lower()
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            "a git-lfs pointer, not the file itself", where, hint="Run: git lfs pull"
        )
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(
            "a web page, not a checkpoint", where, hint="Download the file itself."
        )
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        raise CheckpointError(
            "a pickle (PyTorch's own format)",
            where,
            "a safetensors file",
            "A pickle can run code, so it is not loaded: save the weights as safetensors.",
        )
    if start.startswith(b"GGUF"):
        raise CheckpointError(
            "a GGUF file", where, "a safetensors file", "Use the model it was converted from."
        )


class DuplicateKey(ValueError):
    """A key of a JSON object that is there twice."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object of its pairs; for `json.loads`.

    Raises:
        DuplicateKey: A key is there twice.
    """
    key = first_duplicate(pairs)
    if key is not None:
        raise DuplicateKey(key)
    return dict(pairs)
