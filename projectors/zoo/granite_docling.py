"""Granite-Docling's connector."""

from __future__ import annotations

from ...blocks.norm_act import NormAct
from ...blocks.patch_merge import PatchMerge
from ...blocks.pointwise import Pointwise
from ...blocks.position import Position
from ..preset import Preset, UpTo16
from ..stack import Stack
from ..upstream import Checkpoint, Match, Upstream

__all__ = ["GraniteDocling"]


def _read(ckpt: Checkpoint) -> Match:
    merge = ckpt.setting("vision_config.scale_factor", 4)
    out, wide = ckpt.matrix("coarse.projection.weight")
    return Match(wide // merge**2, out, {"merge": merge})


def _read_fine(ckpt: Checkpoint) -> Match:
    merge = ckpt.setting("vision_config.scale_factor", 4) // 2
    out, wide = ckpt.matrix("connector.fine.projection.weight")
    return Match(wide // merge**2, out, {"merge": merge})


_FINE = tuple(
    f"connector.{part}" for part in ("ln_in", "fine.projection", "ln_mid", "mlp_fc2", "ln_out")
)


class GraniteDocling(Preset):
    """``LN > merge s x s (hwc) > Linear > + sines and cosines > LN > GELU > Linear > LN``.

    Used by Granite-Docling, for its coarse path (merge 4) and its fine one (2). They differ in the
    first linear layer only; the deepstack mergers beside them are `internvl` with the same merge.

    Source: huggingface/transformers, ``models/granite_docling/modeling_granite_docling.py``
    (`GraniteDoclingConnector`).

    Traps: neither linear layer has a bias; the eps is 1e-5 whatever the tower's; the first
    half of the position channels encodes the column.

    Attributes:
        merge: The side of the merged windows.
    """

    merge: UpTo16 = 4

    def expand(self, in_: int, out: int) -> Stack:
        norm = NormAct(norm="layer", eps=1e-5, act="none")
        blocks = (
            norm,
            PatchMerge(size=(self.merge, self.merge)),
            Pointwise(bias=False),
            Position(kind="sincos"),
            NormAct(norm="layer", eps=1e-5, act="gelu"),
            Pointwise(bias=False),
            norm,
        )
        return Stack(in_=in_, out=out, blocks=blocks)

    upstream = (
        Upstream(
            "granite-docling",
            ("ln_in", "coarse.projection", "ln_mid", "mlp_fc2", "ln_out"),
            prefix="connector",
            tensors=("ln_in.weight", "coarse.projection.weight"),
            read=_read,
            model_types=("granite_docling",),
            prefixes=("ln_in.", "coarse.projection.", "ln_mid.", "mlp_fc2.", "ln_out."),
        ),
        # The fine path shares all but its projection with the coarse one; its root is the model
        # around the connector.
        Upstream(
            "granite-docling-fine",
            _FINE,
            prefix="vision_model",
            tensors=("connector.ln_in.weight", "connector.fine.projection.weight"),
            read=_read_fine,
            model_types=("granite_docling",),
            prefixes=tuple(f"{name}." for name in _FINE),
            secondary=True,
        ),
    )
