"""A chain of blocks, repeated."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from .core.block import Block, Blocks, chains, walk, with_bodies
from .core.chain import Chain
from .core.errors import SpecError
from .core.feature import Feature
from .core.packed import forward_packed, pack_module
from .core.packing import Packing
from .core.spec import MAX_BLOCKS

__all__ = ["Repeat", "RepeatModule"]


class Repeat(Block):
    """Run a chain `times` times in a row, each time with its own weights.

    ``(b, h, w, c) -> body(...body(x))``; the body may change grid and width each time.
    Keys: ``<t>.body.<i>.`` for the i-th block of the t-th copy.

    Attributes:
        times: How many copies there are.
        body: The blocks of one copy.
    """

    needs_grid: ClassVar[bool] = False  # its body may

    times: Annotated[int, Field(ge=1, le=MAX_BLOCKS)]
    body: Blocks

    @property
    def chain_copies(self) -> int:
        return self.times

    def flow(self, x: Feature) -> Feature:
        for _ in range(self.times):
            y = walk(self.body, x, ".body")[-1].y
            if y == x:  # so do all further copies
                break
            x = y
        return x

    def expand(self, x: Feature) -> Sequence[Block]:
        body: tuple[Block, ...] = ()
        for _ in range(self.times):
            steps = walk(self.body, x, ".body", expand=True)
            copy = tuple(step.block for step in steps)
            if body and copy != body:
                raise SpecError(
                    f"a preset inside expands differently for {x} than for the first copy",
                    expected="copies that are alike",
                    hint="Write the copies one after the other.",
                )
            body = copy
            if steps[-1].y == x:
                break
            x = steps[-1].y
        return (with_bodies(self, {"body": body}),)

    def build(self, x: Feature) -> nn.Module:
        copies = (Chain.of(steps) for _, steps in chains(self, x))
        return RepeatModule(*(RepeatModule(OrderedDict(body=copy)) for copy in copies))


class RepeatModule(nn.Sequential):
    """Modules that all take packed images, in a row; ``(b, h, w, c) -> (b, h', w', d)``."""

    by_size = True
    tp_styles: ClassVar[dict[str, str]] = {}

    def pack(self, images: Packing) -> tuple[Packing, tuple[Any, ...]]:
        indices = []
        for name, module in self.named_children():
            images, index = pack_module(module, images, name)
            indices.append(index)
        return images, tuple(indices)

    def forward_packed(self, x: Tensor, index: tuple[Any, ...]) -> Tensor:
        """``(rows, c) -> (m, d)``."""
        for module, own in zip(self, index, strict=True):
            x = forward_packed(module, x, own)
        return x
