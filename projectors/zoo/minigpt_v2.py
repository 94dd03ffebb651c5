"""MiniGPT-v2's projection."""

from __future__ import annotations

from typing import ClassVar

from ...blocks.patch_merge import PatchMerge
from ...blocks.pointwise import Pointwise
from ..errors import CheckpointError
from ..preset import MERGES, Aliases, Preset, TokensBy, UpTo16
from ..stack import Stack
from ..upstream import Checkpoint, Match, Upstream

__all__ = ["EVA_G", "MiniGPTv2"]

EVA_G = 1408
"""The width of EVA-CLIP's giant tower, which MiniGPT-v2 always has."""


def _read(ckpt: Checkpoint) -> Match:
    out, wide = ckpt.matrix("weight")
    if wide != 4 * EVA_G:
        raise CheckpointError(f"an input of {wide}", "weight", f"{4 * EVA_G}, four tokens of EVA-G")
    return Match(EVA_G, out, {"width": 4})


class MiniGPTv2(Preset):
    """``merge 1 x 4 (four tokens of a row) > Linear``; a quarter of the tokens.

    Used by MiniGPT-v2.

    Source: Vision-CAIR/MiniGPT-4, ``minigpt4/models/minigpt_v2.py`` (`MiniGPTv2`); Chen et al.,
    "MiniGPT-v2", 2023.

    Traps: the CLS token is dropped before (``prefix_tokens=1``). Four tokens that follow each other
    are joined, whatever the grid. MiniGPT-4's `llama_proj` takes the tokens of a Q-Former.

    Attributes:
        width: How many tokens of a row become one.
    """

    width: UpTo16 = 4

    def expand(self, in_: int, out: int) -> Stack:
        return Stack(in_=in_, out=out, blocks=(PatchMerge(size=(1, self.width)), Pointwise()))

    models: ClassVar[Aliases] = {"MiniGPT-v2": {}}
    tokens_by: ClassVar[TokensBy] = {"width": MERGES}
    upstream = (Upstream("linear", ("",), prefix="llama_proj", read=_read, needs_prefix=True),)
