"""Statistics of a projector's weights: NaN, infinities, range, mean and standard deviation."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .load import open_projector
from .request import ModuleNames, Request, Spec
from .weights import ProgressCallback

__all__ = ["Values", "inspect_values"]

CHUNK = 1 << 22


@dataclass(frozen=True)
class Values:
    """Statistics of a tensor. Those that do not exist, or are not finite, are None.

    Attributes:
        key: The tensor's key in the checkpoint.
        dtype: Its dtype.
        shape: Its shape.
        nan: How many are NaN.
        infinite: How many are infinite.
        minimum: The smallest of the finite values.
        maximum: The largest of them.
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
    family: str | None = None,
    spec: Spec | None = None,
    module_names: ModuleNames | None = None,
    grid: Sequence[int] | None = None,
    prefix_tokens: int | None = None,
    token_order: str | None = None,
    tokens: int | None = None,
    progress: ProgressCallback | None = None,
    **options: Any,
) -> tuple[Values, ...]:
    """Read the tensors of a checkpoint's projector one by one, and return their statistics.

    Args:
        path: A safetensors file, a model's folder with one or with shards, or a model on a hub.
        root: What stands before the projector's keys; this and the next six are those of
            `load_projector`.
        family: The family that it is of.
        spec: Its document.
        module_names: The checkpoint's names of the document's modules.
        grid: The token grid (h, w), for a projector that cannot be built without one.
        prefix_tokens: How many leading tokens to drop on entry.
        token_order: The order of the input tokens.
        tokens: How many tokens are to come out, in place of the option of the `family` that
            decides it; see `build_projector`.
        progress: Called with the number of bytes that are read, and of all that will be.
        **options: Options of the family.

    Raises:
        CheckpointError: It cannot be read, or no projector is recognised in it.
    """
    request = Request.of(
        root=root,
        family=family,
        spec=spec,
        module_names=module_names,
        grid=grid,
        prefix_tokens=prefix_tokens,
        token_order=token_order,
        tokens=tokens,
        options=options,
    )
    # Opened once: another file may get the path meanwhile.
    weights, known = open_projector(path, request)
    return tuple(_values(key, tensor) for key, tensor in weights.read(known.used, progress))


def _values(key: str, tensor: Tensor) -> Values:
    nan = infinite = count = 0
    least, most, mean, squares = math.inf, -math.inf, 0.0, 0.0
    # In double precision, one piece at a time; the moments are combined as in Chan et al.
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
    # Sums of the largest float64 numbers may overflow.
    known = [value if math.isfinite(value) else None for value in found] or [None] * 4
    return Values(key, tensor.dtype, tuple(tensor.shape), nan, infinite, *known)
