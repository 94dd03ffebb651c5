"""Llama 4's adapter and projector."""

from __future__ import annotations

from typing import ClassVar

from ...blocks.norm_act import NormAct
from ...blocks.patch_merge import PatchMerge
from ...blocks.pointwise import Pointwise
from ..preset import MERGES, Aliases, Channels, Preset, TokensBy, UpTo16
from ..stack import Stack
from ..upstream import Checkpoint, Match, Upstream

__all__ = ["Llama4"]


def _read(ckpt: Checkpoint) -> Match:
    ratio = ckpt.setting("vision_config.pixel_shuffle_ratio", 0.5)
    merge = ckpt.given["merge"] if "merge" in ckpt.given else round(1 / ratio)
    hidden, wide = ckpt.matrix("vision_model.vision_adapter.mlp.fc1.weight")
    out, _ = ckpt.matrix("multi_modal_projector.linear_1.weight")
    return Match(wide // merge**2, out, {"hidden": hidden, "merge": merge})


class Llama4(Preset):
    """``merge 2x2 (hwc) > Linear > GELU > Linear > GELU > Linear``; a quarter of the tokens.

    Used by Llama 4.

    Source: huggingface/transformers, ``models/llama4/modeling_llama4.py``
    (`Llama4VisionPixelShuffleMLP`, `Llama4MultiModalProjector`).

    Traps: no biases; a GELU after the second layer too; the tower's CLS token is the last one, and
    the tower drops it. Upstream's intermediate view is wrong unless the grid is square.

    Attributes:
        hidden: The width of the two inner layers.
        merge: The side of the merged windows.
    """

    hidden: Channels = 4096
    merge: UpTo16 = 2

    def expand(self, in_: int, out: int) -> Stack:
        inner, gelu = Pointwise(out=self.hidden, bias=False), NormAct(norm="none", act="gelu")
        merge = PatchMerge(size=(self.merge, self.merge))
        blocks = (merge, inner, gelu, inner, gelu, Pointwise(bias=False))
        return Stack(in_=in_, out=out, blocks=blocks)

    models: ClassVar[Aliases] = {"Llama 4": {}}
    tokens_by: ClassVar[TokensBy] = {"merge": MERGES}
    upstream = (
        Upstream(
            "llama4-model",
            (
                "vision_model.vision_adapter.mlp.fc1",
                "vision_model.vision_adapter.mlp.fc2",
                "multi_modal_projector.linear_1",
            ),
            prefix="model",
            tensors=(
                "vision_model.vision_adapter.mlp.fc1.weight",
                "multi_modal_projector.linear_1.weight",
            ),
            read=_read,
            model_types=("llama4",),
            prefixes=("vision_model.vision_adapter.", "multi_modal_projector."),
        ),
        Upstream(
            "llama4",
            ("vision_adapter.mlp.fc1", "vision_adapter.mlp.fc2", "multi_modal_projector.linear_1"),
        ),
    )
