"""Models that call their projector with the tokens of one grid, ``(b, n, c)``."""

from __future__ import annotations

from dataclasses import replace
from math import isqrt
from typing import Any

from ..errors import ModelError
from ..host import Host
from .form import Form, Slot

__all__ = ["SquareTokens", "Tokens"]


class Tokens(Form):
    """The grid is that of the config, for all images and tiles."""


class SquareTokens(Tokens):
    """The tower takes squares of any size, and the config says how many tokens one gives.

    It goes on saying so, as the grid is read off it again when the model is loaded.
    """

    def slot(self, config: Any, host: Host) -> Slot:
        """Take the grid from the number of tokens; see `Form`."""
        tokens = config.image_seq_length
        side = isqrt(tokens)
        if side**2 != tokens:
            raise ModelError(str(tokens), "config.image_seq_length", "the tokens of a square")
        return replace(super().slot(config, host), grid=(side, side))
