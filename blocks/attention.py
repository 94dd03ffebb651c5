"""Multi-head attention and feed-forward layers, for the blocks that consist of them."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal, TypeAlias

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from .core.activation import Act, activation
from .core.errors import SpecError
from .core.feature import MAX_WIDTH
from .core.linear import Linear
from .glu import GluModule

__all__ = [
    "Attention",
    "Depth",
    "FeedForward",
    "Ffn",
    "HeadDim",
    "Heads",
    "Queries",
    "head_width",
    "queries",
    "square_side",
]

Depth: TypeAlias = Annotated[int, Field(ge=1, le=256)]
"""A number of layers."""

Heads: TypeAlias = Annotated[int, Field(ge=1, le=1024)]
"""A number of attention heads."""

HeadDim: TypeAlias = Annotated[int, Field(ge=1, le=1024)]
"""The width of an attention head."""

Queries: TypeAlias = Annotated[int, Field(ge=1, le=MAX_WIDTH)]
"""A number of learned queries, which is the number of tokens that come out."""

Ffn: TypeAlias = Literal["gelu", "relu", "swiglu"]
"""A feed-forward layer: two linear layers around an activation, or a SwiGLU and a linear layer."""


def head_width(channels: int, heads: int) -> int:
    """Return the width of a head.

    >>> head_width(768, 12)
    64

    Raises:
        SpecError: The number of heads does not divide the channels.
    """
    if channels % heads:
        raise SpecError(
            f"{heads} heads do not share {channels} channels evenly",
            expected="a number of heads that divides them",
        )
    return channels // heads


def square_side(number: int, what: str = "queries") -> int:
    """Return the side of a square of so many queries, or of what else they are.

    >>> square_side(144)
    12

    Raises:
        SpecError: It is not a square number.
    """
    side = math.isqrt(number)
    if side * side != number:
        hint = f"Try {side * side} or {(side + 1) ** 2}."
        raise SpecError(f"{number} {what}", expected="a square number", hint=hint)
    return side


def queries(number: int, channels: int, std: float) -> nn.Parameter:
    """Make learned queries ``(n, c)``, drawn from a normal distribution."""
    return nn.Parameter(torch.randn(number, channels) * std)


class Attention(nn.Module):
    """Multi-head attention; ``(b, n, c), (b, m, d), (b, m, d) -> (b, n, c)``.

    Keys: ``q_proj``, ``k_proj``, ``v_proj``, ``out_proj``; with `qk_norm` also ``q_norm``,
    ``k_norm``.

    Args:
        channels: The queries' width c, which is the output's unless `out` is given.
        context: The keys' and values' width d.
        heads: The number of heads.
        head_dim: The width of a head.
        kv_heads: The number of heads of keys and values, which divides `heads` (grouped-query
            attention); None is the same number.
        bias: Whether the four linear layers have biases.
        qk_norm: Whether a LayerNorm normalises each head's queries and keys.
        out: The output's width.
    """

    tp_styles: ClassVar[dict[str, str]] = {
        "q_proj": "colwise",
        "k_proj": "colwise",
        "v_proj": "colwise",
        "out_proj": "rowwise",
    }

    def __init__(
        self,
        channels: int,
        context: int,
        heads: int,
        head_dim: int,
        *,
        kv_heads: int | None = None,
        bias: bool = True,
        qk_norm: bool = False,
        out: int | None = None,
    ) -> None:
        super().__init__()
        kv_heads = kv_heads or heads
        self.head_dim = head_dim
        self.grouped = kv_heads != heads
        self.tp_parts = kv_heads
        self.q_proj = Linear(channels, heads * head_dim, bias=bias)
        self.q_norm = nn.LayerNorm(head_dim) if qk_norm else nn.Identity()
        self.k_proj = Linear(context, kv_heads * head_dim, bias=bias)
        self.k_norm = nn.LayerNorm(head_dim) if qk_norm else nn.Identity()
        self.v_proj = Linear(context, kv_heads * head_dim, bias=bias)
        self.out_proj = Linear(heads * head_dim, out or channels, bias=bias)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend; `mask`, (b, 1, n, m) or (n, m), is true for the keys that a query sees."""
        q = self.q_norm(self._split(self.q_proj(q)))
        k = self.k_norm(self._split(self.k_proj(k)))
        v = self._split(self.v_proj(v))
        y = F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=self.grouped)
        out: Tensor = self.out_proj(y.transpose(1, 2).flatten(2))
        return out

    def _split(self, x: Tensor) -> Tensor:
        """``(b, n, heads * d) -> (b, heads, n, d)``."""
        b, n, c = x.shape  # not -1, which is undetermined for an empty batch
        return x.reshape(b, n, c // self.head_dim, self.head_dim).transpose(1, 2)


class FeedForward(nn.Module):
    """Apply ``up``, an activation and ``down`` to each token; ``(..., c) -> (..., c)``.

    Keys: ``up.weight`` or, for ``swiglu``, ``up.gate.weight`` and ``up.value.weight``;
    ``down.weight``; and their ``bias``.

    Args:
        channels: The width c.
        hidden: The inner width.
        kind: The activation, or ``swiglu``.
        bias: Whether the layers have biases.
        gate: The activation of the gate of ``swiglu``.
    """

    tp_styles: ClassVar[dict[str, str]] = {"up": "colwise", "down": "rowwise"}

    def __init__(
        self, channels: int, hidden: int, kind: Act | Ffn, *, bias: bool, gate: Act = "silu"
    ) -> None:
        super().__init__()
        self.up: nn.Module
        self.act: nn.Module
        if kind == "swiglu":
            self.up = GluModule(channels, hidden, gate, bias, None)
            self.act = nn.Identity()
        else:
            self.up = Linear(channels, hidden, bias=bias)
            self.act = activation(kind)
        self.down = Linear(hidden, channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.act(self.up(x)))
        return y
