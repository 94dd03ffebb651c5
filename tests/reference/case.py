"""What the references share: cases, their sizes, and how upstream's modules are called."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mobilevlm.projectors.upstream import Names

Grid = tuple[int, int]
Run = Callable[[nn.Module, Tensor, Grid], Tensor]


@dataclass(frozen=True)
class Sizes:
    """Widths of the vision encoder (`v`), of the language model (`d`) and inside (`h`).

    `side` is that of the grids, where a model knows its image's size. The defaults are the tests'.
    """

    v: int = 16
    d: int = 24
    h: int = 20
    side: int = 8


SMALL = Sizes()
V, D, H = SMALL.v, SMALL.d, SMALL.h


@dataclass
class Case:
    """One family: our preset, upstream's module, and how to call it.

    `run` takes upstream's module, tokens ``(b, n, c)`` without the `prefix` that the model around
    it drops, and their grid, and returns ``(b, m, d)``.
    """

    preset: str
    layout: str | Names
    build: Callable[[], nn.Module]
    run: Run
    options: dict[str, Any] = field(default_factory=dict)
    in_: int = V
    grids: tuple[Grid, ...] = ((SMALL.side, SMALL.side),)
    unused: tuple[str, ...] = ()
    prefix: int = 0


def randomize(module: nn.Module) -> None:
    """Give every parameter and buffer, norms and biases too, values that show."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            fan = max(parameter[0].numel(), 1) if parameter.ndim > 1 else 1
            offset = 1.0 if parameter.ndim == 1 else 0.0
            values = torch.randn(parameter.shape, generator=generator) / fan**0.5
            parameter.copy_(values * (0.3 if parameter.ndim == 1 else 1.0) + offset)


def hf(module: str, name: str) -> Any:
    """Import a class of transformers."""
    return getattr(importlib.import_module(f"transformers.models.{module}"), name)


def plain(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    y: Tensor = module(x)
    return y.flatten(1, -2)


def with_grid(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    y: Tensor = module(x, grid)
    return y


def as_image(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    y: Tensor = module(x.transpose(1, 2).unflatten(2, grid))
    return y


def one_by_one(call: Run) -> Run:
    """Run a packed upstream module on each image of a batch."""

    def run(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
        return torch.stack([call(module, image, grid) for image in x])

    return run


def blocked(x: Tensor, grid: Grid, side: int = 2) -> Tensor:
    """Put the tokens ``(n, c)`` of an image into square blocks."""
    h, w = grid
    return x.unflatten(0, (h // side, side, w // side, side)).transpose(1, 2).flatten(0, 3)


def run_in_blocks(side: int) -> Run:
    """Run a module on tokens in blocks of that side, each image by itself."""
    return one_by_one(lambda module, x, grid: module(blocked(x, grid, side)))


run_blocked = run_in_blocks(2)
