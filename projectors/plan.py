"""The plan: a stack walked on paper."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from ..blocks.core.block import Step, chains, label, one_pass
from ..blocks.core.chain import Chain
from ..blocks.core.errors import SpecError
from ..blocks.core.feature import Feature, Grid
from ..registry import told
from .assemble import assemble
from .macs import count_macs
from .stack import Stack
from .table import align

__all__ = ["MAX_PARAMETERS", "Plan", "Row"]

MAX_PARAMETERS = 2_000_000_000


@dataclass(frozen=True)
class Row:
    """One block of a plan.

    Attributes:
        path: Where it stands, as state-dict keys begin: ``blocks.3.body.0``.
        name: Its registered name.
        x: The feature that enters it.
        y: The feature that leaves it.
        parameters: Its learned numbers, those of blocks inside it included.
        macs: Multiply-accumulates for one image, of convolutions and matrix products; None while
            the grid is unknown.
    """

    path: str
    name: str
    x: Feature
    y: Feature
    parameters: int
    macs: int | None

    @property
    def depth(self) -> int:
        """How many blocks it stands inside."""
        return sum(not step.isdigit() for step in self.path.split(".")) - 1


class Plan:
    """What a stack does to a grid, its parameters and its work. Allocates nothing.

    Walking is done at once. Parameters and MACs are read off a build on the meta device, when
    first asked for.

    Args:
        stack: The specification.
        grid: The token grid (h, w), or None if it is not known.
        max_parameters: The most parameters to put up with.

    Attributes:
        stack: The specification.
        grid: The grid, or None.
        steps: The blocks with the features around them.
        max_parameters: The cap.
    """

    def __init__(
        self, stack: Stack, grid: Grid | None = None, *, max_parameters: int = MAX_PARAMETERS
    ) -> None:
        self.stack = stack
        self.grid = grid
        self.max_parameters = max_parameters
        self.steps: list[Step] = stack.walk(grid or (None, None))

    @property
    def tokens_in(self) -> int | None:
        """Tokens that enter, prefix tokens not counted; None while the grid is unknown."""
        return self.steps[0].x.tokens

    @property
    def tokens_out(self) -> int | None:
        """Tokens that leave; None while they depend on an unknown grid."""
        return self.steps[-1].y.tokens

    @cached_property
    def _meta(self) -> Chain:
        with torch.device("meta"):
            return assemble(self.steps)

    def modules(self) -> Chain:
        """Hand over the modules on the meta device; the plan makes others if it needs them."""
        modules = self._meta
        del self._meta
        return modules

    @cached_property
    def parameters(self) -> int:
        """The number of learned parameters.

        Raises:
            SpecError: They are more than `max_parameters`.
        """
        total = sum(parameter.numel() for parameter in self._meta.parameters())
        if total > self.max_parameters:
            raise SpecError(
                f"the blocks hold {total:,} parameters",
                expected=f"at most {self.max_parameters:,}",
                hint="Pass max_parameters=... if that is meant.",
            )
        return total

    @cached_property
    def _sizes(self) -> dict[str, int]:
        """Learned numbers by module path within the chain; a shared parameter is one in each."""
        found: dict[str, dict[int, int]] = {}
        for path, parameter in self._meta.named_parameters(remove_duplicate=False):
            while path:
                path = path.rpartition(".")[0]
                found.setdefault(path, {})[id(parameter)] = parameter.numel()
        return {path: sum(sizes.values()) for path, sizes in found.items()}

    @cached_property
    def _macs(self) -> dict[str, int] | None:
        """MACs by module path within the chain; the empty path is the total."""
        if self.grid is None:
            return None
        x = torch.empty(1, *self.grid, self.stack.in_, device="meta")
        with count_macs(self._meta) as found, torch.no_grad():
            for index, (step, module) in enumerate(zip(self.steps, self._meta, strict=True)):
                where = f"blocks[{index}] ({label(step.block)})"
                try:
                    x = module(x)
                except Exception as error:
                    raise SpecError(
                        f"its module fails on the meta device: {told(error)}", where
                    ) from error
                said = (1, *step.y.grid, step.y.channels)
                if tuple(x.shape) != said:
                    raise SpecError(
                        f"its flow says {said}, its module gives {tuple(x.shape)}",
                        where,
                        hint="One of the two is wrong: tell the block's authors.",
                    )
        return found

    @property
    def macs(self) -> int | None:
        """Multiply-accumulates for one image; None while the grid is unknown."""
        return None if self._macs is None else self._macs.get("", 0)

    @cached_property
    def runs_as(self) -> tuple[str, ...]:
        """What the fast forms do in another order than is written, one sentence each."""
        found: list[str] = []
        for path, chain in self._meta.named_modules():
            if not isinstance(chain, Chain):
                continue
            places = [f"blocks.{path}.{place}".replace("..", ".") for place in range(len(chain))]
            run = chain.order()
            for step, place in enumerate(run):
                later = [places[other] for other in run[step + 1 :] if other < place]
                if later:
                    found.append(f"{places[place]} runs before {', '.join(later)}")
        return tuple(found)

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """One row per block, blocks inside others after the one they are in."""
        with one_pass():
            return tuple(self._rows(self.steps, "", self._meta))

    def _rows(self, steps: Sequence[Step], prefix: str, chain: nn.Module) -> Iterator[Row]:
        for index, step in enumerate(steps):
            path = f"{prefix}{index}"
            size = self._sizes.get(path, 0)
            macs = None if self._macs is None else self._macs.get(path, 0)
            yield Row(f"blocks.{path}", label(step.block), step.x, step.y, size, macs)
            module = chain.get_submodule(str(index))
            for name, inner in chains(step.block, step.x):
                held = _held(module, name)
                if held is not None:  # a module is free to fuse what its block holds
                    yield from self._rows(inner, f"{path}.{name}.", held)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON types."""
        return {
            "in": self.stack.in_,
            "out": self.stack.out,
            "grid": self.grid,
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
            "parameters": self.parameters,
            "macs": self.macs,
            "runs_as": self.runs_as,
            "blocks": [
                {
                    "path": row.path,
                    "type": row.name,
                    "grid_in": row.x.grid,
                    "channels_in": row.x.channels,
                    "grid_out": row.y.grid,
                    "channels_out": row.y.channels,
                    "parameters": row.parameters,
                    "macs": row.macs,
                }
                for row in self.rows
            ],
        }

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return the plan as a header and rows of text; the last row is the total."""
        header = ["block", "type", "feature in", "feature out", "parameters", "MACs"]
        rows = [
            [
                "  " * row.depth + row.path,
                row.name,
                str(row.x),
                str(row.y),
                f"{row.parameters:,}",
                _short(row.macs),
            ]
            for row in self.rows
        ]
        first, last = self.steps[0].x, self.steps[-1].y
        tokens = f"{self.tokens_in or '?'} -> {self.tokens_out or '?'} tokens"
        total = ["total", tokens, str(first), str(last), f"{self.parameters:,}", _short(self.macs)]
        return header, [*rows, total]

    def __str__(self) -> str:
        header, rows = self.table()
        table = align(header, rows, right=RIGHT, total=True)
        return "\n".join([table, *(f"runs as: {line}" for line in self.runs_as)])

    def __repr__(self) -> str:
        return f"Plan({self.steps[0].x} -> {self.steps[-1].y}, {len(self.steps)} blocks)"


RIGHT = frozenset({4, 5})  # the columns of numbers


def _held(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _short(count: int | None) -> str:
    """Write a count of MACs to three figures.

    >>> _short(1_207_959_552), _short(576), _short(None)
    ('1.21 G', '576', '?')
    """
    if count is None:
        return "?"
    for unit, letter in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= unit:
            return f"{count / unit:.3g} {letter}"
    return str(count)
