"""Molmo's pooling and image projector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field

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
    """Read Molmo's; its towers all have 16 heads, and the pooling those of the tower."""
    return _match(ckpt, _NAMES, 16)


def _reader_of_molmo2(names: Sequence[str]) -> Callable[[Checkpoint], Match]:
    def read(ckpt: Checkpoint) -> Match:
        heads = ckpt.setting("adapter_config.num_attention_heads", 16)
        ckpt.only("adapter_config.num_key_value_heads", heads, 16)
        match = _match(ckpt, names, heads)
        act = ckpt.act("adapter_config.hidden_act", "silu")
        return replace(match, options={**match.options, "act": act, "ceil": True})

    return read


def _match(ckpt: Checkpoint, names: Sequence[str], heads: int) -> Match:
    inner, in_ = ckpt.matrix(f"{names[0]}.weight")
    hidden, width = ckpt.matrix(f"{names[4]}.weight")
    options = {
        "width": None if 2 * width == in_ else width,
        "heads": heads,
        "head_dim": inner // heads,
        "hidden": hidden,
    }
    return Match(in_, ckpt.matrix(f"{names[6]}.weight")[0], options)


def _entry(
    layout: str, names: Sequence[str], model_type: str, read: Callable[[Checkpoint], Match]
) -> Upstream:
    return Upstream(
        layout,
        names,
        prefix="vision_backbone|multi_modal_projector",
        read=read,
        model_types=(model_type,),
        prefixes=tuple(f"{name}." for name in names),
    )


_NAMES = (
    *(f"image_pooling_2d.w{part}" for part in "qkvo"),
    *(f"image_projector.w{part}" for part in "132"),
)
_MODULE = (
    *(f"image_pooling_2d.{part}_proj" for part in "qkvo"),
    *(f"image_projector.{part}_proj" for part in ("gate", "up", "down")),
)


class Molmo(Preset):
    """``pool 2x2 by attention from the mean > SwiGLU``; a quarter of the tokens.

    Used by Molmo and, with the windows at the border kept, Molmo 2.

    Source: allenai/molmo, ``olmo/model.py`` (`OLMoPretrainedVisionBackbone`);
    huggingface/transformers, ``models/molmo2/modeling_molmo2.py`` (`Molmo2Adapter`); Deitke et al.,
    "Molmo and PixMo", 2024.

    Traps: the input is the features of two layers, joined on channels, without the CLS token
    (``prefix_tokens=1``). What Molmo adds to the patches of padding (`pad_embed`) is left out.

    Attributes:
        width: The width of the pooled tokens; None is half of the input's.
        heads: The number of heads; None is one for every `head_dim` channels of the pooled tokens.
        head_dim: The width of a head.
        hidden: The inner width of the SwiGLU.
        act: The gate's activation.
        ceil: Keep windows that the border cuts off, with the tokens they hold; else drop them.
    """

    width: Channels | None = None
    heads: Heads | None = None
    head_dim: Annotated[int, Field(ge=1, le=1024)] = 64
    hidden: Channels = 18944
    act: Act = "silu"
    ceil: bool = False

    def expand(self, in_: int, out: int) -> Stack:
        width = self.width or max(in_ // 2, 1)
        heads = self.heads or max(width // self.head_dim, 1)
        head_dim = self.head_dim if self.heads else None
        blocks = (
            AttentionPool(out=width, stride=2, heads=heads, head_dim=head_dim, ceil=self.ceil),
            Glu(out=self.hidden, act=self.act, bias=False),
            Pointwise(bias=False),
        )
        return Stack(in_=in_, out=out, blocks=blocks)

    aliases: ClassVar[Aliases] = {
        "molmo2": {"ceil": True, "head_dim": 72},
        "Molmo2Adapter": {"ceil": True, "head_dim": 72},
    }
    models: ClassVar[Aliases] = {"Molmo": {}, "Molmo 2": {"ceil": True, "head_dim": 72}}
    upstream = (
        _entry("molmo", _NAMES, "molmo", _read),
        _entry("molmo", _NAMES, "molmo2", _reader_of_molmo2(_NAMES)),
        _entry("molmo2-module", _MODULE, "molmo2", _reader_of_molmo2(_MODULE)),
    )
