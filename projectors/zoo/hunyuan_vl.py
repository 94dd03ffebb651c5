"""The patch merger of HunYuan-VL."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from ...blocks.core.activation import Act
from ...blocks.extra_tokens import ExtraTokens
from ...blocks.newline import Newline
from ...blocks.norm_act import NormAct
from ...blocks.patch_merge import PatchMerge
from ...blocks.pointwise import Pointwise
from ..preset import MERGES, Aliases, Preset, TokensBy, UpTo16
from ..stack import Stack
from ..upstream import Checkpoint, Match, Name, Upstream

__all__ = ["HunYuanVL"]


def _names(conv: str, out: str) -> Callable[[Stack], list[str | Name]]:
    """Transformers' names and the published checkpoints' differ in the two convolutions."""

    def names(stack: Stack) -> list[str | Name]:
        [merge] = [block for block in stack.blocks if isinstance(block, PatchMerge)]
        return [
            "before_rms",
            Name(conv, "conv", merge.size),
            Name(out, "conv"),
            Name("image_newline", "bare"),
            "mlp",
            Name("image_begin", "vector"),
            Name("image_end", "vector"),
            "after_rms",
        ]

    return names


def _read(ckpt: Checkpoint) -> Match:
    options = {
        "act": ckpt.act("vision_config.hidden_act"),
        "merge": ckpt.setting("vision_config.spatial_merge_size", 2),
        "eps": ckpt.setting("vision_config.rms_norm_eps", 1e-5),
    }
    return Match(ckpt.shapes["before_rms.weight"][0], ckpt.matrix("mlp.weight")[0], options)


class HunYuanVL(Preset):
    """Merge 2x2, end every row with a newline token, and put a token before and after the image.

    ``RMS > merge 2x2 (chw) > Linear (2 in) > GELU > Linear (4 in) > newline > Linear > begin,
    end > RMS``: h x w tokens become ``h/2 * (w/2 + 1) + 2``.

    Used by HunYuan-VL and HunYuan-OCR.

    Source: huggingface/transformers, ``models/hunyuan_vl/modeling_hunyuan_vl.py``
    (`HunYuanVLVisionPatchMerger`).

    Traps: the newline is ``4 in`` wide and passes the last linear layer; the begin and end tokens
    are `out` wide, and are normalised with the rest. Odd sides lose their last row or column. The
    merge is a convolution upstream, its channels in order chw. Upstream's ``image_sep`` is not
    used.

    Attributes:
        merge: The side of the merged windows.
        eps: Of both norms.
        act: The activation; ``gelu`` is the exact form.
    """

    merge: UpTo16 = 2
    eps: float = 1e-5
    act: Act = "gelu"

    def expand(self, in_: int, out: int) -> Stack:
        norm = NormAct(norm="rms", eps=self.eps, act="none")
        blocks = (
            norm,
            PatchMerge(size=(self.merge, self.merge), order="chw", odd="drop"),
            Pointwise(out=2 * in_),
            NormAct(norm="none", act=self.act),
            Pointwise(out=4 * in_),
            Newline(),
            Pointwise(),
            ExtraTokens(at="begin"),
            ExtraTokens(at="end"),
            norm,
        )
        return Stack(in_=in_, out=out, blocks=blocks)

    aliases: ClassVar[Aliases] = {"HunYuanVLVisionPatchMerger": {}}
    models: ClassVar[Aliases] = {"HunYuan-OCR": {}, "HunYuan-VL": {}}
    tokens_by: ClassVar[TokensBy] = {"merge": MERGES}
    upstream = tuple(
        Upstream(
            layout,
            _names(conv, last),
            prefix="patch_merger|perceive",
            tensors=(f"{conv}.weight", "before_rms.weight", "image_newline"),
            read=_read,
            model_types=("hunyuan_vl",),
            # All but image_sep, which upstream does not use.
            prefixes=(
                *("before_rms.", "proj", "image_newline", "mlp."),
                *("image_begin", "image_end", "after_rms."),
            ),
        )
        for layout, conv, last in (
            ("hunyuan-vl", "proj_conv", "proj_out"),
            ("hunyuan-vl-original", "proj.0", "proj.2"),
        )
    )
