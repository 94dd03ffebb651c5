"""The weights of a model, in one file or in a folder's shards, read tensor by tensor on demand."""

from __future__ import annotations

import os
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor

from ..registry import printable, quote
from .errors import CheckpointError, convert_pickle
from .formats.dcp import METADATA, DcpFile
from .formats.index import JSON, read_index
from .formats.safetensors import SafetensorsFile
from .formats.tensor_file import TensorFile, TensorInfo
from .formats.torch_pickle import PickleFile
from .names import CONFIG, PICKLE, PICKLE_INDEX, WEIGHTS, WEIGHTS_INDEX
from .places import refuse_export, refuse_foreign, refuse_part, weights_nearby

__all__ = ["JSON", "ProgressCallback", "Weights"]

ProgressCallback: TypeAlias = Callable[[int, int], None]
"""Called with the number of bytes that are read, and of all that will be."""


@dataclass(frozen=True)
class _Format:
    """What a folder's files of weights are called: a single one, an index of shards, any other."""

    open: type[TensorFile]
    names: tuple[str, ...]
    index: str
    suffixes: tuple[str, ...]


_SAFETENSORS = _Format(SafetensorsFile, (WEIGHTS,), WEIGHTS_INDEX, (".safetensors",))
_PICKLES = _Format(
    PickleFile,
    (PICKLE, "mm_projector.bin", "non_lora_trainables.bin"),
    PICKLE_INDEX,
    (".bin", ".pth", ".pt", ".ckpt"),
)
_DCP = _Format(DcpFile, (METADATA,), "", ())
_INDEX = re.compile(r".*[.](safetensors|bin)[.]index[.]json")
# What trainers put beside the weights.
_NOT_WEIGHTS = re.compile(
    r"(?:training_args|optimizer|scheduler|scaler|sampler|rng_state|\w+_optim_states)[\w.-]*"
)


class Weights:
    """The tensors of a checkpoint by key, in whichever of its files they are.

    Args:
        path: A file, a model's folder, or the index of its shards.
        pickled: Whether the weights are pickled; else they are safetensors.

    Attributes:
        path: The same.
        where: What messages call it.
        folder: The folder of its files; None if they are not on this machine.
        model: The model's name on a hub; empty, as are the next two, for what is on this machine.
        commit: Its commit.
        licence: What the hub says of its licence.
        keys: All keys, in order.
        metadata: The metadata of a single file; empty for shards.

    Raises:
        CheckpointError: There are no weights, or their index is damaged.
    """

    folder: Path | None = None
    model = commit = licence = ""

    def __init__(self, path: str | os.PathLike[str], *, pickled: bool = False) -> None:
        self.path = Path(path)
        self.where = str(self.path)
        self.pickled = pickled
        self._format = _PICKLES if pickled else _SAFETENSORS
        self._files: dict[str, TensorFile] = {}
        # os.path returns False where Path raises, for example for a name that is too long.
        folder = os.path.isdir(self.path)
        self._folder = self.folder = self.path if folder else self.path.parent
        self._index = self._folder / self._format.index
        only = self._only_file() if folder else self._named_file()
        self._index_where = str(self._index)
        self._shards = (
            read_index(self._index)
            if only is None
            else dict.fromkeys(self._open(only).tensors, only)
        )
        self.metadata: dict[str, str] = {} if only is None else self._open(only).metadata
        self.keys: tuple[str, ...] = tuple(self._shards)
        self._in_file: Mapping[str, str] = {}

    @cached_property
    def config(self) -> dict[str, Any]:
        """The ``config.json`` of the folder, or beside the file; {} without; read on first use."""
        path = self._folder / CONFIG
        return JSON.read(path) if os.path.exists(path) else {}

    @cached_property
    def _sorted(self) -> list[str]:
        return sorted(self.keys)

    def rename(self, names: Mapping[str, str]) -> None:
        """Call the tensors by other keys: present keys by new ones; the others are left out."""
        self._shards = {name: self._shards[key] for name, key in names.items()}
        self._in_file = {name: self.key_in_file(key) for name, key in names.items()}
        self.keys = tuple(names)
        vars(self).pop("_sorted", None)

    def key_in_file(self, key: str) -> str:
        """Return the key by which a file has a tensor."""
        return self._in_file.get(key, key)

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
        file, name = self._open(self._shards[key]), self.key_in_file(key)
        if name not in file.tensors:
            raise CheckpointError(
                f"{quote(self._shards[key])} does not hold {quote(name)}",
                self._index_where,
                hint="Index and shards are of different models: download them again.",
            )
        return file.tensors[name]

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
            name = self.key_in_file(key)
            yield key, self._open(self._shards[key]).read([name])[name]
            done += size
        if progress is not None:
            progress(done, total)

    @property
    def pickled_files(self) -> list[str]:
        """The folder's files that are pickled weights by their names."""
        if self.folder is None:
            return []
        names = self._named(_PICKLES)
        return [name for name in names if not _NOT_WEIGHTS.fullmatch(name)]

    def _named(self, format_: _Format) -> list[str]:
        """Return the folder's files of a format, without hidden (temporary) ones."""
        found = self.path.glob("[!.]*")
        return sorted(path.name for path in found if path.suffix in format_.suffixes)

    def _open(self, name: str) -> TensorFile:
        if name not in self._files:
            self._files[name] = self._format.open(self._folder / name)
        return self._files[name]

    def _named_file(self) -> str | None:
        """Return the name of the file that was given; None if it is the index of shards."""
        name = self.path.name
        index = _INDEX.fullmatch(name)
        if index is None:
            refuse_export(self.path)
            refuse_part(self.path, pickled=self.pickled)
            return name
        if (index[1] == "bin") != self.pickled:
            hint = "Leave out from_pickle=True: its shards are not pickles."
            if not self.pickled:
                hint = f"A pickle can run code, so it is not loaded. {convert_pickle(self.path)}"
            found = "an index of " + ("safetensors" if self.pickled else "pickles")
            raise CheckpointError(found, str(self.path), hint=hint)
        self._index = self.path
        return None

    def _only_file(self) -> str | None:
        """Return the name of the folder's single file of weights; None if there is an index."""
        for name in self._format.names:
            if (self.path / name).exists():
                return name
        if self._index.exists():
            return None
        if self.pickled and (self.path / METADATA).exists():
            self._format = _DCP
            return METADATA
        names = self.pickled_files if self.pickled else self._named(_SAFETENSORS)
        if len(names) == 1:
            return names[0]
        if names:
            suffixes = {Path(name).suffix[1:] for name in names}
            kind = suffixes.pop() if len(suffixes) == 1 else "pickled"
            raise CheckpointError(
                f"{len(names)} {kind} files and no {self._format.index}",
                str(self.path),
                hint=f"Name one of them: {', '.join(map(printable, names[:4]))}.",
            )
        expected = " or ".join(self._format.names)
        safetensors = self._named(_SAFETENSORS)
        if self.pickled and safetensors:
            hint = f"Leave out from_pickle=True: {printable(safetensors[0])} is not a pickle."
            raise CheckpointError("no weights in this folder", str(self.path), expected, hint)
        refuse_foreign(self.path, expected)
        if self.pickled_files:
            first = printable(self.pickled_files[0])
            hint = f"{first} is a pickle, which can run code, so it is not loaded. "
            hint += convert_pickle(self.path)
        else:
            hint = weights_nearby(self.path) or "Name the file or the folder that holds them."
        raise CheckpointError("no weights in this folder", str(self.path), expected, hint)
