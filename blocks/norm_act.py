"""Normalisation and activation, each optional."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from .core.activation import Act, activate_, activation
from .core.block import Block
from .core.errors import SpecError
from .core.fast import hooked, reusable
from .core.feature import Feature

__all__ = ["FRESH_NORMS", "Eps", "NormAct", "NormActModule", "RMSNorm"]


Eps = Annotated[float, Field(ge=1e-12, le=1)]


class NormAct(Block):
    """Normalise each token over its channels, then activate; ``(b, h, w, c) -> (b, h, w, c)``.

    Keys: ``norm.weight`` unless it has none, ``norm.bias`` for ``layer``; none without a norm.

    Attributes:
        norm: ``layer`` (mean and variance), ``rms`` (root mean square) or ``none``.
        eps: Added to the variance or mean square before the root.
        weight: The learned scale of ``rms``: ``plain`` (w), ``offset`` (1 + w, as in Gemma) or
            ``none``.
        cast: When ``rms``, computed in fp32, is cast back to the input's dtype: ``before`` the
            weight is applied (T5, Llama, Qwen, Mistral) or ``after`` (Gemma, Nemotron).
        act: The activation; ``gelu`` is the exact form, ``softmax`` is over the channels.
    """

    needs_grid: ClassVar[bool] = False

    norm: Literal["layer", "rms", "none"] = "layer"
    eps: Eps = 1e-5
    weight: Literal["plain", "offset", "none"] = "plain"
    cast: Literal["before", "after"] = "before"
    act: Act = "gelu"

    @model_validator(mode="after")
    def _rms_only(self) -> NormAct:
        if self.norm != "rms" and (self.weight != "plain" or self.cast != "before"):
            raise SpecError(f"'weight' and 'cast' are options of norm 'rms', not {self.norm!r}")
        return self

    def build(self, x: Feature) -> nn.Module:
        norm: nn.Module = nn.Identity()
        if self.norm == "layer":
            norm = nn.LayerNorm(x.channels, self.eps)
        elif self.norm == "rms":
            norm = RMSNorm(x.channels, self.eps, self.weight, self.cast)
        return NormActModule(norm, activation(self.act))


class NormActModule(nn.Module):
    """A norm over the last axis, then an activation; ``(..., c) -> (..., c)``."""

    norm_then_act: ClassVar[bool] = True  # a chain may run `act` alone if `norm` is an identity

    def __init__(self, norm: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x)
        if (
            type(self.norm) in FRESH_NORMS
            and reusable(y)
            and not (hooked(self.norm) or hooked(self.act))
        ):
            return activate_(self.act, y)
        z: Tensor = self.act(y)
        return z


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last axis, in fp32; ``(..., c) -> (..., c)``.

    Args:
        channels: The width c.
        eps: Added to the mean square.
        weight: ``plain`` (w), ``offset`` (1 + w) or ``none``.
        cast: Whether the result is cast back ``before`` or ``after`` the weight multiplies it.
    """

    def __init__(self, channels: int, eps: float, weight: str, cast: str) -> None:
        super().__init__()
        self.eps = eps
        self.cast = cast
        self.offset = 1.0 if weight == "offset" else 0.0
        self.weight: nn.Parameter | None = None
        if weight != "none":
            self.weight = nn.Parameter(torch.full((channels,), 1.0 - self.offset))

    def forward(self, x: Tensor) -> Tensor:
        low = x.dtype in (torch.float16, torch.bfloat16)
        y = x.float() if low else x
        if not reusable(x):
            y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        elif low:  # rounded in the original's order: differences show after the cast
            y = y.mul_(torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps))
        else:
            norm = torch.linalg.vector_norm(y, dim=-1, keepdim=True)
            y = y * torch.rsqrt(norm.square_().div_(y.shape[-1]).add_(self.eps))
        if self.weight is None:
            return y.to(x.dtype)
        if self.cast == "before":
            return self._scaled(y.to(x.dtype), self.weight)
        return self._scaled(y, self.weight.to(y.dtype)).to(x.dtype)

    def _scaled(self, y: Tensor, weight: Tensor) -> Tensor:
        """Multiply `y`, which nothing else holds, by the weight."""
        weight = weight + self.offset if self.offset else weight
        return y.mul_(weight) if y.dtype == weight.dtype and reusable(y, weight) else y * weight

    def extra_repr(self) -> str:
        return f"eps={self.eps}, offset={self.offset}, cast={self.cast}"


# Norms whose output is a new tensor, which nothing else holds.
FRESH_NORMS = (nn.LayerNorm, RMSNorm)
