"""Mistakes in merges, pools and scaling."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ....blocks.attention_pool import AttentionPoolModule
from ....blocks.patch_merge import PatchMergeModule
from ....blocks.pool import AdaptiveAvgPool, BilinearPool, WindowPool
from .edit import Edit

__all__ = ["RASTER_WINDOWS", "WINDOWS"]


def _with(**values: Any) -> Callable[[nn.Module], nn.Module]:
    """Return a change of a module's attributes."""

    def change(module: nn.Module) -> nn.Module:
        vars(module).update(values)
        return module

    return change


def _has(**values: Any) -> Callable[[nn.Module], bool]:
    return lambda module: all(getattr(module, key) == value for key, value in values.items())


def _sorted_by(axes: str) -> Callable[[PatchMergeModule, Tensor], Tensor]:
    """Return a merge that puts a window's rows p, columns q and channels c in another order."""

    def merged(merge: PatchMergeModule, x: Tensor) -> Tensor:
        plain, (p, q) = copy(merge), merge.size
        plain.order = "hwc"
        y: Tensor = rearrange(plain(x), f"b h w (p q c) -> b h w ({axes})", p=p, q=q)
        return y

    return merged


def _is_square(order: str) -> Callable[[PatchMergeModule], bool]:
    return lambda merge: merge.order == order and min(merge.size) > 1


def _consecutive(merge: PatchMergeModule, x: Tensor) -> Tensor:
    (p, q), (b, h, w, c) = merge.size, x.shape
    tokens = x.reshape(b, h // p, w // q, p * q, c)
    return (tokens.transpose(3, 4) if merge.order == "chw" else tokens).flatten(3)


def _padded_above(merge: PatchMergeModule, x: Tensor) -> Tensor:
    (p, q), (_, h, w, _) = merge.size, x.shape
    y: Tensor = merge(F.pad(x, (0, 0, -w % q, 0, -h % p, 0)))
    return y


def _sides_swapped(merge: PatchMergeModule) -> nn.Module:
    merge.size = merge.size[::-1]
    return merge


def _is_oblong(merge: PatchMergeModule) -> bool:
    return merge.size[0] != merge.size[1]


def _summed(pool: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = pool(x)
    return y * (x.shape[1] // y.shape[1] * (x.shape[2] // y.shape[2]))


def _has_rows(module: PatchMergeModule) -> bool:
    return module.size[0] > 1


def _counts_padding(pool: WindowPool, x: Tensor) -> Tensor:
    (_, h, w, _), s = x.shape, pool.stride
    wide = F.pad(x, (0, 0, 0, -w % s, 0, -h % s))
    return F.avg_pool2d(wide.permute(0, 3, 1, 2), s).permute(0, 2, 3, 1)


def _sampled(pool: WindowPool, x: Tensor) -> Tensor:
    (h, w), s = pool(x).shape[1:3], pool.stride
    return x[:, ::s, ::s][:, :h, :w]


def _equal_windows(pool: AdaptiveAvgPool, x: Tensor) -> Tensor:
    h, w = pool(x).shape[1:3]
    size = x.shape[1] // h, x.shape[2] // w
    return F.avg_pool2d(x.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)[:, :h, :w]


def _scaled(mode: str, **options: Any) -> Callable[[nn.Module, Tensor], Tensor]:
    """Return a scaling to the grid of a pool."""

    def scaled(pool: nn.Module, x: Tensor) -> Tensor:
        size = tuple(pool(x).shape[1:3])
        return F.interpolate(x.permute(0, 3, 1, 2), size, mode=mode, **options).permute(0, 2, 3, 1)

    return scaled


def _scaled_to_floor(pool: BilinearPool, x: Tensor) -> Tensor:
    size = x.shape[1] // pool.stride, x.shape[2] // pool.stride
    return F.interpolate(x.permute(0, 3, 1, 2), size, mode="bilinear").permute(0, 2, 3, 1)


def _attended_from_first(pool: AttentionPoolModule, x: Tensor, inside: Tensor | None) -> Tensor:
    mask = None if inside is None else inside[:, None, None]
    y: Tensor = pool.attention(x[:, :1], x, x, mask)
    return y[:, 0]


def _from_first(pool: AttentionPoolModule) -> nn.Module:
    vars(pool)["_attend"] = lambda x, inside: _attended_from_first(pool, x, inside)
    return pool


WINDOWS = (
    Edit(
        "chw-for-hwc",
        "the merge sorts by channel (chw), not token after token (hwc)",
        PatchMergeModule,
        _sorted_by("c p q"),
        when=_has(order="hwc"),
        kind="chw",
    ),
    Edit(
        "hwc-for-chw",
        "the merge goes token after token (hwc), not channel after channel (chw)",
        PatchMergeModule,
        _sorted_by("p q c"),
        when=_has(order="chw"),
        kind="chw",
    ),
    Edit(
        "window-transposed",
        "the tokens of a window are read column by column",
        PatchMergeModule,
        _sorted_by("q p c"),
        when=_is_square("hwc"),
    ),
    Edit(
        "window-transposed-chw",
        "the tokens of a window are read column by column",
        PatchMergeModule,
        _sorted_by("c q p"),
        when=_is_square("chw"),
        kind="window-transposed",
    ),
    Edit(
        "merge-transposed",
        "the merged tokens come column by column, not row by row",
        PatchMergeModule,
        change=_with(transpose=True),
        when=_has(transpose=False),
    ),
    Edit(
        "merge-not-transposed",
        "the merged tokens come row by row, not column by column",
        PatchMergeModule,
        change=_with(transpose=False),
        when=_has(transpose=True),
        kind="merge-transposed",
    ),
    Edit(
        "dropped-for-padded",
        "odd sides lose a row or a column, where zeros are padded",
        PatchMergeModule,
        change=_with(odd="drop"),
        when=_has(odd="pad"),
        kind="odd-sides",
    ),
    Edit(
        "padded-for-dropped",
        "odd sides are padded with zeros, where a row or a column is dropped",
        PatchMergeModule,
        change=_with(odd="pad"),
        when=_has(odd="drop"),
        kind="odd-sides",
    ),
    Edit(
        "padded-above",
        "odd sides are padded above and to the left, not below and to the right",
        PatchMergeModule,
        _padded_above,
        when=_has(odd="pad"),
        kind="odd-sides",
    ),
    Edit(
        "window-sides-swapped",
        "the window's height is taken for its width",
        PatchMergeModule,
        change=_sides_swapped,
        when=_is_oblong,
        kind="window-transposed",
    ),
    Edit(
        "sum-for-average",
        "the pool adds the tokens of a window up, and does not divide by their number",
        WindowPool,
        _summed,
        when=_has(mode="avg"),
        kind="pool",
    ),
    Edit(
        "pool-ceil",
        "windows that the border cuts off are kept, not dropped",
        (WindowPool, AttentionPoolModule),
        change=_with(ceil=True),
        when=_has(ceil=False),
        kind="odd-sides",
    ),
    Edit(
        "pool-floor",
        "windows that the border cuts off are dropped, not kept",
        (WindowPool, AttentionPoolModule),
        change=_with(ceil=False),
        when=_has(ceil=True),
        kind="odd-sides",
    ),
    Edit(
        "max-for-average",
        "the pool takes the maximum, not the average",
        WindowPool,
        change=_with(mode="max"),
        when=_has(mode="avg"),
        kind="pool",
    ),
    Edit(
        "average-for-max",
        "the pool takes the average, not the maximum",
        WindowPool,
        change=_with(mode="avg"),
        when=_has(mode="max"),
        kind="pool",
    ),
    Edit(
        "pool-counts-padding",
        "the pool counts tokens outside as zeros",
        WindowPool,
        _counts_padding,
        when=_has(mode="avg", ceil=True),
        kind="pool",
    ),
    Edit(
        "pool-sampled",
        "the pool takes one token of each window",
        WindowPool,
        _sampled,
        kind="pool",
    ),
    Edit(
        "equal-windows",
        "the pool's windows are all of one size, where they cover the grid evenly (adaptive)",
        AdaptiveAvgPool,
        _equal_windows,
        kind="pool",
    ),
    Edit(
        "bilinear-for-adaptive",
        "the pool interpolates, and does not average",
        AdaptiveAvgPool,
        _scaled("bilinear"),
        kind="pool",
    ),
    Edit(
        "corners-aligned",
        "the scaling aligns the corners (no half-pixel centres)",
        BilinearPool,
        _scaled("bilinear", align_corners=True),
        kind="half-pixel",
    ),
    Edit(
        "nearest",
        "the scaling takes the nearest token",
        BilinearPool,
        _scaled("nearest"),
        kind="half-pixel",
    ),
    Edit(
        "average-for-bilinear",
        "the scaling averages, and does not interpolate",
        BilinearPool,
        _scaled("area"),
        kind="pool",
    ),
    Edit(
        "scaled-to-floor",
        "the scaling rounds odd sides down, not up",
        BilinearPool,
        _scaled_to_floor,
        kind="odd-sides",
    ),
    Edit(
        "attention-from-first",
        "the query of a window is its first token, not its mean",
        AttentionPoolModule,
        change=_from_first,
        kind="pool",
    ),
)

# Where the tokens come block by block, this is right.
RASTER_WINDOWS = (
    Edit(
        "consecutive-merged",
        "tokens that follow each other are merged, not those of a window",
        PatchMergeModule,
        _consecutive,
        when=_has_rows,
        kind="block-major-for-raster",
    ),
)
