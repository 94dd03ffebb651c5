"""What one projector costs, on paper: on one grid, or on one set of packed images."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..blocks.core.feature import Grid
from ..projectors.device import check_dtype
from ..projectors.plan import MAX_PARAMETERS, Plan
from ..projectors.projector import Projector
from .activations import peak_bytes
from .around import Around
from .asked import Fitted
from .timing import Spread

__all__ = ["Cost", "Measured", "build", "features", "grids_text"]


@dataclass(frozen=True)
class Measured:
    """What a forward took, in inference mode.

    Attributes:
        seconds: The median of the rounds, and their range.
        peak_bytes: The most bytes that it held at once, with its input, without weights; None where
            the device keeps no record.
    """

    seconds: Spread
    peak_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one projector costs on one grid, or on one set of packed images. Allocates nothing.

    Attributes:
        name: What was asked for, with its options: ``c-abstractor(queries=64)``.
        family: The registered name that it belongs to; empty for a document.
        plan: Its plan for the grid; of packed images of several sizes, without a grid. A projector
            built from it takes the images: ``Projector(cost.plan.stack, grid=cost.plan.grid)``.
        grids: The grid (h, w), or those of the packed images.
        packed: Whether the grids are those of one set of packed images.
        tokens_in: Tokens that enter, of all images; prefix tokens are not counted.
        tokens_out: Tokens that leave, of all images.
        parameters: The number of parameters.
        macs: Multiply-accumulates of convolutions and matrix products, as written.
        macs_run: The same in the order in which the blocks run.
        dtype: The dtype of activations and of the KV cache.
        note: What the projector is easily taken for, or what its authors count otherwise.
        tower_macs: Multiply-accumulates of the vision tower for the same images; None if there is
            no tower.
        prefill_macs: Multiply-accumulates of the language model for the tokens that leave, without
            any text; None if there is no language model.
        kv_bytes: The bytes that these tokens take in its KV cache.
        unreduced_prefill_macs: The same for as many tokens as enter.
        unreduced_kv_bytes: The same for as many tokens as enter.
        measured: What a forward took, by dtype; empty before `measure`.
    """

    name: str
    family: str
    plan: Plan
    grids: tuple[Grid, ...]
    packed: bool
    tokens_in: int
    tokens_out: int
    parameters: int
    macs: int
    macs_run: int
    dtype: str = "bfloat16"
    note: str = ""
    tower_macs: int | None = None
    prefill_macs: int | None = None
    kv_bytes: int | None = None
    unreduced_prefill_macs: int | None = None
    unreduced_kv_bytes: int | None = None
    measured: Mapping[str, Measured] = field(default_factory=dict, hash=False)
    _bytes: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        asked: Fitted,
        grids: Sequence[Grid],
        around: Around,
        *,
        packed: bool = False,
        dtype: str = "bfloat16",
        max_parameters: int = MAX_PARAMETERS,
    ) -> Cost:
        """Work out what a projector costs.

        Args:
            asked: The projector.
            grids: The images' grids; one, unless they are packed.
            around: The tower and the language model.
            packed: Whether the images are packed.
            dtype: The dtype of activations and of the KV cache.
            max_parameters: Upper limit on parameters.

        Raises:
            SpecError: The blocks do not fit each other, or there are too many parameters.
            GridError: The projector does not take a grid.
        """
        stack, lm = asked.stack, around.lm
        sizes = dict.fromkeys(grids)
        plans = {grid: Plan(stack, grid, max_parameters=max_parameters) for grid in sizes}
        plan = plans[grids[0]]
        if len(plans) > 1:
            plan = Plan(stack, max_parameters=max_parameters)
        size = check_dtype(dtype).itemsize
        tokens_in = sum(map(math.prod, grids))
        tokens_out = sum(stack.tokens(*grid) for grid in grids)
        cost = cls(
            name=asked.name,
            family=asked.family,
            note=asked.note,
            plan=plan,
            grids=tuple(grids),
            packed=packed,
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            parameters=plan.parameters,
            macs=sum(plans[grid].macs or 0 for grid in grids),
            macs_run=sum(plans[grid].macs_run or 0 for grid in grids),
            dtype=dtype,
            tower_macs=around.tower_macs(grids),
            prefill_macs=None if lm is None else lm.prefill_macs(tokens_out),
            kv_bytes=None if lm is None else lm.kv_bytes(tokens_out, size),
            unreduced_prefill_macs=None if lm is None else lm.prefill_macs(tokens_in),
            unreduced_kv_bytes=None if lm is None else lm.kv_bytes(tokens_in, size),
        )
        cost.activation_bytes()  # runs the projector: what does not fit fails here, not in a table
        return cost

    def activation_bytes(self, dtype: str | None = None) -> int:
        """Return the most bytes that tensors take at any moment of a forward without gradients.

        The input counts, weights do not; see `peak_bytes` for what is seen.

        Args:
            dtype: The dtype of input and weights; default: that of this cost.
        """
        dtype = dtype or self.dtype
        if dtype not in self._bytes:
            self._bytes[dtype] = peak_bytes(_forward(self.plan, self.grids, self.packed, dtype))
        return self._bytes[dtype]

    @property
    def saved(self) -> float | None:
        """The share of the prefill's MACs that fewer tokens save; negative if there are more."""
        if self.prefill_macs is None or self.unreduced_prefill_macs is None:
            return None
        return 1 - self.prefill_macs / self.unreduced_prefill_macs

    @property
    def total_macs(self) -> int | None:
        """The MACs of tower, projector as it runs, and prefill; None if one is not known."""
        if self.tower_macs is None or self.prefill_macs is None:
            return None
        return self.tower_macs + self.macs_run + self.prefill_macs

    @property
    def share(self) -> float | None:
        """The projector's share of `total_macs`."""
        return None if self.total_macs is None else self.macs_run / self.total_macs

    @property
    def images(self) -> str:
        """The grids as text, ``24x24 + 2 of 16x16``."""
        return grids_text(self.grids)

    def to_dict(self) -> dict[str, Any]:
        """Return the cost as JSON types; shares are fractions."""
        return {
            "name": self.name,
            "family": self.family,
            "grids": self.grids,
            "packed": self.packed,
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
            "parameters": self.parameters,
            "macs": self.macs,
            "macs_run": self.macs_run,
            "runs_as": self.plan.runs_as,
            "dtype": self.dtype,
            "activation_bytes": self.activation_bytes(),
            "prefill_macs": self.prefill_macs,
            "kv_bytes": self.kv_bytes,
            "unreduced_prefill_macs": self.unreduced_prefill_macs,
            "unreduced_kv_bytes": self.unreduced_kv_bytes,
            "saved": self.saved,
            "tower_macs": self.tower_macs,
            "total_macs": self.total_macs,
            "share": self.share,
            "measured": {dtype: asdict(found) for dtype, found in self.measured.items()},
            "note": self.note,
        }


def grids_text(grids: Sequence[Grid]) -> str:
    """Return grids as text.

    >>> grids_text([(24, 24)]), grids_text([(24, 24), (16, 16), (16, 16)])
    ('24x24', '24x24 + 2 of 16x16')
    """
    counts = Counter(grids)
    return " + ".join(
        f"{h}x{w}" if count == 1 else f"{count} of {h}x{w}" for (h, w), count in counts.items()
    )


def build(
    plan: Plan,
    grids: Sequence[Grid],
    *,
    packed: bool,
    dtype: torch.dtype,
    device: torch.device | str = "meta",
) -> Callable[[Tensor], Tensor]:
    """Build a projector in eval mode; return a function that projects features of these images."""
    projector = Projector(
        plan.stack,
        grid=plan.grid,
        device=device,
        dtype=dtype,
        max_parameters=plan.max_parameters,
    ).eval()
    grid = list(grids) if packed else grids[0]
    return lambda x: projector(x, grid=grid)


def features(
    plan: Plan,
    grids: Sequence[Grid],
    *,
    packed: bool,
    dtype: torch.dtype,
    device: torch.device | str = "meta",
    batch: int = 1,
) -> Tensor:
    """Return random features of these images, of which one that is not packed is a batch."""
    n = sum(map(math.prod, grids))
    stack = plan.stack
    shape = (n, stack.in_) if packed else (batch, n + stack.prefix_tokens, stack.in_)
    return torch.randn(shape, dtype=dtype, device=device)


def _forward(
    plan: Plan, grids: Sequence[Grid], packed: bool, dtype: str
) -> Callable[[], tuple[Tensor, Tensor]]:
    """Return the forward of these images on the meta device, which returns its input too."""
    kind = check_dtype(dtype)
    project = build(plan, grids, packed=packed, dtype=kind)

    def run() -> tuple[Tensor, Tensor]:
        x = features(plan, grids, packed=packed, dtype=kind)
        return x, project(x)

    return run
