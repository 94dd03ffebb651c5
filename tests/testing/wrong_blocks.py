"""Blocks that each break one rule, for the tests of the kit."""

import itertools
import os
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobilevlm import Block, Feature, SpecError
from mobilevlm.blocks.core.packing import Packing

CALLS = itertools.count()


class Linear(nn.Linear):
    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)


class Wrong(Block):
    """A block of one module of this file; it, or what a subclass says, is wrong."""

    module: str = "Linear"

    def build(self, x: Feature) -> nn.Module:
        module: nn.Module = globals()[self.module](x.channels)
        return module


class LyingFlow(Wrong):
    def flow(self, x: Feature) -> Feature:
        return x.replace(channels=2 * x.channels)


class LiesAboutOddGrids(Wrong):
    module: str = "Pool"

    def flow(self, x: Feature) -> Feature:
        return x.raster().resize(lambda side: -(-side // 2))


class Pool(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        side = [min(2, side) for side in x.shape[1:3]]
        return F.avg_pool2d(x.permute(0, 3, 1, 2), side).permute(0, 2, 3, 1)


class FlowDivides(Wrong):
    def flow(self, x: Feature) -> Feature:
        h, w = x.grid
        return x.replace(grid=(h // 1, w // 1))  # type: ignore[operator]


class FlowGuesses(Wrong):
    def flow(self, x: Feature) -> Feature:
        h, w = x.grid
        return x.replace(grid=(h or 24, w or 24))


class FlowRefusesUnknown(Wrong):
    def flow(self, x: Feature) -> Feature:
        if x.tokens is None:
            raise SpecError("the grid must be known")
        return x


class FlowForgets(Wrong):
    def flow(self, x: Feature) -> Feature:
        return x.replace(grid=(None, None))


class FlowGivesNumbers(Wrong):
    def flow(self, x: Feature) -> Any:
        return x.channels


class FlowMovesTheEnds(Wrong):
    def flow(self, x: Feature) -> Feature:
        return x.replace(ends=(1, 1))


class BuildFails(Wrong):
    def build(self, x: Feature) -> nn.Module:
        return nn.Linear(x.channels, x.grid[0] * x.channels)  # type: ignore[operator]


class BuildsAFunction(Wrong):
    def build(self, x: Feature) -> Any:
        return torch.sigmoid


class TakesOnlySevens(Wrong):
    def flow(self, x: Feature) -> Feature:
        if x.channels % 7:
            raise SpecError(f"{x.channels} channels", expected="a multiple of 7")
        return x


class GivesATuple(Linear):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x


class GivesNan(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).log()


class GivesIntegers(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).long()


class InPlace(Linear):
    def forward(self, x: Tensor) -> Tensor:
        x += 1
        return super().forward(x)


class InPlaceInTraining(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.add_(1) if self.training else x)


class TrainsOnly(Linear):
    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.shape[1] < 2:
            raise ValueError("too few rows")
        return super().forward(x)


class Counts(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + next(CALLS)


class Remembers(Linear):
    last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        last, self.last = self.last, y.detach().mean()
        return y if last is None else y + last


class Draws(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x, 0.1))


class BranchesOnValues(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.mean() > -9 else x


class ShapeFromValues(Linear):
    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, 2)
        kept = rows[rows.isfinite().all(-1)]
        return super().forward(kept).view(x.shape)


class FrozenBatch(Linear):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y + x.new_zeros(2, 1, 1, 1) if x.shape[0] == 2 else y


class UnusedParameter(Linear):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.scale = nn.Parameter(torch.ones(channels))


class Detached(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach())


class NoGrad(Linear):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return super().forward(x)


class RootOfZero(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (x - x).square().sum(-1, keepdim=True).sqrt()


class HoldsALambda(Linear):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = lambda x: x * 2

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


class CopiesNothing(Linear):
    def __deepcopy__(self, memo: Any) -> Any:
        return self


class LosesItsTable(Linear):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("table", torch.arange(float(channels)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.table


class TiesWeights(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.up = nn.Linear(channels, channels)
        self.down = nn.Linear(channels, channels)
        self.down.weight = self.up.weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.up(x))
        return y


class GrowsLater(Linear):
    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "scale"):
            self.scale = nn.Parameter(torch.ones(x.shape[-1]))
        return super().forward(x) * self.scale


class OnTheProcessor(Linear):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.scale = nn.Parameter(torch.ones(channels, device="cpu"))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale


class RandomWidth(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        middle = 8 + next(CALLS)
        self.up, self.down = nn.Linear(channels, middle), nn.Linear(middle, channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.up(x))
        return y


class InFp32(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.ones(x.shape[-1])


class FailsInBf16(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) @ torch.eye(x.shape[-1])


class Cancels(Linear):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return (y + 1000) - 1000


class Reseeds(Linear):
    def __init__(self, channels: int) -> None:
        torch.manual_seed(0)
        super().__init__(channels)


class SetsTheDtype(Linear):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        torch.set_default_dtype(torch.float64)


class SetsThreads(Linear):
    def forward(self, x: Tensor) -> Tensor:
        torch.set_num_threads(3)
        return super().forward(x)


class AcrossTheBatch(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0))


class FailsOnNone(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([super(FailsOnNone, self).forward(image) for image in x])


class Views(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.view(-1, x.shape[-1])).view(x.shape)


class ReadsTheGrid(Wrong):
    module: str = "RowMean"
    needs_grid: ClassVar[bool] = False
    mixes_tokens: ClassVar[bool] = True


class RowMean(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + x.mean(2, keepdim=True))


class MixesTokens(Wrong):
    module: str = "AllMean"
    needs_grid: ClassVar[bool] = False


class AllMean(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + x.mean((1, 2), keepdim=True))


class PacksWrongly(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)

    def pack(self, images: Packing) -> tuple[Packing, tuple[()]]:
        return images, ()

    def forward_packed(self, x: Tensor, index: tuple[()]) -> Tensor:
        return super().forward(x + x.mean(0))


class ReadsAtABudget(PacksWrongly):
    by_size = True

    def forward_packed(self, x: Tensor, index: tuple[()]) -> Tensor:
        return Linear.forward(self, x) * (1 if x.sum() else 2)


class SpreadsPadding(PacksWrongly):
    by_size = True

    def forward_packed(self, x: Tensor, index: tuple[()]) -> Tensor:
        return Linear.forward(self, x) + (x[-1] == 0).all()


class PacksUnpadded(PacksWrongly):
    by_size = True

    def pack(self, images: Packing) -> tuple[Packing, Any]:
        return images, torch.zeros(sum(images.lengths))

    def forward_packed(self, x: Tensor, index: Any) -> Tensor:
        return Linear.forward(self, x)


class Doubling(torch.autograd.Function):
    """Nothing forward, twice the gradient backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient


class DoublesTheGradient(Linear):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = Doubling.apply(super().forward(x))
        return y


class DoublesAWeightsGradient(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, Doubling.apply(self.weight), self.bias)


class GatesByADetached(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return x * super().forward(x.detach()).sigmoid()


class StraightThrough(Linear):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y + (y.mul(8).round().div(8) - y).detach()


class TimesZero(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x) * 0


class InputTimesZero(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * 0 + 1)


class OtherUnderNoGrad(Linear):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if torch.is_grad_enabled() else 1.5 * y


class OtherInInference(Linear):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return 1.5 * y if torch.is_inference_mode_enabled() else y


class OtherUnderAutocast(Linear):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return 7 * y if torch.is_autocast_enabled("cpu") else y


class CountsItsCalls(Linear):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


class CountsInAnAttribute(Linear):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


class KeepsItsInputs(Linear):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return super().forward(x)


class KeepsItsOutput(Linear):
    last: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        self.last = super().forward(x)
        return self.last


class ReusesItsOutput(Linear):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("out", torch.zeros(0))

    def forward(self, x: Tensor) -> Tensor:
        self.out = self.out.new_empty(x.shape).copy_(super().forward(x))
        return self.out


KEPT: list[Tensor] = []


class KeepsInAGlobal(Linear):
    def forward(self, x: Tensor) -> Tensor:
        KEPT.append(x.detach()[:1])
        return super().forward(x)


class KeepsItsOutputInAGlobal(Linear):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        KEPT.append(y.detach())
        return y


class SwitchesItsMode(Linear):
    def forward(self, x: Tensor) -> Tensor:
        self.train()
        return super().forward(x)


class InFp32Only(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.float(), self.weight.float(), self.bias.float()).to(x.dtype)


class DoublesInFp32Only(Linear):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = Doubling.apply(super().forward(x).float())
        return y.to(x.dtype)


class FailsInFp64(Linear):
    def forward(self, x: Tensor) -> Tensor:
        ones = torch.ones(x.shape[-1], x.shape[-1], device=x.device)
        return super().forward(x) @ (ones if x.dtype == torch.float64 else ones.to(x.dtype))


class MakesFp64(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.ones(1, dtype=torch.float64, device=x.device)


class GivesFp32OfFp64(Linear):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y.float() if x.dtype == torch.float64 else y


class NanOnZeros(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x / x.norm(dim=-1, keepdim=True))


class NanGradientOnZeros(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x / (x.square().sum(-1, keepdim=True).sqrt() + 1e-6))


class NanOnEqualNumbers(Linear):
    def forward(self, x: Tensor) -> Tensor:
        off = x - x.mean(-1, keepdim=True)
        return super().forward(off / (off.square().mean(-1, keepdim=True) + 1e-50).sqrt())


class OverflowsEarly(Linear):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x).exp()
        return y / y.sum(-1, keepdim=True)


class BatchStatistics(Linear):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y - y.mean((0, 1, 2)) if self.training else y


class MixesManyTokens(Wrong):
    module: str = "MeanOfMany"
    needs_grid: ClassVar[bool] = False


class MeanOfMany(Linear):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y + y.mean((1, 2), keepdim=True) if x.shape[1] * x.shape[2] > 400 else y


class WrongOnLargeGrids(Linear):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return 2 * y if max(x.shape[1:3]) > 24 else y


class TableEnds(Wrong):
    module: str = "ShortTable"
    needs_grid: ClassVar[bool] = False
    mixes_tokens: ClassVar[bool] = True  # so a token's place counts


class ShortTable(Linear):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.table = nn.Parameter(torch.zeros(1024, channels))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(1, 2)
        places = self.table[torch.arange(tokens.shape[1], device=x.device)]
        return super().forward(tokens + places).view(x.shape)


class WrongInTheSecondTile(Linear):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return torch.cat([y[:, :40], y[:, 40:] * 2], 1)


class NanOnLargeGrids(Linear):
    def forward(self, x: Tensor) -> Tensor:
        rows = torch.full((), 32.0 - x.shape[1], dtype=x.dtype, device=x.device)
        return super().forward(x) + rows.sqrt() * 0


class Drifts(Linear):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.weight.mul_(1.01)
        return super().forward(x.clone()) * 1.0


class HidesATensor(Linear):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.scale = torch.full((channels,), 2.0)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale


class HidesTensorsInAList(Linear):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.scales = [torch.full((channels,), 2.0)]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scales[0]


class FlipsTheBatch(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flip(0))


class WritesTheEnvironment(Linear):
    def forward(self, x: Tensor) -> Tensor:
        os.environ["BLOCK_WAS_HERE"] = "1"
        return super().forward(x)


class SetsTheDeviceByHand(Linear):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        torch.set_default_device("cpu")


class SetsTheDevice(Linear):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        torch.set_default_device("meta")


class TunesCudnn(Linear):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        torch.backends.cudnn.benchmark = True


class TurnsOffOnednn(Linear):
    def forward(self, x: Tensor) -> Tensor:
        torch.backends.mkldnn.enabled = False
        return super().forward(x)


class InPlaceByData(Linear):
    def forward(self, x: Tensor) -> Tensor:
        x.data.add_(1)
        return super().forward(x)


class NoJson(Wrong):
    sizes: tuple[int, ...] = (1, 2)


class Named(Wrong):
    needs_grid: ClassVar[bool] = False
    name: str
