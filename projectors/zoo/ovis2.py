"""Ovis 2's table of visual embeddings."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from ...blocks.core.block import Block
from ...blocks.norm_act import NormAct
from ...blocks.pad_channels import PadChannels
from ...blocks.patch_merge import PatchMerge
from ...blocks.pointwise import Pointwise
from ..preset import MERGES, Aliases, Channels, Preset, TokensBy, UpTo16
from ..stack import Stack
from ..upstream import Checkpoint, Match, Name, Upstream

__all__ = ["Ovis2"]


def _read(ckpt: Checkpoint) -> Match:
    ckpt.only("vision_config.tokenize_function", "softmax")
    merge = ckpt.option("merge", "vision_config.hidden_stride", 1)
    words, wide = ckpt.matrix("vision_tower.head_linear.weight")
    rows, out = ckpt.matrix("visual_embeddings_table.weight")
    options = {"merge": merge, "words": words, "indicators": rows - words}
    return Match(wide // merge**2, out, options)


class Ovis2(Preset):
    """``merge 2x2 (hwc) > Linear > LN > softmax > table of embeddings``; a quarter comes out.

    Used by Ovis 2.

    Source: huggingface/transformers, ``models/ovis2/modeling_ovis2.py`` (`Ovis2VisionModel`,
    `Ovis2VisualEmbeddingTable`); Lu et al., "Ovis", 2024.

    Traps: odd sides are padded with zeros; transformers pads the wrong axis there. The last rows of
    the table are the embeddings of the marks around an image. They belong to no feature, and are
    kept so that the table stays whole.

    Attributes:
        merge: The side of the merged windows.
        words: The number of visual words.
        indicators: How many rows of the table stand after them, for the marks.
    """

    merge: UpTo16 = 2
    words: Channels = 65531
    indicators: Annotated[int, Field(ge=0, le=4096)] = 5

    def expand(self, in_: int, out: int) -> Stack:
        marks: tuple[Block, ...] = ()
        if self.indicators:
            marks = (PadChannels(count=self.indicators),)
        blocks = (
            PatchMerge(size=(self.merge, self.merge), odd="pad"),
            Pointwise(out=self.words, bias=False),
            NormAct(norm="layer", act="softmax"),
            *marks,
            Pointwise(bias=False),
        )
        return Stack(in_=in_, out=out, blocks=blocks)

    models: ClassVar[Aliases] = {"Ovis 2": {}}
    tokens_by: ClassVar[TokensBy] = {"merge": MERGES}
    upstream = (
        Upstream(
            "ovis2",
            (
                "vision_tower.head_linear",
                "vision_tower.head_norm",
                Name("visual_embeddings_table.weight", "matrix"),
            ),
            prefix="model",
            tensors=(
                "vision_tower.head_linear.weight",
                "vision_tower.head_norm.weight",
                "visual_embeddings_table.weight",
            ),
            read=_read,
            model_types=("ovis2",),
            prefixes=("vision_tower.head_", "visual_embeddings_table."),
        ),
    )
