"""A file of `torch.save`, of which nothing is run and nothing is believed unchecked.

Such a file is a zip archive of a pickle, which describes the tensors, and of their bytes. The
archive and the pickle's opcodes are looked through here; what is left is for torch's restricted
unpickler, on the meta device, and every tensor that comes out is held against the archive.
"""

from __future__ import annotations

import io
import pickletools
import re
import struct
import warnings
import zipfile
from dataclasses import dataclass
from io import BufferedReader
from typing import Any

import torch
from torch import Tensor, nn

from ..registry import quote
from .errors import CheckpointError
from .safetensors_file import DTYPES
from .tensor_file import Stored, TensorFile, refuse_others

__all__ = ["PickleFile"]

# Before 2.10 weights_only had known holes; before 2.11 the meta device still read every storage.
MIN_TORCH = (2, 11)
MAX_DIRECTORY = 32_000_000
MAX_PICKLE = 10_000_000
# Of a pickle as long as that: torch.save writes 2.6 bytes an opcode or more, 72 a tensor or more.
MAX_OPCODES = 4_000_000
MAX_MEMBERS = 150_000
# What a tensor's arguments come to, with room to spare; a tuple is also hashed, which recurses.
MAX_TUPLE = 1_000
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

_CUT = "It is cut off or damaged: download or save it again."
_AGAIN = "Save it again with torch.save."
_STATE_DICT = "Save the state dict alone, with torch.save, where the file was made."


@dataclass(frozen=True)
class _Member:
    """Where the bytes of an archive's member are."""

    start: int
    size: int


class PickleFile(TensorFile):
    """A file of `torch.save` that holds tensors by name, or one dict of them; see `TensorFile`."""

    kind = "an archive of torch.save"

    def _describe(self, file: BufferedReader, size: int) -> None:
        where = str(self.path)
        _refuse_by_start(file.read(512), where)
        if tuple(int(part) for part in torch.__version__.split(".")[:2]) < MIN_TORCH:
            raise CheckpointError(
                f"a pickle, which torch {torch.__version__} cannot look into safely",
                where,
                "torch {}.{} or later".format(*MIN_TORCH),
                "Upgrade torch.",
            )
        members = _members(file, size, where)
        order = members.get("byteorder")
        if order is not None and _bytes(file, order, 16) != b"little":
            raise CheckpointError(
                "its numbers are big-endian", where, hint="Save it on a little-endian machine."
            )
        if members["data.pkl"].size > MAX_PICKLE:
            raise CheckpointError(
                f"a pickle of {members['data.pkl'].size:,} bytes beside the tensors' own",
                where,
                f"at most {MAX_PICKLE:,}",
                _STATE_DICT,
            )
        data = _bytes(file, members["data.pkl"], MAX_PICKLE)
        _look_through(data, where)
        storages = {name: each for name, each in members.items() if name.startswith("data/")}
        stub, starts = _stub(data, storages)
        for key, tensor in _named(_unpickle(stub, where), where):
            path = f"{where}[{quote(key)}]"
            # Set by torch where the storage's record is; a pickle may have put anything there.
            place = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
            if type(place) is not int or place not in starts:
                raise CheckpointError("a tensor of no storage in the archive", path, hint=_AGAIN)
            self.tensors[key] = _stored(tensor, starts[place], path)


def _refuse_by_start(start: bytes, where: str) -> None:
    refuse_others(start, where, PickleFile.kind)
    if start[8:9] == b"{":
        raise CheckpointError(
            "a safetensors file", where, PickleFile.kind, "Leave out from_pickle=True."
        )
    if start[:1] == b"\x80" or start[257:262] == b"ustar":
        raise CheckpointError(
            "a pickle without an archive, as torch before 1.6 and other tools write it",
            where,
            PickleFile.kind,
            "Load it with torch.load(PATH, weights_only=True) and save it again with torch.save.",
        )
    if start[:4] != b"PK\x03\x04":
        raise CheckpointError("no pickle of PyTorch's", where, PickleFile.kind, _CUT)


class _Bounded:
    """A file for `zipfile`, which would read a directory of any size."""

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, n: int = -1) -> bytes:
        return self._file.read(MAX_DIRECTORY if n < 0 else min(n, MAX_DIRECTORY))


def _members(file: BufferedReader, size: int, where: str) -> dict[str, _Member]:
    """Find the archive's members by their names under its folder; they lie apart, uncompressed."""
    try:
        entries = zipfile.ZipFile(_Bounded(file)).infolist()
    except OSError:
        raise
    except Exception:  # BadZipFile, and whatever else a made-up directory leads to
        raise CheckpointError("its zip directory is missing or damaged", where, hint=_CUT) from None
    if not any(re.fullmatch("[^/]+/data[.]pkl", entry.orig_filename) for entry in entries):
        raise CheckpointError("a zip archive of something else", where, PickleFile.kind, _AGAIN)
    if len(entries) > MAX_MEMBERS:
        raise CheckpointError(
            f"an archive of {len(entries):,} members",
            where,
            f"at most {MAX_MEMBERS:,}",
            _STATE_DICT,
        )
    members: dict[str, _Member] = {}
    spans: list[tuple[int, int]] = []
    roots: set[str] = set()
    for entry in entries:
        root, _, name = entry.orig_filename.partition("/")
        path = f"{where}[{quote(entry.orig_filename)}]"
        if not all(part not in ("", ".", "..") for part in (root, *name.split("/"))) or re.search(
            r"[\\\x00-\x1f\x7f]", entry.orig_filename
        ):
            raise CheckpointError("no name for a member of an archive", path, hint=_AGAIN)
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            how = "encrypted" if entry.flag_bits & 1 else "compressed"
            raise CheckpointError(
                f"{how}, which torch.save never does", path, hint=f"Unpack it. {_AGAIN}"
            )
        if name in members:
            raise CheckpointError("there twice", path, hint=_AGAIN)
        header = b""
        if 0 <= entry.header_offset < size:
            file.seek(entry.header_offset)
            header = file.read(LOCAL_HEADER.size)
        if len(header) < LOCAL_HEADER.size or header[:4] != b"PK\x03\x04":
            raise CheckpointError("not where the zip directory says", path, hint=_CUT)
        _, n, m = LOCAL_HEADER.unpack(header)
        start = entry.header_offset + LOCAL_HEADER.size + n + m
        members[name] = _Member(start, entry.file_size)
        spans.append((entry.header_offset, start + entry.file_size))
        roots.add(root)
    end = 0
    for first, last in sorted(spans):
        if first < end or last > size:
            kind = "overlap" if first < end else "end beyond the file"
            raise CheckpointError(f"its members {kind} at byte {first:,}", where, hint=_CUT)
        end = last
    if "constants.pkl" in members:
        raise CheckpointError("a TorchScript archive, which is code", where, hint=_STATE_DICT)
    if len(roots) > 1:
        raise CheckpointError("more than one archive in one file", where, hint=_AGAIN)
    return members


def _bytes(file: BufferedReader, member: _Member, limit: int) -> bytes:
    file.seek(member.start)
    return file.read(min(member.size, limit))


def _look_through(data: bytes, where: str) -> None:
    """Refuse what no dict of tensors needs, from the pickle's opcodes; none of them is run."""
    # Of every value only this much is followed: how many values a tuple comes to, written out.
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[Any, int] = {}
    try:
        for count, (opcode, arg, _) in enumerate(pickletools.genops(data)):
            if count >= MAX_OPCODES:
                raise CheckpointError(
                    f"a pickle of more than {MAX_OPCODES:,} opcodes",
                    where,
                    "tensors by name",
                    _STATE_DICT,
                )
            name = opcode.name
            if name == "GLOBAL" and arg not in _GLOBALS:
                raise CheckpointError(
                    f"it asks for {quote(str(arg).replace(' ', '.'))}, which is no tensor",
                    where,
                    "tensors by name",
                    _STATE_DICT,
                )
            if name == "MARK":
                marks.append(len(stack))
            elif name in ("BINPUT", "LONG_BINPUT"):
                memo[int(arg or 0)] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                stack.append(memo[int(arg or 0)])
            else:
                taken = opcode.stack_before
                if pickletools.markobject in taken:
                    start = marks.pop() - taken.index(pickletools.markobject)
                else:
                    start = len(stack) - len(taken)
                size = 1 + sum(stack[start:]) if "TUPLE" in name else 1
                if size > MAX_TUPLE:
                    raise CheckpointError(
                        f"a tuple of more than {MAX_TUPLE:,} values in its pickle",
                        where,
                        "tensors by name",
                        _STATE_DICT,
                    )
                stack[start:] = [size] * len(opcode.stack_after)
    except CheckpointError:
        raise
    except (LookupError, ValueError):
        raise CheckpointError("its pickle is damaged", where, hint=_CUT) from None


def _stub(data: bytes, storages: dict[str, _Member]) -> tuple[io.BytesIO, dict[int, _Member]]:
    """Write an archive of the same pickle with storages of no bytes, for torch to unpickle.

    Returns:
        The archive, and each storage by its place in it, by which torch then tells them apart.
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


def _unpickle(stub: io.BytesIO, where: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(stub, map_location="meta", weights_only=True)
    except Exception:  # anything; and torch's own words tell the user to load it without care
        raise CheckpointError(
            "torch's restricted loader refuses it",
            where,
            "nothing but tensors by name",
            _STATE_DICT,
        ) from None


def _named(value: Any, where: str) -> list[tuple[str, Tensor]]:
    """Return the tensors by their keys, out of a dict of them or of the only such dict in a dict.

    `dict`'s own methods are called, since an OrderedDict's may have been hidden by attributes.
    """
    if isinstance(value, dict) and not _holds_tensors(value):
        inner = [(key, each) for key, each in dict.items(value) if _holds_tensors(each)]
        if len(inner) > 1:
            names = ", ".join(quote(key) for key, _ in inner)
            raise CheckpointError(
                f"more than one dict of tensors: {names}", where, "one", _STATE_DICT
            )
        if inner:
            where, value = f"{where}[{quote(inner[0][0])}]", inner[0][1]
    if not _holds_tensors(value):
        raise CheckpointError(
            f"a pickled {type(value).__name__} without tensors",
            where,
            "tensors by name",
            _STATE_DICT,
        )
    for key, each in dict.items(value):
        if not isinstance(key, str):
            raise CheckpointError(
                f"a key that is no text but of type {type(key).__name__}",
                where,
                "tensors by name",
                _STATE_DICT,
            )
        if not _is_tensor(each):
            raise CheckpointError(
                f"of type {type(each).__name__}", f"{where}[{quote(key)}]", "a tensor", _STATE_DICT
            )
    return list(dict.items(value))


def _is_tensor(value: Any) -> bool:
    return type(value) in (Tensor, nn.Parameter)


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(map(_is_tensor, dict.values(value)))


def _stored(tensor: Tensor, member: _Member, where: str) -> Stored:
    """Say where a tensor's bytes are, which are all in its storage's."""
    shape, strides = tuple(tensor.shape), tensor.stride()
    size, itemsize = tensor.untyped_storage().nbytes(), tensor.dtype.itemsize
    steps = [(stride, side) for stride, side in zip(strides, shape, strict=True) if side != 1]
    last = sum(stride * (side - 1) for stride, side in steps)
    start = int(tensor.storage_offset()) * itemsize
    nbytes = (last + 1) * itemsize if tensor.numel() else 0
    # torch enlarges a storage on the meta device that is too small for its tensor.
    if size != member.size:
        raise CheckpointError(
            f"it needs {size:,} bytes, the archive has {member.size:,} for it", where, hint=_CUT
        )
    if start + nbytes > size:
        raise CheckpointError(
            f"it ends at byte {start + nbytes:,} of its storage's {size:,}",
            where,
            hint=_AGAIN,
        )
    return Stored(
        tensor.dtype,
        shape,
        member.start + int(start),
        nbytes,
        None if tensor.is_contiguous() else strides,
        _fault(tensor, steps),
    )


def _fault(tensor: Tensor, steps: list[tuple[int, int]]) -> str:
    """Say why a tensor should not be read although it is all there."""
    if tensor.is_neg() or tensor.is_conj():
        return "negated or conjugated only when it is used"
    reach = 0
    for stride, side in sorted(steps):
        if stride <= reach and tensor.numel():
            return "expanded from fewer numbers, or overlapping itself"
        reach += stride * (side - 1)
    return ""
