"""What serving engines ask of a projector, on paper: how many tokens go in, and which rows run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..blocks.core.errors import GridError
from ..blocks.core.feature import MAX_SIDE, Grid
from ..registry import MobileVLMError, quote
from .stack import Stack

__all__ = ["count_rows", "encoder_tokens", "linear_names"]

_MOST = 64 * 64  # encoder tokens of which a projector makes one: where a search ends


def encoder_tokens(
    stack: Stack,
    lm_tokens: int,
    grid: Sequence[int | None] | None,
    *,
    built: Grid | None,
    check: Callable[[Grid], None],
) -> int:
    """Return the smallest number of encoder tokens of which at least `lm_tokens` are made.

    Args:
        stack: The specification.
        lm_tokens: How many tokens are to come out.
        grid: A grid with an open side, or None for what `Projector.forward` takes without one.
        built: The grid given at build, or None.
        check: Refuses a grid that cannot come in the projector's token order.

    Raises:
        GridError: The number does not depend on the grid, or no grid gives so many.
    """
    if type(lm_tokens) is not int or lm_tokens < 1:
        raise GridError(quote(lm_tokens), "lm_tokens", "a number of tokens, at least 1")
    sides = (None, None) if grid is None else _check_open(grid)
    always = stack.walk(sides)[-1].y.tokens
    if always is not None:
        raise _constant(always, lm_tokens)
    most = 0

    def gives_enough(grid: Grid) -> bool:
        nonlocal most
        try:
            check(grid)
            tokens = stack.walk(grid)[-1].y.tokens or 0
        except MobileVLMError:  # a block does not take it
            return False
        most = max(most, tokens)
        return tokens >= lm_tokens

    if grid is not None:
        grids, kind = _of_one_side(sides, lm_tokens), f"grid of {_shown(sides)}"
    elif built is not None:
        grids, kind = iter([built]), f"other grid than that given at build, {_shown(built)},"
    elif not stack.needs_grid:
        grids, kind = _rows(lm_tokens, gives_enough), "number of tokens"
    else:
        grids, kind = _squares(lm_tokens), "square grid"
    for h, w in grids:
        if gives_enough((h, w)):
            return h * w + stack.prefix_tokens
    raise GridError(
        f"no {kind} gives {lm_tokens:,} tokens",
        "lm_tokens",
        f"at most {most:,}" if most else "a grid that the blocks take",
        f"More come out of several images: {-(-lm_tokens // most):,} of them give enough."
        if most
        else "projector.plan(grid) says why a grid is refused.",
    )


def _check_open(grid: object) -> tuple[int | None, int | None]:
    """Return a grid of which one side is open.

    Raises:
        GridError: It is none.
    """
    if isinstance(grid, tuple | list) and len(grid) == 2:
        h, w = grid
        known = w if h is None else h
        if (h is None) != (w is None) and type(known) is int and 1 <= known <= MAX_SIDE:
            return h, w
    raise GridError(
        f"{quote(grid)} is not a grid with an open side",
        "grid",
        "(h, None) or (None, w)",
        "Of all grids the smallest is a strip that no image has: give the side that is known.",
    )


def _constant(always: int, lm_tokens: int) -> GridError:
    images = -(-lm_tokens // always)
    them = "Of one image" if images == 1 else f"Of {images:,} images"
    return GridError(
        f"{always:,} tokens come out, whatever the grid",
        "encoder_tokens",
        "a number of tokens that depends on the grid",
        f"{them} {images * always:,} come out, and each has the h * w encoder tokens of its grid.",
    )


def _squares(lm_tokens: int) -> Iterator[Grid]:
    most = min(MAX_SIDE, math.isqrt(lm_tokens * _MOST))
    return ((side, side) for side in range(1, most + 1))


def _of_one_side(sides: tuple[int | None, int | None], lm_tokens: int) -> Iterator[Grid]:
    h, w = sides
    most = min(MAX_SIDE, lm_tokens * _MOST)
    for side in range(1, most + 1):
        yield (h or side, w or side)


def _rows(lm_tokens: int, gives_enough: Callable[[Grid], bool]) -> Iterator[Grid]:
    """Yield single rows, the shortest that may do first.

    Where no block reads the grid, as many tokens come out as go in, or a few more: the search
    starts there, as one token more that goes in never makes fewer come out.
    """
    n = lm_tokens
    while n > 1 and gives_enough((1, n - 1)):
        n -= 1
    return ((1, length) for length in range(n, lm_tokens * _MOST + 1))


def _shown(sides: tuple[int | None, int | None]) -> str:
    return "x".join(str(side or "?") for side in sides)


# ------------------------------------------------------------------------- linear layers


def linear_names(module: nn.Module, prefix: str = "") -> list[str]:
    """Return the names of a module's linear layers, after a prefix."""
    before = f"{prefix.removesuffix('.')}." if prefix else ""
    return [before + name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]


def count_rows(module: nn.Module, run: Callable[[], Any], *, as_written: bool) -> dict[str, int]:
    """Return how many rows each linear layer of a module multiplies while it runs.

    Args:
        module: A module on the meta device, whose hooks may change.
        run: Runs it.
        as_written: Keep the blocks in the order written.
    """
    layers = {name: module.get_submodule(name) for name in linear_names(module)}
    if as_written:  # a layer with hooks stays in its place
        for layer in layers.values():
            layer.register_forward_hook(lambda *_: None)
    with _RowCounter() as counter, torch.no_grad():
        run()
    return {name: counter.rows.get(id(layer.weight), 0) for name, layer in layers.items()}


class _RowCounter(TorchFunctionMode):
    """Count the rows of what `torch.nn.functional.linear` is given, by its weight's identity."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[int, int] = {}

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is nn.functional.linear:
            x, weight = args[0], args[1]
            rows = x.numel() // x.shape[-1]
            self.rows[id(weight)] = self.rows.get(id(weight), 0) + rows
        return func(*args, **(kwargs or {}))
