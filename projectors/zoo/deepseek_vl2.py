"""DeepSeek-VL2's projector."""

from __future__ import annotations

from typing import ClassVar, Literal

from ...blocks.core.block import Block
from ...blocks.norm_act import NormAct
from ...blocks.patch_merge import PatchMerge
from ...blocks.pointwise import Pointwise
from ..preset import MERGES, Aliases, Preset, TokensBy, UpTo16
from ..stack import Stack
from ..upstream import Checkpoint, Match, Upstream, count_blocks

__all__ = ["DeepseekVL2"]


def _names(stack: Stack) -> list[str]:
    # Two linear layers without an activation between them; a single layer has no third block.
    first_two = [type(block) for block in stack.blocks[1:3]]
    first = ["token_pooling_layer"] if first_two == [Pointwise, Pointwise] else []
    layers = count_blocks(stack, Pointwise) - len(first)
    return [*first, *(f"layers.{2 * step}" for step in range(layers))]


def _read(ckpt: Checkpoint) -> Match:
    ckpt.only("projector_config.projector_type", "downsample_mlp_gelu")
    pooling = "token_pooling_layer.weight" in ckpt.shapes
    merge = 2 if pooling else ckpt.option("merge", "projector_config.downsample_ratio", 2)
    depth = ckpt.count(r"layers\.\d+\.weight")
    inner, wide = ckpt.matrix("layers.0.weight")
    out, _ = ckpt.matrix(f"layers.{2 * depth - 2}.weight")
    options = {"mode": "pooling" if pooling else "mlp", "depth": depth, "ratio": inner // out}
    return Match(wide if pooling else wide // merge**2, out, {**options, "merge": merge})


class DeepseekVL2(Preset):
    """``pad > merge 2x2 (chw) > Linear > [GELU > Linear] x (depth - 1)``.

    Used by DeepSeek-VL2, as its types ``downsample_mlp_gelu`` and ``token_pooling``.

    Source: deepseek-ai/DeepSeek-VL2, ``deepseek_vl2/models/modeling_deepseek_vl_v2.py``
    (`MlpProjector`); Wu et al., "DeepSeek-VL2", 2024.

    Traps: zeros are padded below and to the right of odd sides; the merge is an unfold; the inner
    width is `ratio` times the output's, which upstream calls mlp_ratio; the image's newline and
    separator tokens belong to the model around it.

    Attributes:
        mode: ``mlp``, or ``pooling``, which begins with a layer back to the input's width.
        depth: The number of linear layers after the merge.
        ratio: The inner width over the output's.
        merge: The side of the merged windows.
    """

    mode: Literal["mlp", "pooling"] = "mlp"
    depth: UpTo16 = 2
    ratio: UpTo16 = 1
    merge: UpTo16 = 2

    def expand(self, in_: int, out: int) -> Stack:
        inner = out * self.ratio
        blocks: list[Block] = [PatchMerge(size=(self.merge, self.merge), order="chw", odd="pad")]
        if self.mode == "pooling":
            blocks.append(Pointwise(out="in"))
        for step in range(self.depth):
            if step:
                blocks.append(NormAct(norm="none", act="gelu"))
            blocks.append(Pointwise(out=out if step == self.depth - 1 else inner))
        return Stack(in_=in_, out=out, blocks=tuple(blocks))

    aliases: ClassVar[Aliases] = {
        "downsample_mlp_gelu": {"mode": "mlp"},
        "token_pooling": {"mode": "pooling"},
        "MlpProjector": {},
    }
    models: ClassVar[Aliases] = {"DeepSeek-VL2": {}}
    tokens_by: ClassVar[TokensBy] = {"merge": MERGES}
    upstream = (
        Upstream(
            "deepseek-vl2",
            _names,
            prefix="projector",
            tensors=("layers.0.weight",),
            read=_read,
            model_types=("deepseek_vl_v2",),
        ),
    )
