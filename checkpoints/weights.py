"""The weights of a model, in one file or in a folder's shards; nothing is read before its time."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from ..registry import quote
from .errors import CheckpointError
from .safetensors_file import DuplicateKey, SafetensorsFile, Stored, no_duplicates

__all__ = ["Weights"]

MAX_JSON = 100_000_000
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


class Weights:
    """Keys to tensors, across files.

    Args:
        path: A safetensors file, or a model's folder.

    Attributes:
        path: The same.
        keys: Every key, in order.
        metadata: The metadata of the only file; of shards, nothing.

    Raises:
        CheckpointError: There are no weights, or what says where they are makes no sense.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._files: dict[str, SafetensorsFile] = {}
        self._folder = self.path if self.path.is_dir() else self.path.parent
        only: str | None = self.path.name
        if self.path.is_dir():
            indexed = not (self.path / WEIGHTS).exists() and (self.path / INDEX).exists()
            only = None if indexed else self._only_file()
        self._homes = (
            self._index() if only is None else dict.fromkeys(self._open(only).tensors, only)
        )
        self.metadata: dict[str, str] = {} if only is None else self._open(only).metadata
        self.keys: tuple[str, ...] = tuple(self._homes)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The folder's ``config.json``, or an empty dict; read when it is asked for."""
        path = self.path / "config.json"
        return _read_json(path) if self.path.is_dir() and path.exists() else {}

    def stored(self, key: str) -> Stored:
        """Return what a file's header says of a tensor.

        Raises:
            CheckpointError: The index promises it, its file does not hold it.
        """
        file = self._open(self._homes[key])
        if key not in file.tensors:
            raise CheckpointError(
                f"{quote(self._homes[key])} does not hold {quote(key)}",
                str(self.path / INDEX),
                hint="Index and shards are of different models: download them again.",
            )
        return file.tensors[key]

    def read(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """Read some tensors, and nothing else of the files.

        Raises:
            CheckpointError: A tensor cannot be read.
        """
        wanted: dict[str, list[str]] = {}
        for key in keys:
            self.stored(key)
            wanted.setdefault(self._homes[key], []).append(key)
        found: dict[str, Tensor] = {}
        for name, group in wanted.items():
            found.update(self._open(name).read(group))
        return found

    def _open(self, name: str) -> SafetensorsFile:
        if name not in self._files:
            self._files[name] = SafetensorsFile(self._folder / name)
        return self._files[name]

    def _only_file(self) -> str:
        if (self.path / WEIGHTS).exists():
            return WEIGHTS
        names = sorted(path.name for path in self.path.glob("*.safetensors"))
        if len(names) == 1:
            return names[0]
        if names:
            raise CheckpointError(
                f"{len(names)} safetensors files and no {INDEX}",
                str(self.path),
                hint=f"Name one of them: {', '.join(names[:4])}.",
            )
        pickles = sorted(path.name for path in self.path.glob("*.bin"))
        hint = "Name the file or the folder that holds them."
        if pickles:
            hint = (
                f"{pickles[0]} is a pickle, which can run code, so it is not loaded: save the "
                "weights as safetensors."
            )
        raise CheckpointError("no weights in this folder", str(self.path), WEIGHTS, hint)

    def _index(self) -> dict[str, str]:
        path = self.path / INDEX
        homes = _read_json(path).get("weight_map")
        if not isinstance(homes, dict) or not all(isinstance(name, str) for name in homes.values()):
            raise CheckpointError(
                "no weight_map", str(path), "a mapping of keys to file names", "Download it again."
            )
        for name in sorted(set(homes.values())):
            if name != os.path.basename(name) or name in ("", ".", "..") or "\\" in name:
                raise CheckpointError(
                    f"shard {quote(name)} is no plain file name",
                    str(path),
                    hint="Shards stand beside their index.",
                )
        return dict(homes)


def _read_json(path: Path) -> dict[str, Any]:
    where = str(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(
                "not a regular file", where, "a JSON object", "Download it again."
            )
        if status.st_size > MAX_JSON:
            raise CheckpointError(f"{status.st_size:,} bytes", where, f"at most {MAX_JSON:,}")
        value = json.loads(path.read_text("utf-8"), object_pairs_hook=no_duplicates)
    except CheckpointError:
        raise
    except DuplicateKey as error:
        raise CheckpointError(
            f"key {quote(error.key)} is given twice", where, hint="Leave one of them out."
        ) from None
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", where) from error
    except RecursionError:
        raise CheckpointError("nested too deep", where, hint="Download it again.") from None
    except ValueError as error:
        raise CheckpointError(
            f"not JSON: {quote(str(error))}", where, "a JSON object", "Download it again."
        ) from None
    if not isinstance(value, dict):
        raise CheckpointError(
            f"a JSON {type(value).__name__}", where, "a JSON object", "Download it again."
        )
    return value
