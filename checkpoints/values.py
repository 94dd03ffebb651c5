"""What a projector's weights are like as numbers: NaN, infinities, range, mean and spread."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .load import inspect_known, recognise_projector
from .weights import Progress, Weights

__all__ = ["Values", "inspect_values"]

CHUNK = 1 << 22


@dataclass(frozen=True)
class Values:
    """A tensor's numbers. What cannot be said of them is None.

    Attributes:
        key: The tensor's key in the checkpoint.
        dtype: Its dtype.
        shape: Its shape.
        nan: How many are NaN.
        infinite: How many are infinite.
        minimum: The smallest of the finite ones.
        maximum: The largest.
        mean: Their mean.
        std: Their standard deviation.
    """

    key: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    nan: int
    infinite: int
    minimum: float | None
    maximum: float | None
    mean: float | None
    std: float | None

    @property
    def finite(self) -> bool:
        """Whether all of them are finite."""
        return not self.nan and not self.infinite

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        dtype = str(self.dtype).removeprefix("torch.")
        return {**vars(self), "dtype": dtype, "shape": list(self.shape)}


def inspect_values(
    path: str | os.PathLike[str],
    *,
    root: str | None = None,
    grid: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> tuple[Values, ...]:
    """Read the tensors of a checkpoint's projector, one by one, and say what they are like.

    Args:
        path: A safetensors file, or a model's folder with one or with shards.
        root: What stands before the projector's keys, where there are several.
        grid: The token grid (h, w), for a projector that cannot be built without one.
        progress: Is told how many bytes are read, of how many.

    Raises:
        CheckpointError: It cannot be read, or holds no projector that is known.
    """
    weights = Weights(path)  # once: another file may get its name meanwhile
    keys = inspect_known(weights, recognise_projector(weights, root, grid)).used
    return tuple(_values(key, tensor) for key, tensor in weights.read(keys, progress))


def _values(key: str, tensor: Tensor) -> Values:
    nan = infinite = count = 0
    least, most, mean, squares = math.inf, -math.inf, 0.0, 0.0
    # In double precision, but a piece at a time; the pieces' moments add up as Chan et al. say.
    for piece in torch.split(tensor.flatten(), CHUNK):
        finite = piece.double()
        good = finite.isfinite()
        if not good.all():
            bad, finite = finite[~good], finite[good]
            nan += int(bad.isnan().sum())
            infinite += int(bad.isinf().sum())
        n = finite.numel()
        if not n:
            continue
        var, middle = (float(each) for each in torch.var_mean(finite, correction=0))
        low, high = (float(each) for each in torch.aminmax(finite))
        least, most = min(least, low), max(most, high)
        away, count = middle - mean, count + n
        mean += away * n / count
        squares += var * n + away * away * n * (count - n) / count
    found = (least, most, mean, math.sqrt(squares / count)) if count else ()
    # Sums of float64's largest numbers may not be finite themselves.
    known = [value if math.isfinite(value) else None for value in found] or [None] * 4
    return Values(key, tensor.dtype, tuple(tensor.shape), nan, infinite, *known)
