"""LDP, the Lightweight Downsample Projection, by its description."""

from __future__ import annotations

from typing import Literal

import torch

from ...blocks.core.block import Block
from ...blocks.depthwise import Depthwise, Kernel
from ...blocks.depthwise_residual import DepthwiseResidual
from ...blocks.norm_act import Eps, NormAct
from ...blocks.parallel import Parallel
from ...blocks.pointwise import Pointwise
from ...blocks.pool import Pool
from ..preset import Preset
from ..projector import Projector
from ..stack import Stack

__all__ = ["LDP", "Ldp"]


class Ldp(Preset):
    """The eleven steps of the LDP layer's description; a quarter of the tokens comes out.

    ``pointwise > GELU > [depthwise s1 + skip] > pointwise > LayerNorm > GELU >
    [depthwise s2 + averaged skip] > pointwise > LayerNorm``. Every convolution has a bias.

    Source: Chu et al., "MobileVLM", 2023; Meituan-AutoML/MobileVLM, ``README.md``.

    Note: MobileVLM's released projectors are `ldpnet` and `ldpnetv2`; llama.cpp's `ldp` is
    `ldpnet`.

    The description calls the second skip "the downsampled input to the block". By default that is
    the input of the second depthwise block; ``skip="input"`` is the other reading: the LDP's own
    input, averaged 2x2 and, where the widths differ, projected by a pointwise layer.

    Attributes:
        kernel: The side of the depthwise kernels, odd.
        eps: Of both LayerNorms.
        skip: Where the second skip starts: at the second depthwise ``block``, or at the ``input``.
    """

    kernel: Kernel = 3
    eps: Eps = 1e-5
    skip: Literal["block", "input"] = "block"

    def expand(self, in_: int, out: int) -> Stack:
        head = (
            Pointwise(),
            NormAct(norm="none", act="gelu"),
            DepthwiseResidual(kernel=self.kernel),
            Pointwise(),
            NormAct(norm="layer", eps=self.eps, act="gelu"),
        )
        tail = (Pointwise(), NormAct(norm="layer", eps=self.eps, act="none"))
        if self.skip == "block":
            second = DepthwiseResidual(kernel=self.kernel, stride=2)
            return Stack(in_=in_, out=out, blocks=(*head, second, *tail))
        skip: tuple[Block, ...] = (Pool(mode="avg", stride=2, ceil=True),)
        if in_ != out:
            skip = (*skip, Pointwise())
        branches = ((*head, Depthwise(kernel=self.kernel, stride=2)), skip)
        return Stack(in_=in_, out=out, blocks=(Parallel(branches=branches, join="add"), *tail))


class LDP(Projector):
    """The LDP layer on maps; ``(b, c, h, w) -> (b, out, ceil(h/2), ceil(w/2))``.

    Takes tokens too, as every projector does.

    >>> import torch
    >>> LDP(in_channels=128, out_channels=128)(torch.randn(1, 128, 64, 64)).shape
    torch.Size([1, 128, 32, 32])

    Args:
        in_channels: The input width.
        out_channels: The output width.
        device: Where to build; default: torch's current default device.
        dtype: The parameters' dtype or its name, ``"bf16"``; default: torch's default dtype.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
    ) -> None:
        stack = Ldp().stack(in_channels, out_channels)
        super().__init__(stack, device=device, dtype=dtype, name="ldp")
