"""Oryx's projector, on one view of an image."""

from __future__ import annotations

from typing import ClassVar

from ...blocks.newline import Newline
from ...blocks.scale import Scale
from ..preset import Aliases, Preset, UpTo16
from ..stack import Stack
from .mlp import Mlp

__all__ = ["Oryx"]


class Oryx(Preset):
    """``* 2 > Linear > [GELU > Linear] x (depth - 1) > newline after each row``.

    Used by Oryx, on one view of an image.

    Source: Oryx-mllm/Oryx, ``oryx/model/multimodal_projector/builder.py``; Liu et al., "Oryx MLLM:
    On-Demand Spatial-Temporal Understanding at Arbitrary Resolution", 2024.

    Traps: the dynamic compressor attends from each window's token to the window and adds what comes
    out. In an image the windows are single tokens: it doubles them, and its queries and keys have
    no effect. Videos, whose windows are larger, need the model's own code.

    Attributes:
        depth: The number of linear layers.
    """

    depth: UpTo16 = 2

    def expand(self, in_: int, out: int) -> Stack:
        mlp = Mlp(depth=self.depth).expand(in_, out).blocks
        return Stack(in_=in_, out=out, blocks=(Scale(by=2.0), *mlp, Newline()))

    models: ClassVar[Aliases] = {"Oryx": {}}
