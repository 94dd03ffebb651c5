"""GOT-OCR 2.0's projector."""

from __future__ import annotations

from typing import ClassVar

from ...blocks.conv import Conv
from ...blocks.pointwise import Pointwise
from ..preset import Aliases, Preset
from ..stack import Stack
from ..upstream import Checkpoint, Match, Upstream

__all__ = ["GotOcr2"]


def _read(ckpt: Checkpoint) -> Match:
    in_ = ckpt.shapes["conv_upsampler1.weight"][1]
    return Match(in_, ckpt.matrix("multimodal_projector.weight")[0])


def _read_original(ckpt: Checkpoint) -> Match:
    in_ = ckpt.shapes["vision_tower_high.net_2.weight"][1]
    return Match(in_, ckpt.matrix("mm_projector_vary.weight")[0])


_ORIGINAL = ("vision_tower_high.net_2", "vision_tower_high.net_3", "mm_projector_vary")


class GotOcr2(Preset):
    """``conv 3x3 stride 2 > conv 3x3 stride 2 > Linear``; 1 token of 16 comes out.

    Used by GOT-OCR 2.0.

    Source: huggingface/transformers, ``models/got_ocr2/modeling_got_ocr2.py``
    (`GotOcr2MultiModalProjector`); Wei et al., "General OCR Theory", 2024.

    Traps: upstream calls its convolutions upsamplers; they have no bias, and there is no
    activation between them; the first doubles the width, the second goes to the output's.
    """

    def expand(self, in_: int, out: int) -> Stack:
        blocks = (
            Conv(out=2 * in_, stride=2, bias=False),
            Conv(stride=2, bias=False),
            Pointwise(),
        )
        return Stack(in_=in_, out=out, blocks=blocks)

    aliases: ClassVar[Aliases] = {"GotOcr2MultiModalProjector": {}}
    models: ClassVar[Aliases] = {"GOT-OCR 2.0": {}, "PP-Chart2Table": {}}
    upstream = (
        Upstream(
            "got-ocr2",
            ("conv_upsampler1", "conv_upsampler2", "multimodal_projector"),
            prefix="multi_modal_projector",
            tensors=("conv_upsampler1.weight",),
            read=_read,
            model_types=("got_ocr2", "pp_chart2table"),
            names_suffice=True,
        ),
        # The model's own code.
        Upstream(
            "got-ocr2-original",
            _ORIGINAL,
            prefix="model",
            read=_read_original,
            prefixes=tuple(f"{name}." for name in _ORIGINAL),
        ),
    )
