"""What the readers of all formats share: a file is described when opened, and read by tensor."""

from __future__ import annotations

import errno
import mmap
import os
import re
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from ...projectors.files import open_regular
from ...registry import quote
from ..errors import CheckpointError

__all__ = ["ByteSource", "LocalFile", "TensorFile", "TensorInfo", "refuse_other_formats"]

WINDOW = 1 << 26  # bytes; a multiple of every machine's page size

_HINTS = {
    errno.EINVAL: "Name another path.",
    errno.ENOENT: "Look at the path; nothing is downloaded.",
    errno.EMFILE: "Close some files, or allow more: ulimit -n.",
    errno.ENOMEM: "There is too little memory for its tensors.",
}
# How other files begin, in lower case; what they are; what to do.
_OTHER_FORMATS = (
    ((b"version https://git-lfs",), "a git-lfs pointer", "Run: git lfs pull"),
    ((b"<!doctype", b"<html", b"<?xml"), "a web page", "Download the file itself."),
    ((b"gguf",), "a GGUF file", "Use the model it was converted from."),
)
# Of files that begin in no way of their own.
_OTHER_SUFFIXES = {
    ".onnx": "an ONNX model",
    ".pt2": "a program of torch.export",
    ".pte": "a program of ExecuTorch",
    ".tflite": "a LiteRT model",
    ".npz": "an archive of NumPy",
    ".h5": "an HDF5 file",
    ".msgpack": "a file of Flax",
}
# A model's name on a hub, or the address of its page, given in place of a path.
_HUB = re.compile(
    r"(?:https?:/+)?(?:huggingface[.]co/+)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w-]*(?:\.\d[\w-]*)*)",
    re.ASCII,
)


@dataclass(frozen=True)
class TensorInfo:
    """A tensor in a file, as the file describes it.

    Attributes:
        dtype: Its dtype.
        shape: Its shape.
        start: The position of its first byte in the file.
        nbytes: Its size in bytes.
        strides: Its strides, in elements, if it is not contiguous.
        fault: Why it must not be read; empty if it may be.
        hint: One thing to try then.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    nbytes: int
    strides: tuple[int, ...] | None = None
    fault: str = ""
    hint: str = "Call .clone() on it before torch.save."


class ByteSource(ABC):
    """The bytes of a file of tensors: on this machine, or at the other end of a connection.

    Attributes:
        where: What messages call the file.
        size: Its size in bytes.
        file: The file, to be read and searched for what describes the tensors.
    """

    where: str
    size: int
    file: BufferedReader

    @abstractmethod
    def span(self, first: int, end: int) -> tuple[int, mmap.mmap | bytearray]:
        """Return bytes that contain these ones, and the position of the first of them."""

    def close(self) -> None:
        """Give back what the system lent."""
        self.file.close()

    @abstractmethod
    def check(self) -> None:
        """Refuse a file that is no longer the one that was opened."""

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn an error of the system into ours."""
        yield


class LocalFile(ByteSource):
    """A regular file on this machine.

    Args:
        path: The file.

    Raises:
        CheckpointError: It cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.where = str(self.path)
        self._pages_start = 0
        self._pages: mmap.mmap | bytearray = bytearray()
        # Stays open as long as this object: another file may have the path by the time of reading.
        with self.explained():
            self.file = open_regular(self.path)
            self._status = os.fstat(self.file.fileno())
        self.size = self._status.st_size
        weakref.finalize(self, self.file.close)

    def check(self) -> None:
        """Refuse a file that was written to since it was opened."""
        before, now = self._status, os.fstat(self.file.fileno())
        if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            found = "the file changed while it was read"
            raise CheckpointError(found, self.where, hint="Try again.")

    def span(self, first: int, end: int) -> tuple[int, mmap.mmap | bytearray]:
        """Map these bytes, and some around them for the tensors that follow.

        Not the whole file: a private mapping that is larger than memory is refused.
        """
        if not (self._pages_start <= first and end <= self._pages_start + len(self._pages)):
            start = first - first % WINDOW
            length = min(end + -end % WINDOW, self.size) - start
            # Private: what is written to the tensors does not reach the file.
            self._pages = mmap.mmap(
                self.file.fileno(), length, access=mmap.ACCESS_COPY, offset=start
            )
            self._pages_start = start
        return self._pages_start, self._pages

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn an error of the system into ours."""
        try:
            yield
        except OSError as error:
            hint = _HINTS.get(error.errno or 0, "Look at the path and its permissions.")
            model = _HUB.fullmatch(self.where)
            if model and not self.path.parent.exists():
                hint = f"If it is a model of a hub, write: hf://{model[1]}"
            elif self.where.startswith("hf:/"):
                hint = "Give hf:// as text: a path makes one slash of the two."
            found = f"cannot be read: {error.strerror}"
            raise CheckpointError(found, self.where, hint=hint) from error


class TensorFile(ABC):
    """A file of tensors.

    Args:
        path: The file. Only what describes the tensors is read.

    Attributes:
        where: What messages call the file.
        tensors: What it holds, by key.
        metadata: Its metadata, text to text.

    Raises:
        CheckpointError: It cannot be read, is something else, is cut off, or contradicts itself.
    """

    kind: ClassVar[str]

    def __init__(self, path: str | os.PathLike[str] | ByteSource) -> None:
        self.source = path if isinstance(path, ByteSource) else LocalFile(path)
        self.where = self.source.where
        self.tensors: dict[str, TensorInfo] = {}
        self.metadata: dict[str, str] = {}
        with self.source.explained():
            try:
                self._describe(self.source.file, self.source.size)
            except BaseException:  # its traceback keeps this object, and so the file, alive
                self.source.close()
                raise

    @abstractmethod
    def _describe(self, file: BufferedReader, size: int) -> None:
        """Find out what the file holds, and check it."""

    def error(
        self, found: str, expected: str = "", hint: str = "", keys: Iterable[object] = ()
    ) -> CheckpointError:
        """Return an error about the file, or about what has these keys in it."""
        where = self.where + "".join(f"[{quote(key)}]" for key in keys)
        return CheckpointError(found, where, expected, hint)

    def read(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """Map some tensors. Their pages are read when they are used, all others never.

        They belong to the file that was opened, even if its path leads to another by now, as
        after `save_projector`. As with safetensors' own reader, the process dies if somebody
        truncates the file meanwhile.

        Raises:
            CheckpointError: The file cannot be read, or was written to since it was opened.
        """
        with self.source.explained():
            self.source.check()
            return {key: self._tensor(self._readable(key)) for key in keys}

    def _readable(self, key: str) -> TensorInfo:
        info = self.tensors[key]
        if info.fault:
            found = f"a tensor of {info.shape}, {info.fault}"
            raise self.error(found, "a tensor of its own numbers", info.hint, (key,))
        return info

    def _tensor(self, info: TensorInfo) -> Tensor:
        if not info.nbytes:
            return torch.empty(info.shape, dtype=info.dtype)
        start, data = self.source.span(info.start, info.start + info.nbytes)
        offset = info.start - start
        flat = torch.frombuffer(data, dtype=torch.uint8, count=info.nbytes, offset=offset)
        if offset % info.dtype.itemsize:  # a view would not be aligned
            flat = flat.clone()
        flat = flat.view(info.dtype)
        if info.strides is not None:
            return flat.as_strided(info.shape, info.strides).contiguous()
        return flat.view(info.shape)


def refuse_other_formats(start: bytes, where: str, expected: str) -> None:
    """Say what a file is, from its first bytes or its name, if it is no checkpoint at all."""
    text = start.lstrip().lower()
    for starts, found, hint in _OTHER_FORMATS:
        if text.startswith(starts):
            raise CheckpointError(found, where, expected, hint)
    for suffix, found in _OTHER_SUFFIXES.items():
        if where.lower().endswith(suffix):
            hint = "Use the checkpoint that it was made of."
            raise CheckpointError(found, where, expected, hint)
