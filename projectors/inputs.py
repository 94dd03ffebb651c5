"""Check what a projector is given: features, grids and packed images."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..blocks.core.dtypes import count_dtypes
from ..blocks.core.errors import GridError
from ..blocks.core.feature import Grid, check_grid
from .packed import frames_of

__all__ = ["check_input", "check_map", "check_packed", "refuse_mixed", "token_grid"]


def check_input(x: object, width: int, module: nn.Module) -> torch.Size:
    """Return the shape of a feature that a module can project.

    Args:
        x: Packed tokens ``(n, c)``, tokens ``(b, n, c)`` or a map ``(b, c, h, w)``.
        width: The width c.
        module: The projector, whose parameters have the dtype that `x` must have.

    Raises:
        GridError: It is not a dense tensor of that width, and of that dtype unless autocast is on
            or the parameters have several.
    """
    if not isinstance(x, Tensor):
        raise GridError(f"{type(x).__name__} is not a torch.Tensor", "x", _expected(width))
    if x.layout != torch.strided or x.is_nested:
        kind = "nested" if x.is_nested else str(x.layout).removeprefix("torch.")
        raise GridError(f"a {kind} tensor", "x", "a dense tensor")
    shape = x.shape
    rank = len(shape)
    if rank not in (2, 3, 4):
        raise GridError(f"shape {tuple(shape)}", "x", _expected(width))
    channels = shape[1] if rank == 4 else shape[-1]
    if channels != width:
        hint = ""
        if rank == 4 and shape[3] == width:
            hint = "It looks channels-last: permute it to (b, c, h, w)."
            if shape[1] != shape[2]:
                hint = "If it is frames (b, t, n, c), join them: x.flatten(0, 1). If it is a map "
                hint += "(b, h, w, c), permute it to (b, c, h, w)."
        found = f"shape {tuple(shape)} has {channels} channels"
        raise GridError(found, "x", _expected(width), hint)
    dtype = x.dtype
    if not dtype.is_floating_point:
        raise GridError(f"a tensor of {dtype}", "x", "a floating-point tensor")
    first = _first_parameter(module)
    own = dtype if first is None else first.dtype
    if (
        own != dtype
        and own.is_floating_point  # quantised weights are not
        and not _autocasts(x.device.type, dtype, own)
        # A pre-hook may cast the input, as that of fully sharded training does.
        and not any(each._forward_pre_hooks for each in module.modules())
        and len(set(_dtypes(module))) == 1  # with several, torch knows what goes together
    ):
        raise GridError(
            f"the input is {dtype}, the parameters are {own}",
            "x",
            "the same on both sides",
            f"Call x.to({own}) or projector.to({dtype}).",
        )
    return shape


def refuse_mixed(x: Tensor, module: nn.Module, error: RuntimeError) -> None:
    """Explain an error of torch by the parameters' dtypes, if they are mixed.

    Raises:
        GridError: They are, and torch does not compute with them and this input.
    """
    dtypes = list(_dtypes(module))
    if len(set(dtypes)) > 1 and "type" in str(error):
        raise GridError(
            f"the input is {x.dtype}, the parameters are mixed: {count_dtypes(dtypes)}",
            "x",
            "dtypes that torch computes with",
            f"Load it with dtype={x.dtype}, or call projector.to({x.dtype}).",
        ) from error


def _dtypes(module: nn.Module) -> Iterator[torch.dtype]:
    """Yield the dtypes of the floating-point parameters."""
    for parameter in module.parameters():
        if parameter.dtype.is_floating_point:
            yield parameter.dtype


def check_map(h: int, w: int, grid: Any) -> None:
    """Check the sides of a map, and that `grid` is None or says the same.

    Raises:
        GridError: The map is empty, or the grid differs.
    """
    if grid is not None and check_grid(grid) != (h, w):
        raise GridError(f"the map is {h}x{w}, grid says {tuple(grid)}", "x", "the same")
    if h < 1 or w < 1:
        raise GridError(f"a map of {h}x{w}", "x", "at least one token")


def check_packed(x: Tensor, grids: Any, prefix: int) -> tuple[list[Grid], list[int]]:
    """Return the grids of packed images, ``(n, c)`` with n = sum(h * w), and as `frames_of` says.

    Args:
        x: The images' tokens, one image after the other.
        grids: What the caller gave as the list of their grids.
        prefix: How many prefix tokens the projector drops from single images.

    Raises:
        GridError: It is not a list of grids, or they hold another number of tokens.
    """
    if not isinstance(grids, list | tuple) or not grids or isinstance(grids[0], int):
        raise GridError(
            f"packed tokens {tuple(x.shape)} with grid={grids!r:.60}",
            "grid",
            "a list with the grid of each image, [(h, w), ...]",
            "For one image, pass x[None].",
        )
    frames, counts = frames_of(grids)
    total = sum(h * w for h, w in frames)
    if total != len(x):
        raise GridError(
            f"{len(x)} packed tokens, but the grids hold {total}",
            "x",
            "the same",
            "Packed images have no prefix tokens: drop them before packing." if prefix else "",
        )
    return frames, counts


def token_grid(n: int, prefix: int, grid: Any, built: Grid | None, *, needs_grid: bool) -> Grid:
    """Return the grid of n tokens. The only place where a square root is taken.

    Args:
        n: The number of tokens, without prefix tokens.
        prefix: How many prefix tokens were dropped.
        grid: What the caller gave as the grid, or None.
        built: The grid given at build, or None.
        needs_grid: Whether any block reads the grid; if none does, any n will do.

    Raises:
        GridError: The tokens do not fill the grid; or there is none, and n is not a square.
    """
    if n <= 0:
        raise GridError(_count(n, prefix), "x", "at least one token")
    if grid is not None:
        h, w = check_grid(grid) if isinstance(n, int) else (grid[0], grid[1])
    elif built is not None:
        h, w = built
    elif not needs_grid:
        return 1, n
    elif isinstance(n, torch.SymInt):
        raise GridError(
            "the number of tokens is symbolic", "x", "grid=(h, w)", "Pass the grid by name."
        )
    else:
        # A compiler may recompile for each n, and index() tells it to; an export must not
        # freeze n behind the user's back, and without index() a symbolic n fails there.
        side = n if torch.compiler.is_exporting() else operator.index(n)
        h = w = math.isqrt(side)
    if h * w == n:
        return h, w
    if grid is None and built is None:
        expected = "a square number of tokens, or a grid"
        raise GridError(_count(n, prefix), "x", expected, _square_hint(n, prefix))
    source = "grid" if grid is not None else "the grid given at build"
    extra = n - h * w
    hint = ""
    if 0 < extra <= 8:
        hint = f"{n} = {h}x{w} + {extra}: drop the leading tokens with "
        hint += f"prefix_tokens={prefix + extra}."
    found = f"{_count(n, prefix)}, but {source} is {h}x{w} = {h * w}"
    raise GridError(found, "x", "the same", hint)


def _count(n: int, prefix: int) -> str:
    return f"{n} tokens" + (f" after {prefix} prefix tokens" if prefix else "")


def _square_hint(n: int, prefix: int) -> str:
    """Say which leading tokens to drop so that a square number is left."""
    for extra in (1, 2, 4, 5, 8):
        side = math.isqrt(n - extra) if n > extra else 0
        if side > 1 and side * side == n - extra:
            which = "the CLS token" if extra == 1 else f"the first {extra} tokens"
            return (
                f"{n} = {side}x{side} + {extra}: drop {which} with "
                f"prefix_tokens={prefix + extra}, or pass grid=(h, w)."
            )
    return "Pass grid=(h, w)."


def _autocasts(device: str, *dtypes: torch.dtype) -> bool:
    """Return whether autocast is on and casts these dtypes; it leaves fp64 alone."""
    return (
        torch.float64 not in dtypes
        and torch.amp.is_autocast_available(device)
        and torch.is_autocast_enabled(device)
    )


def _expected(width: int) -> str:
    return f"tokens (b, n, {width}) or a map (b, {width}, h, w)"


def _first_parameter(module: nn.Module) -> nn.Parameter | None:
    """Return ``next(module.parameters(), None)`` at a tenth of its cost; every call pays it."""
    for parameter in module._parameters.values():
        if parameter is not None:
            return parameter
    for child in module._modules.values():
        if child is not None and (found := _first_parameter(child)) is not None:
            return found
    return None
