"""The weights of a model, in one file or in a folder's shards, read tensor by tensor on demand."""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor

from ..registry import printable, quote
from .errors import CheckpointError, convert_pickle
from .formats.index import JSON, read_index
from .formats.safetensors import SafetensorsFile
from .formats.tensor_file import TensorFile, TensorInfo
from .formats.torch_pickle import PickleFile

__all__ = ["JSON", "ProgressCallback", "Weights"]

ProgressCallback: TypeAlias = Callable[[int, int], None]
"""Called with the number of bytes that are read, and of all that will be."""


@dataclass(frozen=True)
class _Format:
    """What a folder's files of weights are called: a single one, an index of shards, any other."""

    open: type[TensorFile]
    names: tuple[str, ...]
    index: str
    suffix: str


_SAFETENSORS = _Format(
    SafetensorsFile, ("model.safetensors",), "model.safetensors.index.json", ".safetensors"
)
_PICKLES = _Format(
    PickleFile,
    ("pytorch_model.bin", "mm_projector.bin", "non_lora_trainables.bin"),
    "pytorch_model.bin.index.json",
    ".bin",
)


class Weights:
    """The tensors of a checkpoint by key, in whichever of its files they are.

    Args:
        path: A file, or a model's folder.
        pickled: Whether the weights are pickled; else they are safetensors.

    Attributes:
        path: The same.
        keys: All keys, in order.
        metadata: The metadata of a single file; empty for shards.

    Raises:
        CheckpointError: There are no weights, or their index is damaged.
    """

    def __init__(self, path: str | os.PathLike[str], *, pickled: bool = False) -> None:
        self.path = Path(path)
        self.pickled = pickled
        self._format = _PICKLES if pickled else _SAFETENSORS
        self._files: dict[str, TensorFile] = {}
        # os.path returns False where Path raises, for example for a name that is too long.
        folder = os.path.isdir(self.path)
        self._folder = self.path if folder else self.path.parent
        only = self._only_file() if folder else self.path.name
        self._shards = (
            read_index(self.path / self._format.index)
            if only is None
            else dict.fromkeys(self._open(only).tensors, only)
        )
        self.metadata: dict[str, str] = {} if only is None else self._open(only).metadata
        self.keys: tuple[str, ...] = tuple(self._shards)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The ``config.json`` of the folder, or beside the file; {} without; read on first use."""
        path = self._folder / "config.json"
        return JSON.read(path) if os.path.exists(path) else {}

    @cached_property
    def _sorted(self) -> list[str]:
        return sorted(self.keys)

    def under(self, root: str) -> list[str]:
        """Return the keys that begin with a root, sorted, without going through all others."""

        def start(key: str) -> str:
            return key[: len(root)]

        first = bisect_left(self._sorted, root, key=start)
        return self._sorted[first : bisect_right(self._sorted, root, first, key=start)]

    def stored(self, key: str) -> TensorInfo:
        """Return what a file says of a tensor.

        Raises:
            CheckpointError: The index names a file that does not hold it.
        """
        file = self._open(self._shards[key])
        if key not in file.tensors:
            raise CheckpointError(
                f"{quote(self._shards[key])} does not hold {quote(key)}",
                str(self.path / self._format.index),
                hint="Index and shards are of different models: download them again.",
            )
        return file.tensors[key]

    def read(
        self, keys: Iterable[str], progress: ProgressCallback | None = None
    ) -> Iterator[tuple[str, Tensor]]:
        """Read some tensors one by one, and nothing else of the files.

        Raises:
            CheckpointError: A tensor cannot be read.
        """
        sizes = {key: self.stored(key).nbytes for key in keys}
        done, total = 0, sum(sizes.values())
        for key, size in sizes.items():
            if progress is not None:
                progress(done, total)
            yield key, self._open(self._shards[key]).read([key])[key]
            done += size
        if progress is not None:
            progress(done, total)

    @property
    def pickled_files(self) -> list[str]:
        """The folder's files that are pickled weights by their names."""
        names = self._named(_PICKLES.suffix)
        return [name for name in names if name != "training_args.bin"]  # transformers' Trainer's

    def _named(self, suffix: str) -> list[str]:
        """Return the folder's files of that suffix, without hidden (temporary) ones."""
        return sorted(path.name for path in self.path.glob(f"[!.]*{suffix}"))

    def _open(self, name: str) -> TensorFile:
        if name not in self._files:
            self._files[name] = self._format.open(self._folder / name)
        return self._files[name]

    def _only_file(self) -> str | None:
        """Return the name of the folder's single file of weights; None if there is an index."""
        for name in self._format.names:
            if (self.path / name).exists():
                return name
        if (self.path / self._format.index).exists():
            return None
        safetensors = self._named(_SAFETENSORS.suffix)
        names = self.pickled_files if self.pickled else safetensors
        if len(names) == 1:
            return names[0]
        if names:
            raise CheckpointError(
                f"{len(names)} {self._format.suffix[1:]} files and no {self._format.index}",
                str(self.path),
                hint=f"Name one of them: {', '.join(map(printable, names[:4]))}.",
            )
        hint = "Name the file or the folder that holds them."
        if self.pickled_files:
            first = printable(self.pickled_files[0])
            hint = f"{first} is a pickle, which can run code, so it is not loaded. "
            hint += convert_pickle(self.path)
        elif safetensors:
            hint = f"Leave out from_pickle=True: {printable(safetensors[0])} is not a pickle."
        raise CheckpointError(
            "no weights in this folder", str(self.path), " or ".join(self._format.names), hint
        )
