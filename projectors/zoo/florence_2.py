"""Florence-2's projector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar

from pydantic import Field

from ...blocks.extra_tokens import ExtraTokens
from ...blocks.norm_act import NormAct
from ...blocks.pointwise import Pointwise
from ...blocks.position import Position
from ..preset import Aliases, Preset
from ..stack import Stack
from ..upstream import Axes, Checkpoint, Match, Name, Upstream

__all__ = ["Florence2"]


def _names(places: str, projection: str | Name) -> tuple[Axes | str | Name, ...]:
    tables = Axes(f"{places}.row_embeddings.weight", f"{places}.column_embeddings.weight")
    return (tables, projection, "image_proj_norm")


def _reader(places: str, projection: str, *, turned: bool) -> Callable[[Checkpoint], Match]:
    def read(ckpt: Checkpoint) -> Match:
        sides = ckpt.matrix(projection)
        in_, out = sides if turned else reversed(sides)
        size, _ = ckpt.matrix(f"{places}.row_embeddings.weight")
        return Match(in_, out, {"places": size})

    return read


class Florence2(Preset):
    """``+ positions > + frame 0 > the mean before the tokens > Linear > LN``; one token more.

    Used by Florence-2.

    Source: huggingface/transformers, ``models/florence2/modeling_florence2.py``
    (`Florence2MultiModalProjector`); Xiao et al., "Florence-2", 2023.

    Traps: the first half of the position channels is the column's; an image is the first frame of
    a video, whose sines and cosines add 0 and 1 by turns. Upstream saves the table of those
    constants; they are no weights and are left alone here. The linear layer has no bias.

    Attributes:
        places: The largest side of the grid, for which there are positions.
    """

    places: Annotated[int, Field(ge=1, le=4096)] = 50

    def expand(self, in_: int, out: int) -> Stack:
        blocks = (
            Position(kind="axes", size=(self.places, self.places), join="cat"),
            Position(kind="frame"),
            ExtraTokens(at="begin", kind="mean"),
            Pointwise(bias=False),
            NormAct(norm="layer", act="none"),
        )
        return Stack(in_=in_, out=out, blocks=blocks)

    aliases: ClassVar[Aliases] = {"Florence2MultiModalProjector": {}}
    models: ClassVar[Aliases] = {"Florence-2": {}}
    upstream = (
        Upstream(
            "florence-2",
            _names("image_position_embed", "image_projection"),
            prefix="multi_modal_projector",
            tensors=(
                "image_projection.weight",
                "image_position_embed.row_embeddings.weight",
                "image_proj_norm.weight",
            ),
            read=_reader("image_position_embed", "image_projection.weight", turned=False),
            model_types=("florence2",),
            prefixes=("image_projection.", "image_proj_norm.", "image_position_embed."),
        ),
        # The model's own code, where the projector has no module of its own.
        Upstream(
            "florence-2-original",
            _names("image_pos_embed", Name("image_projection", "matrix")),
            tensors=(
                "image_projection",
                "image_pos_embed.row_embeddings.weight",
                "image_proj_norm.weight",
            ),
            read=_reader("image_pos_embed", "image_projection", turned=True),
            prefixes=("image_projection", "image_proj_norm.", "image_pos_embed."),
        ),
    )
