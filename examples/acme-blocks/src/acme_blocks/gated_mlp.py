"""An MLP with a gate before its last layer."""

from __future__ import annotations

from mobilevlm import Preset, Stack

from .gate import Gate

__all__ = ["GatedMlp"]


class GatedMlp(Preset):
    """Linear, GELU, gate, linear, on every token; ``(b, n, in) -> (b, n, out)``.

    Attributes:
        bias: Whether the linear layers and the gate have biases.
    """

    bias: bool = True

    def expand(self, in_: int, out: int) -> Stack:
        """Return the four blocks: mobilevlm's as in a document, our own as an instance."""
        linear = {"type": "pointwise", "bias": self.bias}
        gelu = {"type": "norm-act", "norm": "none", "act": "gelu"}
        blocks = [linear, gelu, Gate(bias=self.bias), linear]
        return Stack.parse({"in": in_, "out": out, "blocks": blocks})
