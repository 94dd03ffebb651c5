"""The projector MobileVLM v2 released."""

from __future__ import annotations

from ...blocks.depthwise_residual import DepthwiseResidual
from ...blocks.norm_act import NormAct
from ...blocks.pointwise import Pointwise
from ...blocks.pool import Pool
from ..preset import Preset
from ..stack import Stack
from ..upstream import Checkpoint, Match, Upstream

__all__ = ["LdpNetV2"]


def _read(ckpt: Checkpoint) -> Match:
    ckpt.check_type("ldpnetv2", "ldpnetv2")
    out, in_ = ckpt.matrix("mlp.mlp.0.weight")
    return Match(in_, out)


class LdpNetV2(Preset):
    """``mlp2 > average pool to 12x12 > x + depthwise 3x3``; 144 tokens come out.

    Used by MobileVLM v2.

    Source: Meituan-AutoML/MobileVLM, ``mobilevlm/model/vision_projector.py``
    (`LDPNetV2Projector`).

    Traps: the pool is adaptive, so any grid of at least 12x12 gives 12x12; a smaller one, which
    upstream enlarges to 144 tokens, is refused. The depthwise convolution has a bias, unlike v1's.
    """

    def expand(self, in_: int, out: int) -> Stack:
        blocks = (
            Pointwise(),
            NormAct(norm="none", act="gelu"),
            Pointwise(),
            Pool(mode="adaptive", size=(12, 12)),
            DepthwiseResidual(kernel=3),
        )
        return Stack(in_=in_, out=out, blocks=blocks)

    upstream = (
        Upstream(
            "ldpnetv2",
            ("mlp.mlp.0", "mlp.mlp.2", "peg.peg.0"),
            prefix="mm_projector|vision_projector",
            tensors=("mlp.mlp.0.weight", "peg.peg.0.weight"),
            read=_read,
        ),
    )
