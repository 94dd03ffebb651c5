"""Phi-4 Multimodal's image projector, on one view of an image."""

from __future__ import annotations

from typing import ClassVar

from ...blocks.newline import Newline
from ...blocks.pool import Pool
from ..preset import Aliases, Preset, UpTo64
from ..stack import Stack
from ..upstream import Checkpoint, Match, Name, Upstream
from .mlp import Mlp

__all__ = ["Phi4Multimodal"]


def _read(ckpt: Checkpoint) -> Match:
    out, in_ = ckpt.matrix("img_projection_up.weight")
    return Match(in_, out)


class Phi4Multimodal(Preset):
    """``average pool 2x2 > newline after each row > Linear > GELU > Linear``.

    Used by Phi-4 Multimodal, on one view of an image.

    Source: huggingface/transformers, ``models/phi4_multimodal/modeling_phi4_multimodal.py``
    (`Phi4MultimodalImageEmbedding`); Abouelenin et al., "Phi-4-Mini Technical Report", 2025.

    Traps: the newline is added before the layers, at the tower's width. The separator between the
    views (`global_img_feature_extensor`) is projected by the same layers and left to the model. The
    projectors of sound are `mlp`.

    Attributes:
        pool: The side of the pooled windows.
    """

    pool: UpTo64 = 2

    def expand(self, in_: int, out: int) -> Stack:
        mlp = Mlp().expand(in_, out).blocks
        return Stack(in_=in_, out=out, blocks=(Pool(stride=self.pool), Newline(), *mlp))

    models: ClassVar[Aliases] = {"Phi-4 Multimodal": {}}
    upstream = (
        Upstream(
            "phi-4-multimodal",
            (
                Name("sub_img_feature_extensor", "batch", axes=3),
                "img_projection_up",
                "img_projection_down",
            ),
            prefix="image_embed",
            tensors=(
                "sub_img_feature_extensor",
                "img_projection_up.weight",
                "img_projection_down.weight",
            ),
            read=_read,
            model_types=("phi4_multimodal",),
            prefixes=("sub_img_feature_extensor", "img_projection_up.", "img_projection_down."),
        ),
    )
