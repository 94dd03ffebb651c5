"""The tensors of a model on a hub, of which only what is asked for is fetched."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

from torch import Tensor

from ..registry import printable, quote
from .errors import CheckpointError
from .formats.index import INDEX, JSON, shards_of
from .formats.ranges import RemoteFile
from .formats.safetensors import SafetensorsFile
from .formats.tensor_file import ByteSource, TensorFile
from .hub import HubFolder, not_here
from .names import CONFIG, WEIGHTS, WEIGHTS_INDEX
from .weights import ProgressCallback, Weights

__all__ = ["HubWeights"]

_PICKLE = re.compile(r".*[.](?:bin|pt|pth|ckpt|pkl|pickle)(?:[.]index[.]json)?")
# Of a projector's bytes, what may be read beside them; below this many they count as so many.
EXTRA, AT_LEAST = 0.05, 4_000_000


class HubWeights(Weights):
    """The tensors of a model on a hub by key, of which only what is asked for is fetched.

    Args:
        place: The folder, or the file.

    Raises:
        CheckpointError: There are no weights in it that are safetensors.
    """

    def __init__(self, place: HubFolder) -> None:
        self._place = place
        self.where = place.where
        self.model, self.commit, self.licence = place.repo, place.commit, place.licence
        self.pickled = False
        self._files: dict[str, TensorFile] = {}
        self._in_file = {}
        name = place.file or self._only_file()
        self._index_where = place.where_of(name)
        if _PICKLE.fullmatch(name):
            raise self._refused(name)
        if name.endswith(".index.json"):
            self._shards = shards_of(place.read_json(name, INDEX), self._index_where)
            self.metadata = {}
        else:
            file = self._open(name)
            self._shards = dict.fromkeys(file.tensors, name)
            self.metadata = file.metadata
        self.keys = tuple(self._shards)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The ``config.json`` of the folder; {} without; read on first use."""
        return self._place.read_json(CONFIG, JSON) if CONFIG in self._place.names else {}

    def are_here(self, keys: Iterable[str]) -> bool:
        """Return whether the files of these tensors are on this machine."""
        return not any(isinstance(self._source(key), RemoteFile) for key in keys)

    def read(
        self, keys: Iterable[str], progress: ProgressCallback | None = None
    ) -> Iterator[tuple[str, Tensor]]:
        """Read some tensors, and nothing else of the files but what lies between them.

        What is fetched comes first, file by file. The progress counts the tensors' bytes.
        """
        keys = list(keys)
        total = sum(self.stored(key).nbytes for key in keys)
        fetched = 0

        def report(done: int) -> None:
            if progress is not None:
                progress(max(done, fetched), total)

        def beyond(before: int) -> Callable[[int], None]:
            return lambda done: report(before + done)

        shards: dict[str, list[str]] = {}
        for key in keys:
            shards.setdefault(self._shards[key], []).append(key)
        for inside in shards.values():
            source = self._source(inside[0])
            if isinstance(source, RemoteFile):
                infos = [self.stored(key) for key in inside]
                nbytes = sum(info.nbytes for info in infos)
                extra = int(EXTRA * max(total, AT_LEAST) * nbytes / max(total, 1))
                source.prepare(
                    [(info.start, info.start + info.nbytes) for info in infos],
                    extra,
                    beyond(fetched),
                )
                fetched += nbytes
        yield from super().read(keys, lambda done, _: report(done))

    def _source(self, key: str) -> ByteSource:
        return self._open(self._shards[key]).source

    def _open(self, name: str) -> TensorFile:
        if name not in self._files:
            if not name.endswith(".safetensors"):
                raise self._refused(name)
            if name not in self._place.names and not self._place.offline:
                found = f"{quote(name)} is not at this commit"
                raise CheckpointError(found, self.where, hint="Index and files do not fit.")
            self._files[name] = SafetensorsFile(self._place.open(name))
        return self._files[name]

    def _only_file(self) -> str:
        """Return the name of the folder's file of weights, or of the index of its shards."""
        names = self._place.names
        for name in (WEIGHTS, WEIGHTS_INDEX):
            if name in names:
                return name
        found = [name for name in names if name.endswith(".safetensors")]
        if len(found) == 1:
            return found[0]
        if found:
            raise CheckpointError(
                f"{len(found)} safetensors files and no {WEIGHTS_INDEX}",
                self.where,
                hint=f"Name one of them, as {self.where}/{printable(found[0])}",
            )
        pickles = [name for name in names if _PICKLE.fullmatch(name)]
        raise self._refused(pickles[0] if pickles else "")

    def _refused(self, name: str) -> CheckpointError:
        """Return the error about a file that is never fetched; or that there are no weights."""
        if self._place.offline and not name:
            return not_here(self.where)
        if not name:
            hint = "Name the folder that holds them, as hf://ORG/MODEL@REVISION/FOLDER."
            expected = f"{WEIGHTS} or {WEIGHTS_INDEX}"
            return CheckpointError("no weights in this folder", self.where, expected, hint)
        if not _PICKLE.fullmatch(name):
            found = f"{quote(name)} is no file of safetensors"
            return CheckpointError(found, self.where, "safetensors")
        place = self._place
        there = "/".join(filter(None, ("model", place.folder, place.file)))
        return CheckpointError(
            f"its weights are in {quote(name)}, a pickle, which can run code: it is not fetched",
            self.where,
            "safetensors",
            f"If you trust it: hf download {place.repo} --revision {place.commit} --local-dir "
            f"model, then convert_checkpoint({there!r}, 'projector', from_pickle=True)",
        )
