"""The gated linear unit."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn

from .core.activation import Act, activation
from .core.block import Block
from .core.feature import Feature, Width
from .core.linear import Linear, call_linear

__all__ = ["Glu", "GluModule"]


class Glu(Block):
    """Multiply a linear layer by a gate, another linear layer; ``(b, h, w, c) -> (b, h, w, out)``.

    ``act(gate(x)) * value(x)``; with ``silu`` it is SwiGLU without its last layer, which is a
    pointwise block. Source: Shazeer, "GLU Variants Improve Transformer", 2020. Keys:
    ``gate.weight`` (out, c), ``value.weight`` (out, c), and their ``bias`` (out).

    Attributes:
        out: The output width.
        act: The gate's activation.
        bias: Whether both layers have a bias.
        limit: Clamp the gate to at most `limit` before its activation, and the value to plus or
            minus `limit`, as GLM5 does; None does not clamp.
    """

    needs_grid: ClassVar[bool] = False

    out: Width = "out"
    act: Act = "silu"
    bias: bool = True
    limit: Annotated[float, Field(gt=0)] | None = None

    def flow(self, x: Feature) -> Feature:
        return x.replace(channels=x.width(self.out))

    def build(self, x: Feature) -> nn.Module:
        return GluModule(x.channels, x.width(self.out), self.act, self.bias, self.limit)


class GluModule(nn.Module):
    """``act(gate(x)) * value(x)``; ``(..., c) -> (..., out)``."""

    tp_styles: ClassVar[dict[str, str]] = {"gate": "colwise", "value": "colwise"}

    def __init__(self, in_: int, out: int, act: Act, bias: bool, limit: float | None) -> None:
        super().__init__()
        self.gate = Linear(in_, out, bias=bias)
        self.value = Linear(in_, out, bias=bias)
        self.act = activation(act)
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:
        gate, value = call_linear(self.gate, x), call_linear(self.value, x)
        if self.limit is not None:
            gate, value = gate.clamp(max=self.limit), value.clamp(-self.limit, self.limit)
        y: Tensor = self.act(gate) * value
        return y
