"""PP-FormulaNet's projector."""

from __future__ import annotations

from typing import ClassVar

from ...blocks.conv import Conv
from ...blocks.pointwise import Pointwise
from ..preset import Aliases, Channels, Preset
from ..stack import Stack
from ..upstream import Checkpoint, Match, Upstream

__all__ = ["PPFormulaNet"]


def _read(ckpt: Checkpoint) -> Match:
    hidden, in_, *_ = ckpt.shapes["conv1.weight"]
    options = {"hidden": hidden, "wide": ckpt.shapes["conv2.weight"][0]}
    return Match(in_, ckpt.matrix("linear_2.weight")[0], options)


class PPFormulaNet(Preset):
    """``[3x3 conv of stride 2] x 2 > Linear > Linear``; a sixteenth of the tokens.

    Used by PP-FormulaNet.

    Source: huggingface/transformers, ``models/pp_formulanet/modeling_pp_formulanet.py``
    (`PPFormulaNetMultiModalProjector`); Liu et al., "PP-FormulaNet", 2025.

    Traps: there is no activation. The convolutions have no bias, and round odd sides up.

    Attributes:
        hidden: The width after the first convolution.
        wide: The width after the second, and after the first linear layer.
    """

    hidden: Channels = 512
    wide: Channels = 1024

    def expand(self, in_: int, out: int) -> Stack:
        blocks = (
            Conv(out=self.hidden, stride=2, bias=False),
            Conv(out=self.wide, stride=2, bias=False),
            Pointwise(out=self.wide),
            Pointwise(),
        )
        return Stack(in_=in_, out=out, blocks=blocks)

    aliases: ClassVar[Aliases] = {"PPFormulaNetMultiModalProjector": {}}
    models: ClassVar[Aliases] = {"PP-FormulaNet": {}}
    upstream = (
        Upstream(
            "pp-formulanet",
            ("conv1", "conv2", "linear_1", "linear_2"),
            prefix="multi_modal_projector",
            read=_read,
            model_types=("pp_formulanet",),
        ),
    )
