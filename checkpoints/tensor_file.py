"""A file of tensors: described in full and checked when it is opened, read tensor by tensor."""

from __future__ import annotations

import errno
import mmap
import os
import re
import stat
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

from ..registry import first_line
from .errors import CheckpointError

__all__ = ["Stored", "TensorFile", "refuse_others"]

WINDOW = 1 << 26  # bytes; a multiple of every machine's pages

_CONTENT = ("st_size", "st_mtime_ns")  # what writing to a file changes

_HINTS = {
    errno.ENOENT: "Look at the path; nothing is downloaded.",
    errno.EMFILE: "Close some files, or allow more: ulimit -n.",
    errno.ENOMEM: "There is too little memory for its tensors.",
}
# A model's name on a hub, where it is no path.
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w-]*(?:\.\d[\w-]*)*", re.ASCII)


@dataclass(frozen=True)
class Stored:
    """A tensor in a file, as the file describes it.

    Attributes:
        dtype: Its dtype.
        shape: Its shape.
        start: Where its bytes begin, counted from where the file's data do.
        nbytes: How many there are.
        strides: Its strides, in elements, where they are not those of a contiguous tensor.
        fault: Why it is not to be read, if so.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    nbytes: int
    strides: tuple[int, ...] | None = None
    fault: str = ""


class TensorFile(ABC):
    """A file of tensors.

    Args:
        path: The file. Nothing is read but what describes the tensors.

    Attributes:
        path: The file.
        tensors: What it holds, by key.
        metadata: Its metadata, text to text.

    Raises:
        CheckpointError: It cannot be read, is something else, is cut off, or contradicts itself.
    """

    kind: ClassVar[str]

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.tensors: dict[str, Stored] = {}
        self.metadata: dict[str, str] = {}
        self._data = 0
        self._start = 0
        self._pages: mmap.mmap | bytes = b""
        # Open for as long as this lives: the path may lead to another file when it is read.
        with self._explained():
            self._file, self._status = self._open()
            close = weakref.finalize(self, self._file.close)
            try:
                self._describe(self._file, self._status.st_size)
            except BaseException:  # which holds on to this as long as it lives
                close()
                raise

    @abstractmethod
    def _describe(self, file: BufferedReader, size: int) -> None:
        """Find out and check what the file holds."""

    def read(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """Map some tensors; their pages are read when they are used, the rest never.

        They are those of the file that was opened, even where another has its name by now, as
        after `save_projector`. As with safetensors' own reader, a file that somebody cuts off
        meanwhile takes the process with it.

        Raises:
            CheckpointError: The file cannot be read, or was written to since it was opened.
        """
        with self._explained():
            status = os.fstat(self._file.fileno())
            if any(getattr(status, f) != getattr(self._status, f) for f in _CONTENT):
                raise CheckpointError(
                    "the file changed while it was read", str(self.path), hint="Try again."
                )
            return {key: self._tensor(self._file, self.tensors[key]) for key in keys}

    def _tensor(self, file: BufferedReader, stored: Stored) -> Tensor:
        if not stored.nbytes:
            return torch.empty(stored.shape, dtype=stored.dtype)
        first = self._data + stored.start
        self._map(file, first, first + stored.nbytes)
        flat = torch.frombuffer(
            self._pages, dtype=torch.uint8, count=stored.nbytes, offset=first - self._start
        )
        if first % stored.dtype.itemsize:  # a view would not be aligned
            flat = flat.clone()
        flat = flat.view(stored.dtype)
        if stored.strides is not None:
            return flat.as_strided(stored.shape, stored.strides).contiguous()
        return flat.view(stored.shape)

    def _map(self, file: BufferedReader, first: int, end: int) -> None:
        """Have these bytes mapped, with some around them for the tensors that follow.

        Not the whole file: it may be larger than what the system lends to one mapping.
        """
        if self._start <= first and end <= self._start + len(self._pages):
            return
        start = first - first % WINDOW
        stop = min(end + -end % WINDOW, self._status.st_size)
        # Private: whatever is written to the tensors stays out of the file.
        self._pages = mmap.mmap(file.fileno(), stop - start, access=mmap.ACCESS_COPY, offset=start)
        self._start = start

    def _open(self) -> tuple[BufferedReader, os.stat_result]:
        """Open a regular file, and refuse all else."""
        handle = _open(self.path)
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            os.close(handle)
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise CheckpointError(kind, str(self.path), self.kind, "Name another path.")
        return os.fdopen(handle, "rb"), status

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say so when the file cannot be read."""
        try:
            yield
        except OSError as error:
            hint = _HINTS.get(error.errno or 0, "Look at the path and its rights.")
            if _HUB.fullmatch(str(self.path)) and not self.path.parent.exists():
                hint = "Nothing is downloaded. If it is a model of a hub, fetch it first: "
                hint += f"hf download {self.path} --local-dir {self.path.name}"
            raise CheckpointError(
                f"cannot be read: {error.strerror}", str(self.path), hint=hint
            ) from error


def _open(path: Path) -> int:
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for a writer for ever.
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except ValueError as error:  # a path with a NUL or half a surrogate pair in it
        found = f"cannot be read: {first_line(error)}"
        raise CheckpointError(found, str(path), hint=_HINTS[errno.ENOENT]) from error


def refuse_others(start: bytes, where: str, expected: str) -> None:
    """Say what a file is that is no checkpoint at all, from its first bytes."""
    text = start.lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            "a git-lfs pointer, not the file itself", where, hint="Run: git lfs pull"
        )
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(
            "a web page, not a checkpoint", where, hint="Download the file itself."
        )
    if start.startswith(b"GGUF"):
        raise CheckpointError(
            "a GGUF file", where, expected, "Use the model it was converted from."
        )
