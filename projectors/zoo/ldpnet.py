"""The projector MobileVLM v1 released."""

from __future__ import annotations

from typing import ClassVar

from ...blocks.core.block import Block
from ...blocks.depthwise import Depthwise
from ...blocks.norm_act import NormAct
from ...blocks.pointwise import Pointwise
from ...blocks.residual import Residual
from ...blocks.squeeze_excite import SqueezeExcite, make_divisible
from ..preset import Aliases, Preset
from ..stack import Stack
from ..upstream import Checkpoint, Match, Name, Upstream

__all__ = ["LdpNet"]


def _names_of_block(path: str) -> tuple[str | Name, ...]:
    return (
        f"{path}.block.0.0",
        f"{path}.block.0.1",
        Name(f"{path}.block.1.fc1", "conv"),
        Name(f"{path}.block.1.fc2", "conv"),
        Name(f"{path}.block.2.0", "conv"),
        f"{path}.block.2.1",
    )


def _read(ckpt: Checkpoint) -> Match:
    ckpt.check_type("ldpnet", "ldpnet")
    out, in_ = ckpt.matrix("mlp.1.weight")
    return Match(in_, out)


class LdpNet(Preset):
    """``mlp2 > x + IR(stride 1) > IR(stride 2)``; a quarter of the tokens comes out.

    IR is MobileNetV3's inverted residual without expansion: ``depthwise 3x3 > LN > hardswish >
    squeeze-excite > pointwise > LN``, its convolutions without bias, its LayerNorms over
    channels.

    Used by MobileVLM v1 and PALO.

    Source: Meituan-AutoML/MobileVLM, ``mobilevlm/model/vision_projector.py`` (`LDPNetProjector`);
    Chu et al., "MobileVLM", 2023.

    Traps: the LayerNorms' eps is 1e-5; the squeeze is ``make_divisible(out // 4, 8)`` wide, with
    ReLU inside and a hard sigmoid as gate; only the first IR has a skip.
    """

    def expand(self, in_: int, out: int) -> Stack:
        blocks = (
            Pointwise(),
            NormAct(norm="none", act="gelu"),
            Pointwise(),
            Residual(body=_inverted_residual(out, stride=1)),
            *_inverted_residual(out, stride=2),
        )
        return Stack(in_=in_, out=out, blocks=blocks)

    aliases: ClassVar[Aliases] = {"LDPNetProjector": {}}
    models: ClassVar[Aliases] = {"MobileVLM": {}, "PALO": {}}
    upstream = (
        Upstream(
            "ldpnet",
            ("mlp.1", "mlp.3", *_names_of_block("mb_block.1"), *_names_of_block("mb_block.2")),
            prefix="mm_projector|vision_projector|model",
            tensors=("mlp.1.weight", "mb_block.1.block.0.0.weight"),
            read=_read,
        ),
    )


def _inverted_residual(width: int, stride: int) -> tuple[Block, ...]:
    return (
        Depthwise(stride=stride, bias=False),
        NormAct(norm="layer", eps=1e-5, act="hardswish"),
        SqueezeExcite(mid=make_divisible(width // 4), act="relu", gate="hardsigmoid"),
        Pointwise(out="same", bias=False),
        NormAct(norm="layer", eps=1e-5, act="none"),
    )
