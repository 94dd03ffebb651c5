"""The projector MobileVLM v2 released."""

from __future__ import annotations

from typing import ClassVar

from pydantic import model_validator

from ...blocks.core.errors import SpecError
from ...blocks.depthwise_residual import DepthwiseResidual
from ...blocks.norm_act import NormAct
from ...blocks.patch_merge import Window
from ...blocks.pointwise import Pointwise
from ...blocks.pool import Pool
from ..preset import MERGES, Aliases, Preset, TokensBy, UpTo16, square
from ..stack import Stack
from ..upstream import Checkpoint, Match, Upstream

__all__ = ["LdpNetV2"]


def _read(ckpt: Checkpoint) -> Match:
    ckpt.check_type("ldpnetv2", "ldpnetv2")
    out, in_ = ckpt.matrix("mlp.mlp.0.weight")
    return Match(in_, out)


class LdpNetV2(Preset):
    """``mlp2 > average pool to 12x12 > x + depthwise 3x3``; 144 tokens come out by default.

    Used by MobileVLM v2.

    Source: Meituan-AutoML/MobileVLM, ``mobilevlm/model/vision_projector.py`` (`LDPNetV2Projector`);
    Chu et al., "MobileVLM V2", 2024.

    Traps: the pool is adaptive, so any grid of at least 12x12 gives 12x12; a smaller one, which
    upstream enlarges to 144 tokens, is refused. The paper writes an average pool of 2x2 windows
    (``stride=2``), which is the same on 24x24 only. The depthwise convolution has a bias, unlike
    v1's.

    Attributes:
        size: The side of the grid that comes out, or both, (h, w); None with `stride`, else 12.
        stride: Pool windows of this side instead; what they do not fill is left out.
    """

    size: Window | None = None
    stride: UpTo16 | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> LdpNetV2:
        if self.size is not None and self.stride is not None:
            raise SpecError("'size' and 'stride' are both given", hint="Give one of them.")
        return self

    def expand(self, in_: int, out: int) -> Stack:
        if self.stride is None:
            pool = Pool(mode="adaptive", size=self.size or (12, 12))
        else:
            pool = Pool(mode="avg", stride=self.stride)
        blocks = (
            Pointwise(),
            NormAct(norm="none", act="gelu"),
            Pointwise(),
            pool,
            DepthwiseResidual(kernel=3),
        )
        return Stack(in_=in_, out=out, blocks=blocks)

    aliases: ClassVar[Aliases] = {"ldpv2": {}, "LDPNetV2Projector": {}}
    models: ClassVar[Aliases] = {"MobileVLM V2": {}}
    tokens_by: ClassVar[TokensBy] = {"size": square, "stride": MERGES}
    upstream = (
        Upstream(
            "ldpnetv2",
            ("mlp.mlp.0", "mlp.mlp.2", "peg.peg.0"),
            prefix="mm_projector|vision_projector",
            tensors=("mlp.mlp.0.weight", "peg.peg.0.weight"),
            read=_read,
        ),
    )
