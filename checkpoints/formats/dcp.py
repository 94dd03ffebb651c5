"""A folder of torch.distributed.checkpoint, read without running anything in it.

Its ``.metadata`` is a pickle of a dozen classes, which say of which chunks a tensor consists and
where in the folder's files each chunk is; a chunk is a file of `torch.save` inside one of these
files. torch itself unpickles ``.metadata`` without any check (`FileSystemReader.read_metadata`,
`dcp_to_torch_save`). Here its opcodes are checked, and the classes that it names become records
of what it says: none of torch's own is looked up or called. Of the chunks only those of tensors
that are wanted are read, each like any other file of `torch.save`.
"""

from __future__ import annotations

import io
import math
import os
import pickle
from collections.abc import Iterable
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ...registry import quote
from .opcodes import opcode_fault
from .safetensors import DTYPES
from .tensor_file import TensorFile, TensorInfo
from .torch_pickle import PickledTensor

__all__ = ["METADATA", "DcpFile"]

METADATA = ".metadata"
MAX_METADATA = 100_000_000
MAX_OPCODES = 4_000_000  # some 40 for each chunk
MAX_CHUNKS = 4_096  # of a tensor

_OPCODES = frozenset(
    {
        *("PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET"),
        *("LONG_BINGET", "GLOBAL", "STACK_GLOBAL", "NEWOBJ", "REDUCE", "BUILD", "NONE"),
        *("NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
        *("SHORT_BINUNICODE", "BINUNICODE", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
        *("EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS"),
    }
)
_HINT = "Save the state dict alone, with torch.save, where it was made."
_CUT = "It is cut off or damaged: copy or save it again."


class _Closed(type):
    """The class of classes to which nothing can be set: a pickle may try."""

    def __setattr__(cls, name: str, value: object) -> None:
        raise AttributeError(name)


class _Record(metaclass=_Closed):
    """What a pickle says of an object: what it is made with, and its state."""

    def __new__(cls, *args: Any) -> _Record:
        self = super().__new__(cls)
        self.args = args
        self.state = None
        return self

    args: tuple[Any, ...]
    state: Any

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def field(self, name: str) -> Any:
        """Return a field of the state, or None."""
        return self.state.get(name) if isinstance(self.state, dict) else None


def _records(module: str, *names: str) -> dict[tuple[str, str], type[_Record]]:
    return {(module, name): cast("type[_Record]", _Closed(name, (_Record,), {})) for name in names}


_DCP = "torch.distributed.checkpoint"
_METADATA = _records(
    f"{_DCP}.metadata",
    *("Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata"),
    *("MetadataIndex", "TensorProperties", "_MEM_FORMAT_ENCODING", "StorageMeta"),
)
_DTYPES = _records("torch", *(str(dtype).partition(".")[2] for dtype in DTYPES.values()))
_BY_RECORD = dict(zip(_DTYPES.values(), DTYPES.values(), strict=True))
_CLASSES = {
    **_METADATA,
    **_DTYPES,
    **_records(f"{_DCP}.filesystem", "_StorageInfo"),
    **_records("torch", "Size"),
    **_records("torch.serialization", "_get_layout"),
    **_records("pathlib", "PosixPath", "WindowsPath"),
    **_records("pathlib._local", "PosixPath", "WindowsPath"),
}
_TENSOR = _CLASSES[f"{_DCP}.metadata", "TensorStorageMetadata"]


class _Unpickler(pickle.Unpickler):
    """Makes records of the classes that are expected, and knows no others."""

    def find_class(self, module: str, name: str) -> type[_Record]:
        try:
            return _CLASSES[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name}") from None


class _Chunk(NamedTuple):
    """A chunk of a tensor: where it begins in it, its shape, and where its bytes are."""

    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    file: str
    start: int
    nbytes: int


class DcpFile(TensorFile):
    """The ``.metadata`` of such a folder, and by it the tensors of all files; see `TensorFile`."""

    kind = "the .metadata of torch.distributed.checkpoint"

    def _describe(self, file: BufferedReader, size: int) -> None:
        if size > MAX_METADATA:
            raise self.error("too long", f"at most {MAX_METADATA:,} bytes", _HINT)
        metadata = self._unpickle(file.read(MAX_METADATA))
        entries, storages = (_field(metadata, f) for f in ("state_dict_metadata", "storage_data"))
        if not isinstance(entries, dict) or not isinstance(storages, dict):
            raise self.error("not a checkpoint's metadata", self.kind, _CUT)
        self._entries = {
            key: entry
            for key, entry in entries.items()
            if isinstance(key, str) and isinstance(entry, _TENSOR)
        }
        self._storages = {
            (_field(index, "fqn"), _sizes(_field(index, "offset"))): storage
            for index, storage in storages.items()
            if isinstance(_field(index, "fqn"), str)
        }
        for key, entry in self._entries.items():
            self.tensors[key] = self._info(key, entry)

    def _unpickle(self, data: bytes) -> Any:
        names = {f"{module} {name}" for module, name in _CLASSES}
        try:
            found = opcode_fault(data, MAX_OPCODES, names, _OPCODES)
            if not found:
                return _Unpickler(io.BytesIO(data)).load()
        except pickle.UnpicklingError as error:
            found = f"it asks for {quote(str(error), 200)}"
        except Exception:  # whatever else a hostile pickle leads to
            raise self.error("its pickle is damaged", hint=_CUT) from None
        raise self.error(found, "what describes tensors", _HINT)

    def _info(self, key: str, entry: _Record) -> TensorInfo:
        shape = _sizes(entry.field("size"))
        properties = _field(entry, "properties")
        state = properties.state if isinstance(properties, _Record) else None
        first = state[0] if isinstance(state, tuple) and state else _field(properties, "dtype")
        dtype = _BY_RECORD.get(first) if isinstance(first, type) else None
        if shape is None or dtype is None:
            raise self.error("not a tensor's description", hint=_CUT, keys=(key,))
        return TensorInfo(dtype, shape, 0, math.prod(shape) * dtype.itemsize)

    def read(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """Read some tensors, each out of the chunks that it was saved in.

        Raises:
            CheckpointError: A chunk is missing, damaged or another one than described.
        """
        return {key: self._put_together(key) for key in keys}

    def _put_together(self, key: str) -> Tensor:
        """Read a tensor's chunks into one."""
        info = self.tensors[key]
        chunks = self._chunks(key, info.shape)
        for chunk in chunks:  # the bytes must be there before anything is allocated
            part = self._open(key, chunk, info.dtype)
        if len(chunks) == 1:
            return part.read([""])[""]
        tensor = torch.empty(info.shape, dtype=info.dtype)
        for chunk in chunks:
            sides = zip(chunk.offsets, chunk.shape, strict=True)
            place = tuple(slice(start, start + side) for start, side in sides)
            tensor[place] = self._open(key, chunk, info.dtype).read([""])[""]
        return tensor

    def _open(self, key: str, chunk: _Chunk, dtype: torch.dtype) -> PickledTensor:
        part = PickledTensor(Path(self.where).parent / chunk.file, chunk.start, chunk.nbytes)
        found = part.tensors[""]
        if (found.dtype, found.shape) != (dtype, chunk.shape) or found.fault:
            raise self.error(
                f"a chunk of {found.shape} and {found.dtype}",
                f"{chunk.shape} and {dtype}",
                _CUT,
                (key,),
            )
        return part

    def _chunks(self, key: str, shape: tuple[int, ...]) -> list[_Chunk]:
        """Return a tensor's chunks, which cover all of it once."""
        entries = self._entries[key].field("chunks")
        if not isinstance(entries, list) or len(entries) > MAX_CHUNKS:
            raise self.error("no list of chunks that can be read", hint=_CUT, keys=(key,))
        chunks = []
        for entry in entries:
            offsets, sides = (_sizes(_field(entry, name)) for name in ("offsets", "sizes"))
            storage = self._storages.get((key, offsets))
            file, start, nbytes = (
                _field(storage, name) for name in ("relative_path", "offset", "length")
            )
            if _field(storage, "transform_descriptors"):
                raise self.error("a chunk that is compressed", hint=_HINT, keys=(key,))
            if offsets is None or sides is None or None in (_sizes_of(start), _sizes_of(nbytes)):
                raise self.error("a chunk that is nowhere", hint=_CUT, keys=(key,))
            if not isinstance(file, str) or file != os.path.basename(file) or file in ("", ".."):
                raise self.error(f"{quote(file)} is not a plain file name", hint=_CUT, keys=(key,))
            chunks.append(_Chunk(offsets, sides, file, start, nbytes))
        places = {(each.file, each.start) for each in chunks}
        if len(places) != len(chunks) or not _is_grid(chunks, shape):
            found = f"chunks that do not cover {shape} once"
            raise self.error(found, hint=_CUT, keys=(key,))
        return chunks


def _is_grid(chunks: list[_Chunk], shape: tuple[int, ...]) -> bool:
    """Return whether chunks cover a shape once: each axis is cut, and all cells are there."""
    if any(not len(each.offsets) == len(each.shape) == len(shape) for each in chunks):
        return False
    cells = 1
    for axis, whole in enumerate(shape):
        spans = {(each.offsets[axis], each.shape[axis]) for each in chunks}
        end = 0
        for start, side in sorted(spans):
            if start != end:
                return False
            end += side
        if end != whole:
            return False
        cells *= len(spans)
    return len({each.offsets for each in chunks}) == len(chunks) == cells


def _field(record: object, name: str) -> Any:
    return record.field(name) if isinstance(record, _Record) else None


def _sizes(record: object) -> tuple[int, ...] | None:
    """Return the sides that a torch.Size says; None if it says none, or too many or too large."""
    if not isinstance(record, _Record) or len(record.args) != 1:
        return None
    [sides] = record.args
    return _sizes_of(*sides) if isinstance(sides, tuple | list) else None


def _sizes_of(*sides: object) -> tuple[int, ...] | None:
    numbers = tuple(side for side in sides if type(side) is int and 0 <= side < 1 << 62)
    if len(numbers) != len(sides) or len(sides) > 64:
        return None
    return numbers if math.prod(side or 1 for side in numbers) <= 1 << 60 else None
