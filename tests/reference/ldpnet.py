"""MobileVLM's released projectors, their published computations in plain torch."""

import math

from torch import Tensor, nn
from torch.nn import functional as F


class LayerNormAct2d(nn.LayerNorm):
    """A LayerNorm over the channels of a map, as timm writes it."""

    def __init__(self, channels: int, act: nn.Module) -> None:
        super().__init__(channels)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias)
        y: Tensor = self.act(x.permute(0, 3, 1, 2))
        return y


class SqueezeExcitation(nn.Module):
    def __init__(self, channels: int, mid: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, mid, 1)
        self.fc2 = nn.Conv2d(mid, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1)))
        return F.hardsigmoid(self.fc2(scale)) * x


class InvertedResidual(nn.Module):
    def __init__(self, channels: int, stride: int, mid: int) -> None:
        super().__init__()
        depthwise = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
        pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.skip = stride == 1
        self.block = nn.Sequential(
            nn.Sequential(depthwise, LayerNormAct2d(channels, nn.Hardswish())),
            SqueezeExcitation(channels, mid),
            nn.Sequential(pointwise, LayerNormAct2d(channels, nn.Identity())),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return x + y if self.skip else y


class LDPNetProjector(nn.Module):
    """MobileVLM v1's projector."""

    def __init__(self, in_: int, out: int, mid: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Identity(), nn.Linear(in_, out), nn.GELU(), nn.Linear(out, out))
        self.mb_block = nn.Sequential(
            nn.Identity(), InvertedResidual(out, 1, mid), InvertedResidual(out, 2, mid)
        )

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        side = int(math.sqrt(n))
        x = self.mlp(x)
        x = x.permute(0, 2, 1).reshape(b, -1, side, side)
        return self.mb_block(x).flatten(2).permute(0, 2, 1)


class _Mlp(nn.Module):
    def __init__(self, in_: int, out: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(in_, out), nn.GELU(), nn.Linear(out, out))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.mlp(x)
        return y


class _Peg(nn.Module):
    def __init__(self, out: int) -> None:
        super().__init__()
        self.peg = nn.Sequential(nn.Conv2d(out, out, 3, 1, 1, groups=out))


class LDPNetV2Projector(nn.Module):
    """MobileVLM v2's projector."""

    def __init__(self, in_: int, out: int) -> None:
        super().__init__()
        self.mlp = _Mlp(in_, out)
        self.peg = _Peg(out)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        side = int(math.sqrt(n))
        x = self.mlp(x)
        x = x.permute(0, 2, 1).reshape(b, -1, side, side)
        x = F.adaptive_avg_pool2d(x, (12, 12))
        x = self.peg.peg(x) + x
        return x.flatten(2).transpose(1, 2)
