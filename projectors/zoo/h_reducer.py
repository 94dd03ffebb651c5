"""mPLUG-DocOwl 1.5's H-Reducer."""

from __future__ import annotations

from typing import ClassVar

from ...blocks.extra_tokens import ExtraTokens
from ...blocks.norm_act import NormAct
from ...blocks.patch_merge import PatchMerge
from ...blocks.pointwise import Pointwise
from ..preset import MERGES, Aliases, Preset, TokensBy, UpTo16
from ..stack import Stack
from ..upstream import Checkpoint, Match, Name, Upstream

__all__ = ["HReducer"]


def _names(stack: Stack) -> list[str | Name]:
    [merge] = [block for block in stack.blocks if isinstance(block, PatchMerge)]
    return [
        Name("reducer_before.0", "conv", merge.size),
        Name("reducer", "conv", merge.size, "hwc"),
        "visual_fc",
        Name("vit_eos", "batch"),
    ]


def _read(ckpt: Checkpoint) -> Match:
    _, in_, _, width = ckpt.shapes["reducer.weight"]
    return Match(in_, ckpt.matrix("visual_fc.weight")[0], {"width": width})


class HReducer(Preset):
    """``1x4 conv of stride 4 > GELU > Linear > Linear > end token``; a quarter of the tokens.

    Used by mPLUG-DocOwl 1.5, and by DocOwl 2 before its compressor.

    Source: X-PLUG/mPLUG-DocOwl, ``DocOwl1.5/mplug_docowl/model/visual_encoder.py``
    (`MplugDocOwlHReducerModel`); Hu et al., "mPLUG-DocOwl 1.5", 2024.

    Traps: the CLS token is dropped before (``prefix_tokens=1``). Between the two convolutions the
    tokens of a row stand apart again, so that the second is a linear layer over the first's
    channels, whose weights stand in another order.

    Attributes:
        width: How many tokens of a row become one.
    """

    width: UpTo16 = 4

    def expand(self, in_: int, out: int) -> Stack:
        blocks = (
            PatchMerge(size=(1, self.width), order="chw"),
            Pointwise(out="same"),
            NormAct(norm="none", act="gelu"),
            Pointwise(out="in"),
            Pointwise(),
            ExtraTokens(at="end"),
        )
        return Stack(in_=in_, out=out, blocks=blocks)

    models: ClassVar[Aliases] = {"DocOwl 1.5": {}, "mPLUG-DocOwl 1.5": {}}
    tokens_by: ClassVar[TokensBy] = {"width": MERGES}
    upstream = (
        Upstream(
            "h-reducer",
            _names,
            prefix="vision2text|hreducer",
            tensors=("reducer_before.0.weight", "reducer.weight", "visual_fc.weight", "vit_eos"),
            read=_read,
            prefixes=("reducer_before.0.", "reducer.", "visual_fc.", "vit_eos"),
        ),
    )
