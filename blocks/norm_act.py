"""Normalisation and activation, each optional."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from .activation import Act, activation
from .block import Block
from .feature import Feature

__all__ = ["Eps", "NormAct", "NormActModule", "RMSNorm"]


Eps = Annotated[float, Field(ge=1e-12, le=1)]


class NormAct(Block):
    """Normalise each token over its channels, then activate; ``(b, h, w, c) -> (b, h, w, c)``.

    Keys: ``norm.weight`` and, for ``layer``, ``norm.bias``; none without a norm.

    Attributes:
        norm: ``layer`` (mean and variance), ``rms`` (root mean square) or ``none``.
        eps: Added to the variance or mean square before the root.
        act: The activation; ``gelu`` is the exact form.
    """

    needs_grid: ClassVar[bool] = False

    norm: Literal["layer", "rms", "none"] = "layer"
    eps: Eps = 1e-5
    act: Act = "gelu"

    def build(self, x: Feature) -> nn.Module:
        return NormActModule(x.channels, self.norm, self.eps, self.act)


class NormActModule(nn.Module):
    """A norm over the last axis, then an activation; ``(..., c) -> (..., c)``."""

    def __init__(
        self, channels: int, norm: Literal["layer", "rms", "none"], eps: float, act: Act
    ) -> None:
        super().__init__()
        self.norm: nn.Module = nn.Identity()
        if norm == "layer":
            self.norm = nn.LayerNorm(channels, eps)
        elif norm == "rms":
            self.norm = RMSNorm(channels, eps)
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        y: Tensor = self.act(x)
        return y


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last axis; ``(..., c) -> (..., c)``.

    Computed in fp32 at least; the result is cast back before the weight multiplies it, as in T5,
    Llama, Qwen2.5-VL and Mistral3.
    """

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * y.to(x.dtype)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"
