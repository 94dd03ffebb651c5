"""An MLP followed by residual blocks."""

from __future__ import annotations

from typing import ClassVar

from ...blocks.core.block import Block
from ...blocks.norm_act import NormAct
from ...blocks.pointwise import Pointwise
from ...blocks.residual import Residual
from ..preset import Aliases, Preset, UpTo16
from ..stack import Stack
from ..upstream import Checkpoint, Match, Upstream, count_blocks
from .mlp import Mlp, sequential_names

__all__ = ["MlpRes"]


def _names(stack: Stack) -> list[str]:
    linear = sequential_names(stack)
    start = 2 * len(linear) - 1
    residuals = count_blocks(stack, Residual)
    return linear + [
        f"{start + step}.{part}"
        for step in range(residuals)
        for part in ("pre_norm", "proj.0", "proj.2")
    ]


def _read(ckpt: Checkpoint) -> Match:
    depth = ckpt.count(r"\d+\.weight")
    residuals = ckpt.count(r"\d+\.pre_norm\.weight")
    kind = f"mlp{depth}x_res{residuals}x_gelu"
    ckpt.check_type(kind, kind)
    out, in_ = ckpt.matrix("0.weight")
    return Match(in_, out, {"depth": depth, "residuals": residuals})


class MlpRes(Preset):
    """``MLP > [x = LN(x); x = x + (Linear > GELU > Linear)(x)] x residuals`` on every token.

    Source: LLaVA-VL/LLaVA-NeXT, ``llava/model/multimodal_projector/builder.py``
    (`build_vision_projector`).

    Traps: the residual starts from the *normed* input; the LayerNorm's eps is 1e-5.

    Attributes:
        depth: The number of linear layers of the MLP.
        residuals: The number of residual blocks.
    """

    depth: UpTo16 = 2
    residuals: UpTo16 = 2

    def expand(self, in_: int, out: int) -> Stack:
        body = (Pointwise(), NormAct(norm="none", act="gelu"), Pointwise())
        step: tuple[Block, ...] = (
            NormAct(norm="layer", eps=1e-5, act="none"),
            Residual(body=body),
        )
        mlp = Mlp(depth=self.depth).expand(in_, out).blocks
        return Stack(in_=in_, out=out, blocks=(*mlp, *step * self.residuals))

    aliases: ClassVar[Aliases] = {
        f"mlp{depth}x_res{residuals}x_gelu": {"depth": depth, "residuals": residuals}
        for depth in range(1, 5)
        for residuals in range(1, 5)
    }
    upstream = tuple(
        Upstream(
            "mlp-res",
            _names,
            prefix="mm_projector|vision_projector",
            tensors=("0.weight", f"{last}.pre_norm.weight", f"{last}.proj.0.weight"),
            read=_read,
        )
        for last in (1, 3, 5, 7)  # the first residual after one to four linear layers
    )
