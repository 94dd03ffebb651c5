"""The patch embedding of a Gemma 4 without a vision tower."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from ...blocks.norm_act import Eps, NormAct
from ...blocks.pointwise import Pointwise
from ...blocks.position import Position
from ..preset import Aliases, Channels, Preset
from ..stack import Stack
from ..upstream import Axes, Checkpoint, Match, Upstream

__all__ = ["Gemma4Unified"]


def _names(embedder: str, last: str) -> tuple[str | Axes, ...]:
    return (
        *(f"{embedder}{part}" for part in ("patch_ln1", "patch_dense", "patch_ln2")),
        Axes(f"{embedder}pos_embedding", f"{embedder}pos_embedding"),
        f"{embedder}pos_norm",
        last,
    )


def _entry(layout: str, prefix: str, embedder: str, last: str) -> Upstream:
    def read(ckpt: Checkpoint) -> Match:
        hidden, in_ = ckpt.matrix(f"{embedder}patch_dense.weight")
        options = {
            "hidden": hidden,
            "places": ckpt.shapes[f"{embedder}pos_embedding"][0],
            "eps": ckpt.setting("vision_config.rms_norm_eps", 1e-6),
        }
        return Match(in_, ckpt.matrix(f"{last}.weight")[0], options)

    return Upstream(
        layout,
        _names(embedder, last),
        prefix=prefix,
        tensors=(f"{embedder}patch_dense.weight", f"{embedder}pos_embedding", f"{last}.weight"),
        read=read,
        model_types=("gemma4_unified",),
        prefixes=(embedder, f"{last}."),
    )


class Gemma4Unified(Preset):
    """``LN > Linear > LN > + positions > LN > RMS norm without weight > Linear``.

    Used by Gemma 4 without a vision tower, on squares of 48 x 48 pixels (6912 -> 3840).

    Source: huggingface/transformers, ``models/gemma4_unified/modeling_gemma4_unified.py``
    (`Gemma4UnifiedVisionEmbedder`).

    Traps: the input is pixels, each square flattened. A position is the sum of the row's vector and
    the column's; they stand in one table of (places, 2, width), the columns first. The layer norms'
    eps is torch's, 1e-5, whatever the config says.

    Attributes:
        hidden: The inner width; None is the output width.
        places: The largest side of the grid, for which there are positions.
        eps: Of the RMS norm.
    """

    hidden: Channels | None = None
    places: Annotated[int, Field(ge=1, le=4096)] = 1120
    eps: Eps = 1e-6

    def expand(self, in_: int, out: int) -> Stack:
        norm = NormAct(norm="layer", act="none")
        blocks = (
            norm,
            Pointwise(out=self.hidden or "out"),
            norm,
            Position(kind="axes", size=(self.places, self.places)),
            norm,
            NormAct(norm="rms", eps=self.eps, weight="none", act="none"),
            Pointwise(bias=False),
        )
        return Stack(in_=in_, out=out, blocks=blocks)

    aliases: ClassVar[Aliases] = {"Gemma4UnifiedVisionEmbedder": {}}
    models: ClassVar[Aliases] = {"Gemma 4 Unified": {}}
    upstream = (
        # As saved, and as in the model.
        _entry(
            "gemma4-unified-model",
            "model",
            "vision_embedder.",
            "embed_vision.embedding_projection",
        ),
        _entry(
            "gemma4-unified",
            "embed_vision",
            "",
            "multimodal_embedder.embedding_projection",
        ),
    )
