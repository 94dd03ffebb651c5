"""Honeybee's C-Abstractor, its published computation in plain torch."""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from .ldpnet import LayerNormAct2d


class _ConvNorm(nn.Module):
    def __init__(self, in_: int, out: int, kernel: int, groups: int, act: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_, out, kernel, 1, kernel // 2, groups=groups, bias=False)
        self.bn = LayerNormAct2d(out, act)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(x))
        return y


class _SE(nn.Module):
    def __init__(self, channels: int, mid: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, mid, 1)
        self.fc2 = nn.Conv2d(mid, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = F.silu(self.fc1(x.mean((2, 3), keepdim=True)))
        return x * self.fc2(scale).sigmoid()


class Bottleneck(nn.Module):
    """RegNet's block as timm builds it, with LayerNorm and SiLU."""

    def __init__(self, in_: int, out: int) -> None:
        super().__init__()
        self.conv1 = _ConvNorm(in_, out, 1, 1, nn.SiLU())
        self.conv2 = _ConvNorm(out, out, 3, out, nn.SiLU())
        self.se = _SE(out, in_ // 4)
        self.conv3 = _ConvNorm(out, out, 1, 1, nn.Identity())
        if in_ != out:
            self.downsample = _ConvNorm(in_, out, 1, 1, nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        skip = self.downsample(x) if hasattr(self, "downsample") else x
        return F.silu(self.conv3(self.se(self.conv2(self.conv1(x)))) + skip)


class CAbstractor(nn.Module):
    """Honeybee's projector."""

    def __init__(self, in_: int, hidden: int, out: int, depth: int, queries: int) -> None:
        super().__init__()

        def stage(first: int) -> nn.Module:
            block = nn.Module()
            for index in range(depth):
                block.add_module(f"b{index + 1}", Bottleneck(hidden if index else first, hidden))
            return block

        side = math.isqrt(queries)
        self.net = nn.ModuleList([stage(in_), nn.AdaptiveAvgPool2d((side, side)), stage(hidden)])
        self.readout = nn.Sequential(nn.Linear(hidden, out), nn.SiLU(), nn.Linear(out, out))

    def forward(self, x: Tensor) -> Tensor:
        side = int(math.sqrt(x.shape[1]))
        x = x.transpose(1, 2).reshape(x.shape[0], -1, side, side)
        for block in self.net[0].children():
            x = block(x)
        x = self.net[1](x)
        for block in self.net[2].children():
            x = block(x)
        y: Tensor = self.readout(x.flatten(2).transpose(1, 2))
        return y
