"""Prismatic's projector, also OpenVLA's."""

from __future__ import annotations

from typing import ClassVar

from ...blocks.norm_act import NormAct
from ...blocks.pointwise import Pointwise
from ..preset import Aliases, Preset
from ..stack import Stack
from ..upstream import Checkpoint, Match, Upstream, count_blocks

__all__ = ["Prismatic"]


def _names(stack: Stack) -> list[str]:
    return [f"fc{step + 1}" for step in range(count_blocks(stack, Pointwise))]


def _read(ckpt: Checkpoint) -> Match:
    fused = "fc3.weight" in ckpt.shapes
    out, _ = ckpt.matrix("fc3.weight" if fused else "fc2.weight")
    return Match(ckpt.matrix("fc1.weight")[1], out, {"fused": fused})


class Prismatic(Preset):
    """``Linear(in, 4 in) > GELU > Linear(4 in, out) > GELU > Linear`` on every token.

    Used by Prismatic VLMs with two towers and OpenVLA; with one tower without the first layer.

    Source: openvla/openvla, ``prismatic/extern/hf/modeling_prismatic.py`` (`PrismaticProjector`);
    Karamcheti et al., "Prismatic VLMs", 2024.

    Traps: the features of the two towers are joined on channels.

    Attributes:
        fused: Whether the wide first layer is there, as behind two towers.
    """

    fused: bool = True

    def expand(self, in_: int, out: int) -> Stack:
        gelu = NormAct(norm="none", act="gelu")
        first = (Pointwise(out=4 * in_), gelu) if self.fused else ()
        return Stack(in_=in_, out=out, blocks=(*first, Pointwise(), gelu, Pointwise()))

    models: ClassVar[Aliases] = {"OpenVLA": {}, "Prismatic": {"fused": False}}
    upstream = (
        Upstream(
            "prismatic",
            _names,
            prefix="projector",
            tensors=("fc1.weight", "fc2.weight"),
            read=_read,
            needs_prefix=True,
        ),
    )
