"""Blocks that each break one rule, for the tests of the kit."""

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobilevlm import Block, Feature, SpecError

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

    def forward_packed(self, x: Tensor, grids: Sequence[tuple[int, int]]) -> Tensor:
        return super().forward(x + x.mean(0))


class NoJson(Wrong):
    sizes: tuple[int, ...] = (1, 2)


class Named(Wrong):
    needs_grid: ClassVar[bool] = False
    name: str
