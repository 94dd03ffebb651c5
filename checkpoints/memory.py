"""The weights of a model in memory, read as those of a file are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from .formats.tensor_file import TensorInfo
from .weights import ProgressCallback, Weights

__all__ = ["MemoryWeights"]


class MemoryWeights(Weights):
    """The tensors of a model in memory, by key.

    Args:
        state: The tensors. None is copied or changed.
        config: What the model's ``config.json`` would say.
        name: What errors call the model.
    """

    def __init__(self, state: Mapping[str, Tensor], config: Mapping[str, Any], name: str) -> None:
        self.where = name
        self.pickled = False
        self.metadata = {}
        self.keys = tuple(state)
        self.config = dict(config)
        self._state = state
        self._shards = dict.fromkeys(state, name)
        self._in_file = {}

    def stored(self, key: str) -> TensorInfo:
        """Return what a tensor is; a sharded or quantised one may not be read."""
        tensor = self._state[self.key_in_file(key)].detach()
        plain = type(tensor) is Tensor and tensor.layout is torch.strided
        return TensorInfo(
            tensor.dtype,
            tuple(tensor.shape),
            0,
            tensor.numel() * tensor.element_size(),
            fault="" if plain else f"a {type(tensor).__name__} of {tensor.layout}",
            hint="Gather what is sharded, and undo quantisation.",
        )

    def read(
        self, keys: Iterable[str], progress: ProgressCallback | None = None
    ) -> Iterator[tuple[str, Tensor]]:
        """Return some tensors, which are the model's own, without a gradient."""
        for key in keys:
            yield key, self._state[self.key_in_file(key)].detach()
