"""Mistakes in added tokens and positions, scales and padded channels."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ....blocks.extra_tokens import ExtraTokensModule
from ....blocks.newline import NewlineModule
from ....blocks.pad_channels import PadChannelsModule
from ....blocks.position import AxesPosition, FramePosition, LearnedPosition, SincosPosition
from ....blocks.query_resampler import QueryPosition
from ....blocks.scale import ScaleModule, Standardization
from .edit import Edit, same

__all__ = ["TOKENS"]


def _newline_first(newline: NewlineModule, x: Tensor) -> Tensor:
    y: Tensor = newline(x)
    return y.roll(1, 2)


def _newline_once(newline: NewlineModule, x: Tensor) -> Tensor:
    tokens = x.flatten(1, 2)[:, None]
    last = newline.token.expand(len(x), 1, 1, -1)
    return torch.cat([tokens, last], 2)


def _other_end(tokens: ExtraTokensModule) -> nn.Module:
    tokens.at = "end" if tokens.at == "begin" else "begin"
    return tokens


def _flat(tokens: ExtraTokensModule, x: Tensor) -> Tensor:
    return x.flatten(1, 2)[:, None]


def _zeros_first(pad: PadChannelsModule, x: Tensor) -> Tensor:
    return F.pad(x, (pad.count, 0))


def _divided(scale: ScaleModule, x: Tensor) -> Tensor:
    return x / scale.factor


def _scales(scale: ScaleModule) -> bool:
    return not isinstance(scale, Standardization)


def _not_standardised(scale: Standardization, x: Tensor) -> Tensor:
    return x * scale.factor


def _bias_last(scale: Standardization, x: Tensor) -> Tensor:
    return x * scale.factor * scale.scale - scale.bias


# ---------------------------------------------------------------------- positions


def _turned(position: nn.Module, x: Tensor) -> Tensor:
    added: Tensor = position(torch.zeros_like(x).transpose(1, 2))
    return x + added.transpose(1, 2)


def _halves_swapped(position: nn.Module, x: Tensor) -> Tensor:
    added: Tensor = position(torch.zeros_like(x))
    return x + added.roll(x.shape[-1] // 2, -1)


def _by_turns(position: nn.Module, x: Tensor) -> Tensor:
    added: Tensor = position(torch.zeros_like(x))
    return x + rearrange(added, "... (side wave n) -> ... (side n wave)", side=2, wave=2)


def _from_one(position: nn.Module, x: Tensor) -> Tensor:
    b, h, w, c = x.shape
    added: Tensor = position(x.new_zeros(b, h + 1, w + 1, c))
    return x + added[:, 1:, 1:]


def _is_joined(position: AxesPosition) -> bool:
    return position.cat


_Pair = tuple[Tensor, Tensor]


def _queries_alone(position: QueryPosition, q: Tensor, x: Tensor) -> _Pair:
    return position(q, x)[0], x


def _keys_alone(position: QueryPosition, q: Tensor, x: Tensor) -> _Pair:
    return q, position(q, x)[1]


def _keys_turned(position: QueryPosition, q: Tensor, x: Tensor) -> _Pair:
    queries, _ = position(q, x)
    return queries, _turned(lambda zeros: position(q, zeros)[1], x)  # type: ignore[arg-type]


def _keys_halves(position: QueryPosition, q: Tensor, x: Tensor) -> _Pair:
    queries, _ = position(q, x)
    return queries, _halves_swapped(lambda zeros: position(q, zeros)[1], x)  # type: ignore[arg-type]


def _corners_aligned(position: QueryPosition, q: Tensor, x: Tensor) -> _Pair:
    queries, _ = position(q, x)
    _, h, w, c = x.shape
    table = queries - q
    square = table.view(1, position.side, position.side, c).permute(0, 3, 1, 2)
    added = F.interpolate(square, (h, w), mode="bicubic", align_corners=True)
    return queries, x + added.permute(0, 2, 3, 1)


def _bilinear(position: QueryPosition, q: Tensor, x: Tensor) -> _Pair:
    queries, _ = position(q, x)
    _, h, w, c = x.shape
    square = (queries - q).view(1, position.side, position.side, c).permute(0, 3, 1, 2)
    added = F.interpolate(square, (h, w), mode="bilinear")
    return queries, x + added.permute(0, 2, 3, 1)


def _has_table(position: QueryPosition) -> bool:
    return position.table is not None


def _is_resized(position: QueryPosition) -> bool:
    return position.kind == "resized"


TOKENS = (
    Edit(
        "newline-first",
        "the newline stands before each row",
        NewlineModule,
        _newline_first,
        kind="newline",
    ),
    Edit("newline-forgotten", "there are no newlines", NewlineModule, same, kind="newline"),
    Edit(
        "newline-once",
        "one newline follows the image, not each row",
        NewlineModule,
        _newline_once,
        kind="newline",
    ),
    Edit(
        "tokens-at-other-end",
        "the added tokens stand at the other end",
        ExtraTokensModule,
        change=_other_end,
        kind="extra-tokens",
    ),
    Edit(
        "added-tokens-forgotten",
        "no tokens are added",
        ExtraTokensModule,
        _flat,
        kind="extra-tokens",
    ),
    Edit(
        "zeros-first",
        "the zeros stand before the channels, not after",
        PadChannelsModule,
        _zeros_first,
        kind="pad-channels",
    ),
    Edit(
        "scale-forgotten",
        "the multiplication by a constant is left out",
        ScaleModule,
        same,
        when=_scales,
        kind="scale",
    ),
    Edit(
        "scale-inverted",
        "the constant divides, and does not multiply",
        ScaleModule,
        _divided,
        when=_scales,
        kind="scale",
    ),
    Edit(
        "standardize-forgotten",
        "the stored statistics are not used",
        Standardization,
        _not_standardised,
        kind="scale",
    ),
    Edit(
        "standardize-bias-last",
        "the stored bias is subtracted after the scale",
        Standardization,
        _bias_last,
        kind="scale",
    ),
    Edit(
        "position-forgotten",
        "no positions are added",
        (SincosPosition, AxesPosition, LearnedPosition, FramePosition),
        same,
    ),
    Edit(
        "position-transposed",
        "rows and columns are swapped in the positions",
        (SincosPosition, AxesPosition, LearnedPosition),
        _turned,
    ),
    Edit(
        "position-halves",
        "the halves of the positions' channels are swapped",
        SincosPosition,
        _halves_swapped,
    ),
    Edit(
        "position-tables-swapped",
        "the halves of the positions' channels are swapped",
        AxesPosition,
        _halves_swapped,
        when=_is_joined,
        kind="position-halves",
    ),
    Edit(
        "position-interleaved",
        "the positions' sines and cosines come by turns",
        SincosPosition,
        _by_turns,
    ),
    Edit(
        "position-from-one",
        "rows and columns are numbered from 1, not from 0",
        SincosPosition,
        _from_one,
    ),
    Edit(
        "key-position-forgotten",
        "the tokens get no positions",
        QueryPosition,
        _queries_alone,
        kind="position-forgotten",
    ),
    Edit(
        "query-position-forgotten",
        "the queries get no positions",
        QueryPosition,
        _keys_alone,
        when=_has_table,
        kind="position-forgotten",
    ),
    Edit(
        "key-position-transposed",
        "rows and columns are swapped in the tokens' positions",
        QueryPosition,
        _keys_turned,
        kind="position-transposed",
    ),
    Edit(
        "key-position-halves",
        "the halves of the tokens' positions are swapped",
        QueryPosition,
        _keys_halves,
        when=lambda position: not _is_resized(position),
        kind="position-halves",
    ),
    Edit(
        "position-corners-aligned",
        "the table of positions is scaled with aligned corners",
        QueryPosition,
        _corners_aligned,
        when=_is_resized,
        kind="half-pixel",
    ),
    Edit(
        "position-bilinear",
        "the table of positions is scaled bilinearly, not bicubically",
        QueryPosition,
        _bilinear,
        when=_is_resized,
        kind="half-pixel",
    ),
)
