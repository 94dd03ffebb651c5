"""Phi-3 Vision's projector, on one view of an image."""

from __future__ import annotations

from typing import ClassVar

from ...blocks.newline import Newline
from ...blocks.patch_merge import PatchMerge
from ..preset import Aliases, Preset, UpTo16
from ..stack import Stack
from ..upstream import Checkpoint, Match, Name, Upstream
from .mlp import Mlp, sequential_names

__all__ = ["Phi3Vision"]


def _names(stack: Stack) -> list[str | Name]:
    layers = [f"img_projection.{name}" for name in sequential_names(stack)]
    return [Name("sub_GN", "batch", axes=3), *layers]


def _read(ckpt: Checkpoint) -> Match:
    depth = ckpt.count(r"img_projection\.\d+\.weight")
    _, wide = ckpt.matrix("img_projection.0.weight")
    out, _ = ckpt.matrix(f"img_projection.{2 * depth - 2}.weight")
    return Match(wide // 4, out, {"depth": depth})


class Phi3Vision(Preset):
    """``merge 2x2 (hwc) > newline after each row > Linear > [GELU > Linear] x (depth - 1)``.

    Used by Phi-3 Vision and Phi-3.5 Vision, on one view of an image.

    Source: vllm-project/vllm, ``vllm/model_executor/models/phi3v.py`` (`Phi3HDImageEmbedding`);
    Abdin et al., "Phi-3 Technical Report", 2024.

    Traps: the CLS token is dropped before (``prefix_tokens=1``). The newline is added before the
    layers, at the width of four tokens. The separator between the views (`glb_GN`) is projected by
    the same layers and left to the model.

    Attributes:
        depth: The number of linear layers.
    """

    depth: UpTo16 = 2

    def expand(self, in_: int, out: int) -> Stack:
        mlp = Mlp(depth=self.depth).expand(in_, out).blocks
        return Stack(in_=in_, out=out, blocks=(PatchMerge(), Newline(), *mlp))

    models: ClassVar[Aliases] = {"Phi-3 Vision": {}, "Phi-3.5 Vision": {}}
    upstream = (
        Upstream(
            "phi-3-vision",
            _names,
            prefix="vision_embed_tokens",
            tensors=("img_projection.0.weight", "sub_GN"),
            read=_read,
            prefixes=("img_projection.", "sub_GN"),
        ),
    )
