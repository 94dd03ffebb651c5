"""Mistakes in linear layers, convolutions and what is added around them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....blocks.depthwise import ConvModule, DepthwiseConv
from ....blocks.depthwise_residual import DepthwiseResidualConv
from ....blocks.glu import GluModule
from ....blocks.parallel import ParallelModule
from ....blocks.repeat import RepeatModule
from ....blocks.residual import ResidualModule
from ....blocks.squeeze_excite import SqueezeExciteModule
from ....blocks.take_channels import TakeChannelsModule
from .edit import Edit, same

__all__ = ["LAYERS"]

_Layer = nn.Linear | ConvModule


def _without_bias(layer: _Layer) -> nn.Module:
    layer.bias = None
    return layer


def _has_bias(layer: _Layer) -> bool:
    return layer.bias is not None


def _transposed(layer: nn.Linear) -> nn.Module:
    layer.weight = nn.Parameter(layer.weight.t().contiguous())
    return layer


def _is_square(layer: nn.Linear) -> bool:
    return layer.in_features == layer.out_features


def _turned(turn: Callable[[Tensor], Tensor]) -> Callable[[ConvModule], nn.Module]:
    """Return a change of a convolution's kernel."""

    def change(conv: ConvModule) -> nn.Module:
        conv.weight = nn.Parameter(turn(conv.weight).contiguous())
        return conv

    return change


def _has_border(conv: ConvModule) -> bool:
    return conv.kernel > 1


def _convolved(conv: ConvModule, x: Tensor, wide: Tensor) -> Tensor:
    """Return what a convolution makes of x, padded to ``wide``, which is ``(b, c, h, w)``."""
    y = F.conv2d(wide, conv.weight, conv.bias, conv.stride, groups=conv.groups)
    y = y.permute(0, 2, 3, 1)
    if isinstance(conv, DepthwiseResidualConv):
        y = y + conv(x) - DepthwiseConv.forward(conv, x)
    return y


def _edge_padded(conv: ConvModule, x: Tensor) -> Tensor:
    wide = F.pad(x.permute(0, 3, 1, 2), (conv.kernel // 2,) * 4, mode="replicate")
    return _convolved(conv, x, wide)


def _padded_below(conv: ConvModule, x: Tensor) -> Tensor:
    pad, maps = conv.kernel - 1, x.permute(0, 3, 1, 2)
    first = [
        max(0, pad + (side - 1) // conv.stride * conv.stride + 1 - side) // 2
        for side in maps.shape[2:]
    ]
    wide = F.pad(maps, (first[1], pad - first[1], first[0], pad - first[0]))
    return _convolved(conv, x, wide)


def _is_strided(conv: ConvModule) -> bool:
    return conv.kernel > 1 and conv.stride > 1


def _without_skip(conv: DepthwiseResidualConv, x: Tensor) -> Tensor:
    return DepthwiseConv.forward(conv, x)


def _padded_skip(conv: DepthwiseResidualConv, x: Tensor) -> Tensor:
    (_, h, w, _), s = x.shape, conv.stride
    maps = F.pad(x, (0, 0, 0, -w % s, 0, -h % s)).permute(0, 3, 1, 2)
    return DepthwiseConv.forward(conv, x) + F.avg_pool2d(maps, s).permute(0, 2, 3, 1)


def _sampled_skip(conv: DepthwiseResidualConv, x: Tensor) -> Tensor:
    s = conv.stride
    return DepthwiseConv.forward(conv, x) + x[:, ::s, ::s]


def _has_stride(conv: ConvModule) -> bool:
    return conv.stride > 1


def _swapped(glu: GluModule, x: Tensor) -> Tensor:
    gate, value = glu.value(x), glu.gate(x)
    if glu.limit is not None:
        gate, value = gate.clamp(max=glu.limit), value.clamp(-glu.limit, glu.limit)
    y: Tensor = glu.act(gate) * value
    return y


def _unlimited(glu: GluModule) -> nn.Module:
    glu.limit = None
    return glu


def _has_limit(glu: GluModule) -> bool:
    return glu.limit is not None


def _squeezed_by_maximum(module: SqueezeExciteModule, x: Tensor) -> Tensor:
    return x * module._scale(x.amax((1, 2), keepdim=True))


def _first_channels(take: TakeChannelsModule) -> nn.Module:
    take.first = 0
    return take


def _is_not_first(take: TakeChannelsModule) -> bool:
    return take.first > 0


def _body_alone(module: ResidualModule, x: Tensor) -> Tensor:
    y: Tensor = module.body(x)
    return y


def _first_branch(module: ParallelModule, x: Tensor) -> Tensor:
    y: Tensor = module.branches[0](x)
    return y


def _reversed(module: ParallelModule, x: Tensor) -> Tensor:
    return torch.cat([branch(x) for branch in reversed(list(module.branches))], -1)


def _joined_by(join: str) -> Callable[[ParallelModule], bool]:
    return lambda module: module.join == join


def _first_copy(module: RepeatModule, x: Tensor) -> Tensor:
    for _ in module:
        x = module[0](x)
    return x


def _has_copies(module: RepeatModule) -> bool:
    return len(module) > 1


def _all_but_last(module: RepeatModule, x: Tensor) -> Tensor:
    for layer in list(module)[:-1]:
        x = layer(x)
    return x


LAYERS = (
    Edit(
        "bias-forgotten",
        "the layer's bias is left out",
        (nn.Linear, ConvModule),
        change=_without_bias,
        when=_has_bias,
    ),
    Edit(
        "weight-transposed",
        "the weight is used as (in, out), not as (out, in)",
        nn.Linear,
        change=_transposed,
        when=_is_square,
    ),
    Edit(
        "kernel-flipped",
        "the kernel is turned by 180 degrees",
        ConvModule,
        change=_turned(lambda weight: weight.flip(2, 3)),
        when=_has_border,
        kind="kernel",
    ),
    Edit(
        "kernel-transposed",
        "the kernel's rows and columns are swapped",
        ConvModule,
        change=_turned(lambda weight: weight.transpose(2, 3)),
        when=_has_border,
        kind="kernel",
    ),
    Edit(
        "kernel-upside-down",
        "the kernel's rows come in reverse order",
        ConvModule,
        change=_turned(lambda weight: weight.flip(2)),
        when=_has_border,
        kind="kernel",
    ),
    Edit(
        "padded-below",
        "a strided convolution is padded below and to the right only (TensorFlow's SAME)",
        ConvModule,
        _padded_below,
        when=_is_strided,
        kind="padding",
    ),
    Edit(
        "edge-padding",
        "the border's tokens are repeated outside, where there are zeros",
        ConvModule,
        _edge_padded,
        when=_has_border,
        kind="padding",
    ),
    Edit(
        "skip-forgotten",
        "the skip around the depthwise convolution is left out",
        DepthwiseResidualConv,
        _without_skip,
        kind="residual-forgotten",
    ),
    Edit(
        "skip-counts-padding",
        "the skip's average counts tokens outside as zeros",
        DepthwiseResidualConv,
        _padded_skip,
        when=_has_stride,
        kind="pool",
    ),
    Edit(
        "skip-sampled",
        "the skip takes one token of each window, not their average",
        DepthwiseResidualConv,
        _sampled_skip,
        when=_has_stride,
        kind="pool",
    ),
    Edit(
        "gate-and-value-swapped",
        "the gate is taken for the value",
        GluModule,
        _swapped,
        kind="gate-and-value",
    ),
    Edit(
        "limit-forgotten",
        "gate and value are not clamped",
        GluModule,
        change=_unlimited,
        when=_has_limit,
    ),
    Edit(
        "squeeze-forgotten",
        "the squeeze-and-excitation is left out",
        SqueezeExciteModule,
        same,
        kind="squeeze",
    ),
    Edit(
        "squeeze-by-maximum",
        "the squeeze takes the maximum over the grid, not the mean",
        SqueezeExciteModule,
        _squeezed_by_maximum,
        kind="squeeze",
    ),
    Edit(
        "first-channels",
        "the first channels are taken, not those that should be",
        TakeChannelsModule,
        change=_first_channels,
        when=_is_not_first,
        kind="channels",
    ),
    Edit("residual-forgotten", "the skip is left out", ResidualModule, _body_alone),
    Edit(
        "shortcut-forgotten",
        "the second branch is left out of the sum",
        ParallelModule,
        _first_branch,
        when=_joined_by("add"),
        kind="residual-forgotten",
    ),
    Edit(
        "branches-reversed",
        "the branches are joined in the other order",
        ParallelModule,
        _reversed,
        when=_joined_by("cat"),
        kind="branches",
    ),
    Edit(
        "first-copy-repeated",
        "all copies have the weights of the first",
        RepeatModule,
        _first_copy,
        when=_has_copies,
        kind="copies",
    ),
    Edit(
        "last-copy-forgotten",
        "there is one copy too few",
        RepeatModule,
        _all_but_last,
        when=_has_copies,
        kind="copies",
    ),
)
