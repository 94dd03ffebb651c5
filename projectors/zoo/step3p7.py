"""Step-3.7's downsampling and projector."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from ...blocks.conv import Conv
from ...blocks.pointwise import Pointwise
from ..preset import Aliases, Preset
from ..stack import Stack
from ..upstream import Checkpoint, Match, Upstream

__all__ = ["Step3p7"]


def _reader(first: str, last: str) -> Callable[[Checkpoint], Match]:
    def read(ckpt: Checkpoint) -> Match:
        out, _ = ckpt.matrix(f"{last}.weight")
        return Match(
            ckpt.shapes[f"{first}.weight"][1], out, {"bias": f"{last}.bias" in ckpt.shapes}
        )

    return read


def _entry(layout: str, first: str, second: str, last: str, prefix: str = "") -> Upstream:
    return Upstream(
        layout,
        (first, second, last),
        prefix=prefix,
        read=_reader(first, last),
        prefixes=(f"{first}.", f"{second}.", f"{last}."),
    )


class Step3p7(Preset):
    """``[3x3 conv of stride 2, twice as wide] x 2 > Linear``; a sixteenth of the tokens.

    Used by Step-3.7 and Step3-VL.

    Source: huggingface/transformers, ``models/step3p7/modeling_step3p7.py`` (`Step3p7Model`,
    `Step3p7VisionModel`).

    Traps: there is no activation. The convolutions are part of upstream's tower, and round odd
    sides up.

    Attributes:
        bias: Whether the linear layer has a bias.
    """

    bias: bool = False

    def expand(self, in_: int, out: int) -> Stack:
        blocks = (
            Conv(out=2 * in_, stride=2),
            Conv(out=4 * in_, stride=2),
            Pointwise(bias=self.bias),
        )
        return Stack(in_=in_, out=out, blocks=blocks)

    models: ClassVar[Aliases] = {"Step-3.7": {}, "Step3-VL": {}}
    upstream = (
        _entry(
            "step3p7",
            *("vision_model.vit_downsampler1", "vision_model.vit_downsampler2"),
            "vit_large_projector",
            "model",
        ),
        _entry(
            "step3p7-module",
            *("vision_model.downsampler1", "vision_model.downsampler2"),
            "multi_modal_projector",
            "model",
        ),
    )
