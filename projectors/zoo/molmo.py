"""Molmo's pooling and image projector."""

from __future__ import annotations

from typing import ClassVar

from ...blocks.attention import Heads
from ...blocks.attention_pool import AttentionPool
from ...blocks.core.activation import Act
from ...blocks.glu import Glu
from ...blocks.pointwise import Pointwise
from ..preset import Aliases, Channels, Preset
from ..stack import Stack
from ..upstream import Checkpoint, Match, Upstream

__all__ = ["Molmo"]


def _read(ckpt: Checkpoint) -> Match:
    """Read Molmo's; the tower is always CLIP or as wide, with heads of 64 channels."""
    width, in_ = ckpt.matrix("image_pooling_2d.wq.weight")
    return _match(ckpt, width, in_, {"heads": width // 64})


def _read_molmo2(ckpt: Checkpoint) -> Match:
    width, in_ = ckpt.matrix("image_pooling_2d.wq.weight")
    heads = ckpt.setting("adapter_config.num_attention_heads", 16)
    ckpt.only("adapter_config.num_key_value_heads", heads, 16)
    act = ckpt.act("adapter_config.hidden_act", "silu")
    return _match(ckpt, width, in_, {"heads": heads, "act": act, "ceil": True})


def _match(ckpt: Checkpoint, width: int, in_: int, options: dict[str, object]) -> Match:
    hidden, _ = ckpt.matrix("image_projector.w1.weight")
    out, _ = ckpt.matrix("image_projector.w2.weight")
    return Match(in_, out, {"width": width, "hidden": hidden, **options})


_NAMES = (
    *(f"image_pooling_2d.w{part}" for part in "qkvo"),
    *(f"image_projector.w{part}" for part in "132"),
)


class Molmo(Preset):
    """``pool 2x2 by attention from the mean > SwiGLU``; a quarter of the tokens.

    Used by Molmo and, with the windows at the border kept, Molmo 2.

    Source: allenai/molmo, ``olmo/model.py`` (`OLMoPretrainedVisionBackbone`); huggingface/transformers,
    ``models/molmo2/modeling_molmo2.py`` (`Molmo2Adapter`).

    Traps: the input is the features of two layers, joined on channels, without the CLS token
    (``prefix_tokens=1``). What Molmo adds to the patches of padding (`pad_embed`) is left out.

    Attributes:
        width: The width of the pooled tokens; None is half of the input's.
        heads: The number of heads.
        hidden: The inner width of the SwiGLU.
        act: The gate's activation.
        ceil: Keep windows that the border cuts off, with the tokens they hold; else drop them.
    """

    width: Channels | None = None
    heads: Heads = 16
    hidden: Channels = 18944
    act: Act = "silu"
    ceil: bool = False

    def expand(self, in_: int, out: int) -> Stack:
        width = self.width or max(in_ // 2, 1)
        blocks = (
            AttentionPool(out=width, stride=2, heads=self.heads, ceil=self.ceil),
            Glu(out=self.hidden, act=self.act, bias=False),
            Pointwise(bias=False),
        )
        return Stack(in_=in_, out=out, blocks=blocks)

    aliases: ClassVar[Aliases] = {"molmo2": {"ceil": True}}
    upstream = (
        Upstream(
            "molmo",
            _NAMES,
            prefix="vision_backbone",
            read=_read,
            model_types=("molmo", "molmoe"),
            prefixes=tuple(f"{name}." for name in _NAMES),
        ),
        Upstream(
            "molmo",
            _NAMES,
            prefix="vision_backbone",
            read=_read_molmo2,
            model_types=("molmo2",),
            prefixes=tuple(f"{name}." for name in _NAMES),
        ),
    )
