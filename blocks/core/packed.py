"""Layers run on packed images of different sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor, nn

from .errors import GridError
from .fast import hooked
from .feature import Grid
from .packing import PackedModule, Packing, packs, runs_by_size
from .run import Layer, run
from .spec import relocate

__all__ = [
    "BySize",
    "Indices",
    "forward_packed",
    "pack_layers",
    "pack_module",
    "run_by_size",
    "run_once",
    "run_packed",
    "still_packs",
]


class BySize(NamedTuple):
    """A layer that is called once for each distinct size of the images.

    Attributes:
        grids: The grids of the images that enter it.
    """

    grids: tuple[Grid, ...]


Indices: TypeAlias = tuple[Any, ...]
"""What each layer needs, by its place: None if it treats each token alike, `BySize`, or what its
``pack`` returned."""


def pack_layers(
    layers: Sequence[Layer],
    mixing: Sequence[bool],
    images: Packing,
    grids_after: Callable[[int], Sequence[Grid]] | None = None,
    where: str = "{}",
) -> tuple[Packing, Indices]:
    """Work out what a chain needs for packed images.

    Args:
        layers: The layers, in the order written.
        mixing: Whether each mixes an image's tokens.
        images: The images.
        grids_after: Returns the images' grids after the layer at a place. A layer that is called by
            size does not say.
        where: The path of a layer in messages, with ``{}`` for its place.

    Raises:
        GridError: There is a budget, and a layer does not take one.
    """
    indices: list[Any] = []
    for place, layer in enumerate(layers):
        index: Any = None
        if mixing[place]:
            if images.fixed:
                images, index = pack_module(layer, images, where.format(place))
            elif packs(layer) and not runs_by_size(layer) and not _watched(layer):
                images, index = layer.pack(images)
            else:
                index = BySize(images.grids)
                if grids_after is not None:
                    images = images.after(grids_after(place), 0)
        indices.append(index)
    return images, tuple(indices)


def pack_module(layer: Layer, images: Packing, where: str) -> tuple[Packing, Any]:
    """Return what comes out of a module for images within a budget, and what it needs.

    Raises:
        GridError: It does not run at a budget, or it has hooks, which ``forward_packed`` would
            bypass. Those of modules inside it see packed images.
    """
    if not packs(layer):
        found = f"{type(layer).__name__} does not run at a budget"
        raise GridError(
            found, where, "a module with pack and forward_packed", "Leave out the budget."
        )
    if _hooked(layer):
        found = "it has hooks, which a run at a budget would bypass"
        raise GridError(found, where, "none", "Remove them, or leave out the budget.")
    try:
        return layer.pack(images)
    except GridError as error:
        raise relocate(error, where) from error.__cause__


def still_packs(layer: Layer, index: Any) -> bool:
    """Return whether a layer can be given what was worked out for it, or needs nothing.

    It may have been replaced since, or have got hooks, which ``forward_packed`` would bypass.
    """
    if index is None or isinstance(index, BySize):
        return True
    return packs(layer) and not _hooked(layer)


def run_packed(
    layers: Sequence[Layer], order: Sequence[int], indices: Indices, x: Tensor
) -> Tensor:
    """Run a chain on packed images; ``(rows, c) -> (m, d)``.

    A token-wise layer runs once on all tokens, consecutive ones as one.

    Args:
        layers: The layers.
        order: Their places, in the order in which to run them.
        indices: What each needs.
        x: The images' tokens.
    """
    token_wise: list[Layer] = []
    for place in order:
        layer, index = layers[place], indices[place]
        if index is None:
            token_wise.append(layer)
            continue
        x, token_wise = _run_token_wise(token_wise, x), []
        if isinstance(index, BySize):
            x = run_by_size(layer, x, index.grids)
        else:
            x = forward_packed(layer, x, index)
    return _run_token_wise(token_wise, x)


def _run_token_wise(layers: list[Layer], x: Tensor) -> Tensor:
    return run(layers, x[None, None]).flatten(0, 2)


def _hooked(layer: object) -> bool:
    return isinstance(layer, nn.Module) and hooked(layer)


def _watched(layer: object) -> bool:
    """Return whether a layer has hooks, which must see each call with images of one size."""
    return isinstance(layer, nn.Module) and any(map(hooked, layer.modules()))


def forward_packed(layer: Layer, x: Tensor, index: Any) -> Tensor:
    """Run a layer whose ``pack`` made an index; ``(rows, c) -> (m, d)``."""
    return cast("PackedModule", layer).forward_packed(x, index)


def run_once(module: PackedModule, x: Tensor, grids: Sequence[Grid]) -> Tensor:
    """Run one module on packed images of these grids, in one call; ``(n, c) -> (m, d)``."""
    _, index = module.pack(Packing.of(grids, x.device))
    return module.forward_packed(x, index)


def run_by_size(layer: Layer, x: Tensor, grids: Sequence[Grid]) -> Tensor:
    """Run a layer on images of these grids, once per distinct size; ``(n, c) -> (m, d)``."""
    parts = torch.split(x, [h * w for h, w in grids])
    done: list[Tensor] = [x] * len(parts)
    for grid in dict.fromkeys(grids):
        which = [index for index, other in enumerate(grids) if other == grid]
        batch = torch.stack([parts[index] for index in which])
        y = layer(batch.view(len(which), *grid, x.shape[1])).flatten(1, 2)
        for index, image in zip(which, y.unbind(), strict=True):
            done[index] = image
    return torch.cat(done)
