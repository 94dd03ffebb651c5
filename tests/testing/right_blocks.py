"""Right blocks that a careless check would call wrong, for the tests of the kit."""

import os
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobilevlm import Block, Feature


class RightWithManyKinks(Block):
    """Two hundred thousand ReLUs, then a maximum over channels."""

    needs_grid: ClassVar[bool] = False

    def build(self, x: Feature) -> nn.Module:
        return ManyKinks(x.channels)


class ManyKinks(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(channels, 4096), nn.Linear(4096, 2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(F.relu(self.up(x)))
        return torch.maximum(*y.chunk(2, -1))


class RightWithSteepSoftmax(Block):
    """Attention of logits so large that it nearly chooses; its keys' bias gets next to nothing."""

    needs_grid: ClassVar[bool] = False
    mixes_tokens: ClassVar[bool] = True

    def build(self, x: Feature) -> nn.Module:
        return SteepSoftmax(x.channels)


class SteepSoftmax(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(channels, channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(1, 2)
        logits = self.q(tokens) @ self.k(tokens).mT
        return (logits.softmax(-1) @ tokens).view(x.shape)


class RightWithDropout(Block):
    """Dropout in training."""

    def build(self, x: Feature) -> nn.Module:
        return nn.Sequential(nn.Dropout(0.5), nn.Linear(x.channels, x.channels))


class RightWithOwnNoise(Block):
    """Noise in training, from a generator of its own that no seed reaches."""

    needs_grid: ClassVar[bool] = False

    def build(self, x: Feature) -> nn.Module:
        return OwnNoise(x.channels)


class OwnNoise(nn.Linear):
    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if not self.training or y.is_meta:
            return y
        generator = torch.Generator().manual_seed(int.from_bytes(os.urandom(4)))
        return y * (1 + torch.rand(y.shape, generator=generator, dtype=y.dtype))


class RightWithAnUnsettledGate(Block):
    """A gate that starts at zero, as ReZero's and Flamingo's do: nothing arrives behind it yet."""

    needs_grid: ClassVar[bool] = False

    def build(self, x: Feature) -> nn.Module:
        return ZeroGate(x.channels)


class ZeroGate(nn.Linear):
    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gate.tanh() * super().forward(x)


class RightInFp32AtLeast(Block):
    """Half precision through fp32, fp64 as it is; positions made in fp32, of no input's."""

    def build(self, x: Feature) -> nn.Module:
        return Fp32AtLeast(x.channels)


class Fp32AtLeast(nn.Linear):
    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = x.to(torch.promote_types(x.dtype, torch.float32))
        y = (y * (y.square().mean(-1, keepdim=True) + 1e-6).rsqrt()).to(x.dtype)
        mask = torch.zeros_like(x, dtype=torch.float32)
        rows = torch.arange(x.shape[1], device=x.device, dtype=torch.float32)[:, None, None].sin()
        return super().forward(y) + (rows + mask).to(x.dtype)


class RightOnLargeGrids(Block):
    """At most 16 a side: pooled from there on, and `flow` says so."""

    def flow(self, x: Feature) -> Feature:
        return x.raster().resize(lambda side: min(side, 16))

    def build(self, x: Feature) -> nn.Module:
        return AtMost()


class AtMost(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        size = [min(side, 16) for side in x.shape[1:3]]
        return F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)
