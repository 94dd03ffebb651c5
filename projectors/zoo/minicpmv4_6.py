"""MiniCPM-V 4.6's iterated merger."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from ...blocks.core.block import Block
from ...blocks.norm_act import NormAct
from ...blocks.patch_merge import PatchMerge
from ...blocks.pointwise import Pointwise
from ..preset import Aliases, Preset, TokensBy
from ..stack import Stack
from ..upstream import Checkpoint, Match, Upstream, count_blocks

__all__ = ["MiniCPMV4_6"]


def _names(stack: Stack) -> list[str]:
    return [
        f"mlp.{step}.{part}"
        for step in range(count_blocks(stack, PatchMerge))
        for part in ("pre_norm", "linear_1", "linear_2")
    ]


def _read(ckpt: Checkpoint) -> Match:
    ckpt.only("merge_kernel_size", [2, 2])
    times = ckpt.layers("mlp")
    out, _ = ckpt.matrix(f"mlp.{times - 1}.linear_2.weight")
    _, wide = ckpt.matrix("mlp.0.linear_1.weight")
    return Match(wide // 4, out, {"times": times})


class MiniCPMV4_6(Preset):
    """``times x [merge 2x2 (hwc) > LN > Linear > GELU > Linear]``; 1 token of 4 ** times comes out.

    Used by MiniCPM-V 4.6 and later, in place of the resampler.

    Source: huggingface/transformers, ``models/minicpmv4_6/modeling_minicpmv4_6.py``
    (`MiniCPMV4_6Merger`).

    Traps: every round but the last returns to the input's width; the LayerNorm's eps is 1e-6.

    Attributes:
        times: The number of rounds.
        eps: Of the LayerNorms.
    """

    times: Annotated[int, Field(ge=1, le=8)] = 1
    eps: float = 1e-6

    def expand(self, in_: int, out: int) -> Stack:
        blocks: list[Block] = []
        for step in range(self.times):
            blocks += [
                PatchMerge(),
                NormAct(norm="layer", eps=self.eps, act="none"),
                Pointwise(out="same"),
                NormAct(norm="none", act="gelu"),
                Pointwise(out="out" if step == self.times - 1 else "in"),
            ]
        return Stack(in_=in_, out=out, blocks=tuple(blocks))

    aliases: ClassVar[Aliases] = {
        "MiniCPMOcrMerger": {},
        "MiniCPMV4_6Merger": {},
        "MiniCPMV4_7Merger": {},
    }
    models: ClassVar[Aliases] = {"MiniCPM-V 4.6": {}, "MiniCPM-V 4.7": {}}
    tokens_by: ClassVar[TokensBy] = {"times": range(1, 9)}
    upstream = (
        Upstream(
            "minicpmv4-6",
            _names,
            prefix="merger",
            tensors=("mlp.0.pre_norm.weight", "mlp.0.linear_1.weight"),
            read=_read,
            model_types=("minicpmv4_6", "minicpmv4_7", "minicpm_ocr"),
            names_suffice=True,
        ),
    )
