"""A file of `torch.save`, read without running anything in it.

Such a file is a zip archive of a pickle, which describes the tensors, and of their bytes. Here the
archive's directory and the pickle's opcodes are checked first. torch's restricted unpickler then
gets the pickle alone, on the meta device, and each tensor that comes out is compared with the
archive.

`torch.load(path, weights_only=True, mmap=True)` alone runs nothing either, but it is not enough.
It returns other bytes of the file as weights (members that overlap or are compressed, a storage
said to be longer than it is), hangs or overflows the stack while it hashes nested tuples,
allocates what the pickle asks for (a bytearray of any size), and maps the whole file, which fails
for one larger than memory.
"""

from __future__ import annotations

import io
import os
import re
import struct
import warnings
import zipfile
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...registry import quote
from .opcodes import opcode_fault
from .safetensors import DTYPES
from .tensor_file import TensorFile, TensorInfo, refuse_other_formats

__all__ = ["PickleFile", "PickledTensor"]

# Before 2.10 weights_only had known holes; before 2.11 the meta device still read every storage.
MIN_TORCH = (2, 11)
MAX_DIRECTORY = 32_000_000
MAX_PICKLE = 10_000_000
# For a pickle of that size: torch.save writes 2.6 bytes an opcode or more, 72 a tensor or more.
MAX_OPCODES = 4_000_000
MAX_MEMBERS = 150_000
LOCAL_HEADER = struct.Struct("<4s22xHH")

# What a pickle of tensors needs; torch allows more, some of which allocates.
_GLOBALS = {
    "collections OrderedDict",
    "torch Size",
    "torch.storage UntypedStorage",
    *(f"torch._utils _rebuild_{what}" for what in ("tensor_v2", "tensor_v3", "parameter")),
    *(str(dtype).replace(".", " ") for dtype in DTYPES.values()),
    *(
        f"torch {name}Storage"
        for name in (
            *("BFloat16", "Bool", "Byte", "Char", "ComplexDouble", "ComplexFloat"),
            *("Double", "Float", "Half", "Int", "Long", "Short"),
        )
    ),
}

_TENSORS = "tensors by name"
_CUT = "It is cut off or damaged: download or save it again."
_AGAIN = "Save it again with torch.save."
_STATE_DICT = "Save the state dict alone, with torch.save, where the file was made."
# Classes that hold data and do nothing, as trainers save them; what torch needs to be told of.
_SCALAR = "numpy._core.multiarray.scalar, numpy.dtype, type(numpy.dtype('float64'))"
_DATA = {
    "argparse.Namespace": "argparse.Namespace",
    "numpy._core.multiarray.scalar": _SCALAR,
    "numpy.core.multiarray.scalar": _SCALAR,
}
_ALLOW = (
    "It is data. Read it by `with torch.serialization.safe_globals([{}]): found = torch.load(PATH, "
    "weights_only=True)`, and save the state dict in it alone, with torch.save."
)


@dataclass(frozen=True)
class _Member:
    """Where the bytes of an archive's member are."""

    start: int
    size: int


class _BoundedFile:
    """A file for `zipfile`, which would read a directory of any size."""

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, n: int = -1) -> bytes:
        return self._file.read(MAX_DIRECTORY if n < 0 else min(n, MAX_DIRECTORY))


class PickleFile(TensorFile):
    """A file of `torch.save` that holds tensors by name, or one dict of them; see `TensorFile`."""

    kind = "an archive of torch.save"

    def _describe(self, file: BufferedReader, size: int) -> None:
        self._refuse_by_start(file.read(512))
        if tuple(int(part) for part in torch.__version__.split(".")[:2]) < MIN_TORCH:
            raise self.error(
                f"a pickle, which torch {torch.__version__} cannot check safely",
                "torch {}.{} or later".format(*MIN_TORCH),
                "Upgrade torch.",
            )
        members = self._members(file, size)
        order = members.get("byteorder")
        if order is not None and _member_bytes(file, order, 16) != b"little":
            raise self.error(
                "its numbers are big-endian", hint="Save it on a little-endian machine."
            )
        if members["data.pkl"].size > MAX_PICKLE:
            found = f"a pickle of {members['data.pkl'].size:,} bytes, without the tensors' own"
            raise self.error(found, f"at most {MAX_PICKLE:,}", _STATE_DICT)
        data = _member_bytes(file, members["data.pkl"], MAX_PICKLE)
        self._check_opcodes(data)
        storages = {name: each for name, each in members.items() if name.startswith("data/")}
        stub, starts = _archive_without_data(data, storages)
        for key, tensor in self._tensors_by_name(self._unpickle(stub)):
            # Set by torch to the position of the storage's record; a pickle may set it too.
            position = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
            if type(position) is not int or position not in starts:
                raise self.error(
                    "a tensor without a storage in the archive", hint=_AGAIN, keys=(key,)
                )
            self.tensors[key] = self._tensor_info(key, tensor, starts[position])

    def _refuse_by_start(self, start: bytes) -> None:
        refuse_other_formats(start, self.where, self.kind)
        if start[8:9] == b"{":
            raise self.error("a safetensors file", self.kind, "Leave out from_pickle=True.")
        if start[:1] == b"\x80" or start[257:262] == b"ustar":
            raise self.error(
                "a pickle without an archive, as torch before 1.6 and other tools write it",
                self.kind,
                "Load it with torch.load(PATH, weights_only=True) and save it again with "
                "torch.save.",
            )
        if start[:4] != b"PK\x03\x04":
            raise self.error("not a pickle of PyTorch", self.kind, _CUT)

    def _members(self, file: BufferedReader, size: int) -> dict[str, _Member]:
        """Find the archive's members by their names in its folder; they lie apart, uncompressed."""
        try:
            entries = zipfile.ZipFile(_BoundedFile(file)).infolist()
        except OSError:
            raise
        except Exception:  # BadZipFile, and whatever else a hostile directory leads to
            raise self.error("its zip directory is missing or damaged", hint=_CUT) from None
        if not any(re.fullmatch("[^/]+/data[.]pkl", entry.orig_filename) for entry in entries):
            raise self.error("a zip archive of something else", self.kind, _AGAIN)
        if len(entries) > MAX_MEMBERS:
            found = f"an archive of {len(entries):,} members"
            raise self.error(found, f"at most {MAX_MEMBERS:,}", _STATE_DICT)
        members: dict[str, _Member] = {}
        spans: list[tuple[int, int]] = []
        roots: set[str] = set()
        for entry in entries:
            full = entry.orig_filename
            root, _, name = full.partition("/")
            if {"", ".", ".."} & {*full.split("/")} or re.search(r"[\\\x00-\x1f\x7f]", full):
                found = "a member's name that torch.save never writes"
                raise self.error(found, hint=_AGAIN, keys=(full,))
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                found = "compressed or encrypted, which torch.save never does"
                raise self.error(found, hint=f"Unpack it. {_AGAIN}", keys=(full,))
            if name in members:
                raise self.error("there twice", hint=_AGAIN, keys=(full,))
            header = b""
            if 0 <= entry.header_offset < size:
                file.seek(entry.header_offset)
                header = file.read(LOCAL_HEADER.size)
            if len(header) < LOCAL_HEADER.size or header[:4] != b"PK\x03\x04":
                raise self.error("not where the zip directory says", hint=_CUT, keys=(full,))
            _, n, m = LOCAL_HEADER.unpack(header)
            start = entry.header_offset + LOCAL_HEADER.size + n + m
            members[name] = _Member(start, entry.file_size)
            spans.append((entry.header_offset, start + entry.file_size))
            roots.add(root)
        end = 0
        for first, last in sorted(spans):
            if first < end or last > size:
                kind = "overlap" if first < end else "end beyond the file"
                raise self.error(f"its members {kind} at byte {first:,}", hint=_CUT)
            end = last
        if "constants.pkl" in members:
            raise self.error("a TorchScript archive, which is code", hint=_STATE_DICT)
        if len(roots) > 1:
            raise self.error("more than one archive in one file", hint=_AGAIN)
        return members

    def _check_opcodes(self, data: bytes) -> None:
        try:
            found = opcode_fault(data, MAX_OPCODES, _GLOBALS)
        except (LookupError, ValueError):
            raise self.error("its pickle is damaged", hint=_CUT) from None
        if found:
            data_alone = next((known for name, known in _DATA.items() if name in found), "")
            hint = _ALLOW.format(data_alone) if data_alone else _STATE_DICT
            raise self.error(found, _TENSORS, hint)

    def _unpickle(self, stub: io.BytesIO) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return torch.load(stub, map_location="meta", weights_only=True)
        except Exception:  # of any kind; torch's message advises to load it without the check
            found = "torch's restricted loader refuses it"
            raise self.error(found, f"nothing but {_TENSORS}", _STATE_DICT) from None

    def _tensors_by_name(self, value: Any) -> list[tuple[str, Tensor]]:
        """Return the tensors by key, out of a dict of them or of the dicts of them in a dict.

        If there are several, all are returned, with their names before the keys: which of them
        holds a projector is for others to find out. `dict`'s own methods are called, since
        attributes may hide those of an OrderedDict.
        """
        keys: tuple[Any, ...] = ()
        if isinstance(value, dict) and not _holds_tensors(value):
            inner = {key: each for key, each in dict.items(value) if _holds_tensors(each)}
            if len(inner) > 1:
                pure = {key: each for key, each in inner.items() if _holds_only_tensors(each)}
                joined = [
                    (f"{name}.{key}", tensor)
                    for name, each in pure.items()
                    for key, tensor in dict.items(each)
                ]
                if joined and len(dict(joined)) == len(joined):
                    return joined
                names = ", ".join(map(quote, inner))
                raise self.error(f"more than one dict of tensors: {names}", "one", _STATE_DICT)
            if inner:
                [(outer, value)] = inner.items()
                keys = (outer,)
        if not _holds_tensors(value):
            found = f"a pickled {type(value).__name__} without tensors"
            raise self.error(found, _TENSORS, _STATE_DICT)
        for key, each in dict.items(value):
            if not isinstance(key, str):
                found = f"a key of type {type(key).__name__}"
                raise self.error(found, "text", _STATE_DICT, keys)
            if not _is_tensor(each):
                found = f"of type {type(each).__name__}"
                raise self.error(found, "a tensor", _STATE_DICT, (*keys, key))
        return list(dict.items(value))

    def _tensor_info(self, key: str, tensor: Tensor, member: _Member) -> TensorInfo:
        """Return where a tensor's bytes are, after checking that its storage has them all."""
        shape, strides = tuple(tensor.shape), tensor.stride()
        size, itemsize = tensor.untyped_storage().nbytes(), tensor.dtype.itemsize
        steps = [(stride, side) for stride, side in zip(strides, shape, strict=True) if side != 1]
        last = sum(stride * (side - 1) for stride, side in steps)
        start = int(tensor.storage_offset()) * itemsize
        nbytes = (last + 1) * itemsize if tensor.numel() else 0
        # On the meta device torch enlarges a storage that is too small for its tensor.
        if size != member.size:
            found = f"it needs {size:,} bytes, the archive has {member.size:,} for it"
            raise self.error(found, hint=_CUT, keys=(key,))
        if start + nbytes > size:
            found = f"it ends at byte {start + nbytes:,} of its storage's {size:,}"
            raise self.error(found, hint=_AGAIN, keys=(key,))
        fault = _tensor_fault(tensor, steps)
        given = None if tensor.is_contiguous() else strides
        return TensorInfo(tensor.dtype, shape, member.start + start, nbytes, given, fault)


class PickledTensor(PickleFile):
    """A single tensor of `torch.save` in a part of a file; its key is empty.

    Args:
        path: The file.
        start: The position of the part's first byte.
        size: The part's size in bytes.
    """

    def __init__(self, path: Path, start: int, size: int) -> None:
        self._start, self._size = start, size
        super().__init__(path)

    def _describe(self, file: BufferedReader, size: int) -> None:
        if self._start + self._size > size:
            end = self._start + self._size
            found = f"the file is {size:,} bytes, a tensor in it ends at {end:,}"
            raise self.error(found, hint=_CUT)
        super()._describe(cast("BufferedReader", _Part(file, self._start, self._size)), self._size)
        for key, info in self.tensors.items():
            self.tensors[key] = replace(info, start=self._start + info.start)

    def _tensors_by_name(self, value: Any) -> list[tuple[str, Tensor]]:
        if not _is_tensor(value):
            raise self.error(f"a pickled {type(value).__name__}", "a tensor", _CUT)
        return [("", value)]


class _Part:
    """A part of a file, to be read as a file."""

    def __init__(self, file: BufferedReader, start: int, size: int) -> None:
        self._file, self._start, self._size = file, start, size
        self.seek(0)

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        position += {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self._size}[whence]
        if position < 0:
            raise ValueError("before the start")
        return self._file.seek(self._start + position) - self._start

    def tell(self) -> int:
        return self._file.tell() - self._start

    def read(self, n: int = -1) -> bytes:
        left = max(0, self._size - self.tell())
        return self._file.read(left if n < 0 else min(n, left))


def _member_bytes(file: BufferedReader, member: _Member, limit: int) -> bytes:
    file.seek(member.start)
    return file.read(min(member.size, limit))


def _archive_without_data(
    data: bytes, storages: dict[str, _Member]
) -> tuple[io.BytesIO, dict[int, _Member]]:
    """Write an archive of the same pickle, with empty storages, for torch to unpickle.

    Returns:
        The archive, and each storage by its position in it, which is how torch identifies them.
    """
    stub = io.BytesIO()
    starts: dict[int, _Member] = {}
    with zipfile.ZipFile(stub, "w") as archive:
        archive.writestr("stub/data.pkl", data)
        archive.writestr("stub/version", b"3\n")
        archive.writestr("stub/byteorder", b"little")
        for name, member in storages.items():
            entry = zipfile.ZipInfo(f"stub/{name}")
            archive.writestr(entry, b"")
            starts[entry.header_offset + len(entry.FileHeader())] = member
    stub.seek(0)
    return stub, starts


def _is_tensor(value: Any) -> bool:
    return type(value) in (Tensor, nn.Parameter)


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(map(_is_tensor, dict.values(value)))


def _holds_only_tensors(value: dict[Any, Any]) -> bool:
    return all(isinstance(key, str) and _is_tensor(each) for key, each in dict.items(value))


def _tensor_fault(tensor: Tensor, steps: list[tuple[int, int]]) -> str:
    """Say why a tensor should not be read although all of it is there."""
    if tensor.is_neg() or tensor.is_conj():
        return "negated or conjugated only when it is used"
    reach = 0
    for stride, side in sorted(steps):
        if stride <= reach and tensor.numel():
            return "expanded from fewer numbers, or overlapping itself"
        reach += stride * (side - 1)
    return ""
