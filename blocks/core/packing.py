"""Packed images of different sizes, on paper: which rows are whose, and what a module needs."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor

from .feature import Grid

__all__ = ["PackedModule", "Packing", "packs", "runs_by_size", "tensor_of"]


@dataclass(frozen=True)
class Packing:
    """Images one after the other in a tensor ``(rows, c)``, before there is one.

    Attributes:
        grids: The images' grids. Their tokens fill the first rows.
        rows: How many rows the tensor has: as many as the images hold, or the limit of a budget.
        images: How many images there may be: as many as there are, or the limit of a budget.
        device: Where the tensor is.
        fixed: Whether there is a budget. Then shapes depend on it alone, and not on the grids.
    """

    grids: tuple[Grid, ...]
    rows: int
    images: int
    device: torch.device
    fixed: bool = False

    @classmethod
    def of(cls, grids: Sequence[Grid], device: torch.device) -> Packing:
        """Return images without a budget."""
        return cls(tuple(grids), sum(h * w for h, w in grids), len(grids), device)

    def within(self, rows: int, images: int) -> Packing:
        """Return these images with a budget."""
        return dataclasses.replace(self, rows=rows, images=images, fixed=True)

    def after(self, grids: Sequence[Grid], rows: int) -> Packing:
        """Return what a module makes of them.

        Args:
            grids: The grids that come out.
            rows: The most rows that come out for any images within the budget.
        """
        if not self.fixed:
            rows = sum(h * w for h, w in grids)
        return dataclasses.replace(self, grids=tuple(grids), rows=rows)

    @property
    def lengths(self) -> list[int]:
        """How many tokens each image has."""
        return [h * w for h, w in self.grids]

    def padded(self, index: Tensor, rows: int, value: int = 0) -> Tensor:
        """Return a tensor with as many rows as a budget needs; ``(n, ...) -> (rows, ...)``."""
        if not self.fixed:
            return index
        more = index.new_full((rows - len(index), *index.shape[1:]), value)
        return torch.cat([index, more])

    def image_of_row(self) -> Tensor:
        """Return the number of each row's image, (rows,); of rows beyond the images, `images`."""
        return self.padded(self._image_of_token(), self.rows, self.images)

    def starts(self) -> Tensor:
        """Return each image's first row, (n,)."""
        ends = itertools.accumulate(self.lengths, initial=0)
        return tensor_of([*ends][:-1], self.device)

    def places(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return each token's image, and its row and its column in that image's grid, (n,) each."""
        image = self._image_of_token()
        number = torch.arange(len(image), device=self.device) - self.starts()[image]
        width = tensor_of([w for _, w in self.grids], self.device)[image]
        return image, number // width, number % width

    def _image_of_token(self) -> Tensor:
        lengths = tensor_of(self.lengths, self.device)
        # output_size spares an accelerator the synchronisation, and a compiler the graph break.
        return torch.repeat_interleave(lengths, output_size=sum(self.lengths))


def tensor_of(numbers: Sequence[Any], device: torch.device) -> Tensor:
    """Return integers as a tensor, also where there are none."""
    return torch.tensor(numbers, dtype=torch.long, device=device)


class PackedModule(Protocol):
    """A module that takes packed images of different sizes in one call.

    Where a call for each distinct size costs less, it has a true attribute ``by_size``; then
    ``forward_packed`` is called only with a budget.
    """

    def pack(self, images: Packing) -> tuple[Packing, Any]:
        """Return the images that come out, and what `forward_packed` needs: tensors in tuples.

        With a budget, the tensors' shapes depend on that alone.
        """
        ...

    def forward_packed(self, x: Tensor, index: Any) -> Tensor:
        """``(rows, c) -> (m, d)``; it reads no value of a tensor back from the device."""
        ...


def packs(layer: object) -> TypeGuard[PackedModule]:
    """Return whether a module takes packed images; a check of the protocol takes far longer."""
    return hasattr(type(layer), "pack") and hasattr(type(layer), "forward_packed")


def runs_by_size(module: PackedModule) -> bool:
    """Return whether a module is called once for each distinct size, unless there is a budget."""
    return bool(getattr(module, "by_size", False))
