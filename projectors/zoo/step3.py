"""Step-3's downsampling and projector."""

from __future__ import annotations

from typing import ClassVar

from ...blocks.conv import Conv
from ...blocks.patch_merge import PatchMerge
from ...blocks.pointwise import Pointwise
from ..preset import Aliases, Channels, Preset
from ..stack import Stack
from ..upstream import Checkpoint, Match, Name, Upstream

__all__ = ["Step3"]

_TENSORS = ("vit_downsampler.weight", "vit_downsampler2.weight", "vit_large_projector.weight")


def _read(ckpt: Checkpoint) -> Match:
    hidden, in_, *_ = ckpt.shapes[_TENSORS[0]]
    options = {"hidden": hidden, "bias": "vit_large_projector.bias" in ckpt.shapes}
    return Match(in_, ckpt.matrix(_TENSORS[2])[0], options)


class Step3(Preset):
    """``2x2 conv of stride 2 > 3x3 conv of stride 2 > Linear``; a sixteenth of the tokens.

    Used by Step-3.

    Source: vllm-project/vllm, ``vllm/model_executor/models/step3_vl.py``
    (`Step3VLForConditionalGeneration`).

    Traps: there is no activation. The first convolution drops a last odd row or column, the second
    rounds up.

    Attributes:
        hidden: The width after the first convolution; the second has twice as much.
        bias: Whether the linear layer has a bias.
    """

    hidden: Channels = 4096
    bias: bool = False

    def expand(self, in_: int, out: int) -> Stack:
        blocks = (
            PatchMerge(order="chw", odd="drop"),
            Pointwise(out=self.hidden),
            Conv(out=2 * self.hidden, stride=2),
            Pointwise(bias=self.bias),
        )
        return Stack(in_=in_, out=out, blocks=blocks)

    models: ClassVar[Aliases] = {"Step-3": {}}
    upstream = (
        Upstream(
            "step3",
            (Name("vit_downsampler", "conv", (2, 2)), "vit_downsampler2", "vit_large_projector"),
            prefix="model",
            tensors=_TENSORS,
            read=_read,
            prefixes=("vit_downsampler.", "vit_downsampler2.", "vit_large_projector."),
        ),
    )
