"""The plan: the features, parameters and MACs of a stack, computed without allocating it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from ..blocks.core.block import Step, chains, label, walk_cache
from ..blocks.core.chain import Chain
from ..blocks.core.errors import SpecError
from ..blocks.core.feature import Feature, Grid
from ..registry import MobileVLMError, describe_error
from .assemble import assemble
from .drawing import draw
from .html import to_html
from .macs import count_macs, macs_of
from .stack import Stack
from .table import align, short_count

__all__ = ["MAX_PARAMETERS", "Plan", "PlanRow"]

MAX_PARAMETERS = 2_000_000_000
_EXAMPLE = (24, 24)  # the grid of CLIP's ViT-L/14 at 336 pixels


@dataclass(frozen=True)
class PlanRow:
    """One block of a plan.

    Attributes:
        path: Its path, which its state-dict keys begin with: ``blocks.3.body.0``.
        name: Its registered name.
        x: The feature that enters it.
        y: The feature that leaves it.
        parameters: Its number of parameters, with those of the blocks inside it.
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
        """How many blocks it is nested in."""
        return sum(not step.isdigit() for step in self.path.split(".")) - 1


class Plan:
    """The features between a stack's blocks, its parameters and its MACs. Allocates nothing.

    Features are computed at once; parameters and MACs, from modules on the meta device, when they
    are first read.

    Args:
        stack: The specification.
        grid: The token grid (h, w), or None if it is not known.
        max_parameters: Upper limit on parameters.
        name: What the projector is called.

    Attributes:
        stack: The specification.
        grid: The grid, or None.
        name: What the projector is called: the registered name that it was asked for by; empty
            for that of a document.
        steps: The blocks with the features around them.
        max_parameters: The upper limit on parameters.
    """

    def __init__(
        self,
        stack: Stack,
        grid: Grid | None = None,
        *,
        max_parameters: int = MAX_PARAMETERS,
        name: str = "",
    ) -> None:
        self.stack = stack
        self.grid = grid
        self.name = name
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
        """Return the modules on the meta device, and forget them: the caller owns them."""
        modules = self._meta
        del self._meta
        return modules

    @cached_property
    def parameters(self) -> int:
        """The number of parameters.

        Raises:
            SpecError: There are more than `max_parameters`.
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
    def _parameters_by_path(self) -> dict[str, int]:
        """Parameters by module path in the chain; a shared one counts in each module."""
        found: dict[str, dict[int, int]] = {}
        for path, parameter in self._meta.named_parameters(remove_duplicate=False):
            while path:
                path = path.rpartition(".")[0]
                found.setdefault(path, {})[id(parameter)] = parameter.numel()
        return {path: sum(sizes.values()) for path, sizes in found.items()}

    @cached_property
    def _macs_by_path(self) -> dict[str, int] | None:
        """MACs by module path in the chain; the empty path is the total."""
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
                        f"its module fails on the meta device: {describe_error(error)}", where
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
        """Multiply-accumulates for one image as written; None while the grid is unknown."""
        return None if self._macs_by_path is None else self._macs_by_path.get("", 0)

    @cached_property
    def macs_run(self) -> int | None:
        """Multiply-accumulates for one image in the order in which blocks run; see `runs_as`.

        An average pool goes before the linear layers that it follows, which then see fewer tokens.
        """
        if self.grid is None or not self.runs_as:
            return self.macs
        x = torch.empty(1, *self.grid, self.stack.in_, device="meta")
        return macs_of(lambda: self._meta(x))

    @cached_property
    def runs_as(self) -> tuple[str, ...]:
        """Which blocks run in another order than written, one sentence each."""
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

    @property
    def remarks(self) -> tuple[str, ...]:
        """What to print below the table, such as what runs in another order, and the MACs then."""
        lines = [f"runs as: {line}" for line in self.runs_as]
        if self.macs_run != self.macs:
            lines.append(f"MACs as run: {short_count(self.macs_run)}")
        return tuple(lines)

    @cached_property
    def rows(self) -> tuple[PlanRow, ...]:
        """One row per block, each followed by those of the blocks inside it."""
        with walk_cache():
            return tuple(self._rows(self.steps, "", self._meta))

    def _rows(self, steps: Sequence[Step], prefix: str, chain: nn.Module) -> Iterator[PlanRow]:
        for index, step in enumerate(steps):
            path = f"{prefix}{index}"
            size = self._parameters_by_path.get(path, 0)
            macs = None if self._macs_by_path is None else self._macs_by_path.get(path, 0)
            yield PlanRow(f"blocks.{path}", label(step.block), step.x, step.y, size, macs)
            inside = dict(chain.get_submodule(str(index)).named_modules(remove_duplicate=False))
            for name, inner in chains(step.block, step.x):
                if name in inside:  # a module may fuse the chains of its block
                    yield from self._rows(inner, f"{path}.{name}.", inside[name])

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
            "macs_run": self.macs_run,
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

    def table(self, *, full: bool = True) -> tuple[list[str], list[list[str]]]:
        """Return the plan as a header and rows of text; the last row is the total.

        Args:
            full: Whether the path of a block inside another is written in full, or from there on.
        """
        header = ["block", "type", "feature in", "feature out", "parameters", "MACs"]
        tokens = f"{self.tokens_in or '?'} -> {self.tokens_out or '?'} tokens"
        first, last = self.steps[0].x, self.steps[-1].y
        total = PlanRow("total", tokens, first, last, self.parameters, self.macs)
        rows: list[list[str]] = []
        outer: list[str] = []  # the paths of the blocks around a row, then its own
        for row in (*self.rows, total):
            outer = [*outer[: row.depth], row.path]
            path = row.path if full else outer[-1].removeprefix(f"{outer[-2:][0]}.")
            size, macs = f"{row.parameters:,}", short_count(row.macs)
            indent = "  " * row.depth
            rows.append([indent + path, row.name, str(row.x), str(row.y), size, macs])
        return header, rows

    def chain(self, columns: int = 80) -> str:
        """Return a drawing of the chain: its blocks, and the features between them.

        Lines show what flows where: a residual's skip runs beside its body, branches part and
        meet again, and a repeated chain is drawn once. A feature is written where it changes. A
        preset inside a document is drawn as the blocks that it expands to.

        >>> from mobilevlm import plan_projector
        >>> body = [{"type": "norm-act"}, {"type": "pointwise", "out": "same"}]
        >>> blocks = [{"type": "pointwise"}, {"type": "residual", "body": body}]
        >>> print(plan_projector({"in": 8, "out": 16, "blocks": blocks}, grid=(4, 4)).chain())
        4x4 x 8, 16 tokens
        │
        ├─ pointwise
        │    4x4 x 16
        ├─┐ residual
        │ ├─ norm-act (norm="layer", act="gelu")
        │ ├─ pointwise
        ├─┘ +
        ▼
        4x4 x 16, 16 tokens

        Args:
            columns: The width to which lines are wrapped.
        """
        return draw(self.stack, self.steps, columns)

    def __str__(self) -> str:
        header, rows = self.table()
        return "\n".join([align(header, rows, right=RIGHT, total=True), *self.remarks])

    def _repr_html_(self) -> str:
        header, rows = self.table()
        title = f"Plan: {self.summary}"
        return to_html(header, rows, right=RIGHT, total=True, title=title, notes=self.remarks)

    def __repr__(self) -> str:
        return f"Plan({self.summary})"

    @property
    def summary(self) -> str:
        """Name, widths and tokens in a line; an example of tokens, where they need a grid."""
        widths = f"{self.stack.in_} -> {self.stack.out}"
        return ", ".join(part for part in (self.name, widths, self._tokens()) if part)

    def _tokens(self) -> str:
        if self.grid is not None:
            h, w = self.grid
            return f"{self.tokens_in} -> {self.tokens_out} tokens on {h}x{w}"
        if self.tokens_out is not None:
            return f"{self.tokens_out} tokens"
        try:
            tokens = self.stack.tokens(*_EXAMPLE)
        except MobileVLMError:
            return ""
        h, w = _EXAMPLE
        return f"e.g. {h * w} -> {tokens} tokens on {h}x{w}"


RIGHT = frozenset({4, 5})  # the columns of numbers
