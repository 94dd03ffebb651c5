"""Moondream 2's projection."""

from __future__ import annotations

from typing import ClassVar

from ...blocks.core.activation import Act
from ..preset import Aliases, Channels, Preset
from ..stack import Stack
from ..upstream import Checkpoint, Match, Upstream
from .mlp import Mlp

__all__ = ["Moondream2"]


def _read(ckpt: Checkpoint) -> Match:
    hidden, in_ = ckpt.matrix("fc1.weight")
    return Match(in_, ckpt.matrix("fc2.weight")[0], {"hidden": hidden})


class Moondream2(Preset):
    """``Linear > tanh GELU > Linear`` on every token, with a wide layer inside.

    Used by Moondream 2.

    Source: vikhyat/moondream, ``moondream/torch/vision.py`` (`vision_projection`).

    Traps: the input is the tokens of the whole image and of its crops, joined on channels. The GELU
    is the tanh form.

    Attributes:
        hidden: The inner width.
        act: The activation; ``gelu-tanh`` is the tanh form of the GELU.
    """

    hidden: Channels = 8192
    act: Act = "gelu-tanh"

    def expand(self, in_: int, out: int) -> Stack:
        return Mlp(hidden=self.hidden, act=self.act).expand(in_, out)

    models: ClassVar[Aliases] = {"Moondream 2": {}}
    upstream = (
        Upstream(
            "moondream2",
            ("fc1", "fc2"),
            prefix=r"vision\.proj_mlp|vision_encoder\.projection\.mlp",
            read=_read,
            needs_prefix=True,
        ),
    )
