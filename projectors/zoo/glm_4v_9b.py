"""GLM-4V-9B's downsampling and projector."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from ...blocks.extra_tokens import ExtraTokens
from ...blocks.glu import Glu
from ...blocks.norm_act import NormAct
from ...blocks.patch_merge import PatchMerge
from ...blocks.pointwise import Pointwise
from ...blocks.scale import Scale
from ..errors import CheckpointError
from ..preset import Aliases, Channels, Preset
from ..stack import Stack
from ..upstream import Checkpoint, Match, Name, Upstream

__all__ = ["Glm4v9b"]


def _read(ckpt: Checkpoint) -> Match:
    out, in_, *_ = ckpt.shapes["conv.weight"]
    hidden, _ = ckpt.matrix("linear_proj.gate_proj.weight")
    scale = ckpt.given["scale"] if "scale" in ckpt.given else 1 / _factor(ckpt)
    return Match(in_, out, {"hidden": hidden, "scale": scale})


def _factor(ckpt: Checkpoint) -> float:
    path = "vision_config.scaling_factor"
    factor: float | None = ckpt.setting(path, None)
    if factor is None:  # CogVLM2 has the same tensors, and no such factor
        raise CheckpointError(
            "missing",
            f"config.json: {path}",
            "what everything is divided by at the end",
            f"No tensor tells it: give its inverse, as family={ckpt.family!r}, scale=...",
        )
    return factor


class Glm4v9b(Preset):
    """``2x2 conv of stride 2 > Linear > LN > GELU > SwiGLU > begin and end tokens > * 1/8``.

    Used by GLM-4V-9B. A quarter of the tokens comes out, and two more.

    Source: zai-org/GLM-4, ``visual.py`` (`EVA2CLIPModel`); Hong et al., "CogVLM2", 2024.

    Traps: the CLS token is dropped before (``prefix_tokens=1``); a last odd row or column is, too.
    The begin and end tokens are scaled with the rest. Only the convolution and the norm have
    biases.

    Attributes:
        hidden: The inner width of the SwiGLU.
        scale: What everything is multiplied by at the end.
    """

    hidden: Channels = 13696
    scale: Annotated[float, Field(gt=0, le=1)] = 0.125

    def expand(self, in_: int, out: int) -> Stack:
        blocks = (
            PatchMerge(order="chw", odd="drop"),
            Pointwise(),
            Pointwise(bias=False),
            NormAct(norm="layer", act="gelu"),
            Glu(out=self.hidden, bias=False),
            Pointwise(bias=False),
            ExtraTokens(at="begin"),
            ExtraTokens(at="end"),
            Scale(by=self.scale),
        )
        return Stack(in_=in_, out=out, blocks=blocks)

    models: ClassVar[Aliases] = {"GLM-4V-9B": {}}
    upstream = (
        Upstream(
            "glm-4v-9b",
            (
                Name("conv", "conv", (2, 2)),
                "linear_proj.linear_proj",
                "linear_proj.norm1",
                "linear_proj.gate_proj",
                "linear_proj.dense_h_to_4h",
                "linear_proj.dense_4h_to_h",
                Name("boi", "batch"),
                Name("eoi", "batch"),
            ),
            prefix="vision",
            tensors=("conv.weight", "linear_proj.gate_proj.weight", "boi", "eoi"),
            read=_read,
            prefixes=("conv.", "linear_proj.", "boi", "eoi"),
        ),
    )
