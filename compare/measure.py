"""Measured cost: the time that projectors take, in turns, and the memory that they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count, product
from typing import TypeAlias

import torch

from ..projectors.device import check_device, check_dtype
from .comparison import Comparison
from .cost import Cost, Measured, build, features
from .memory import measured_peak
from .timing import Spread, forward, in_turns

__all__ = ["DTYPES", "ProgressCallback", "measure"]

DTYPES = ("float32", "bfloat16")

ProgressCallback: TypeAlias = Callable[[int, int], object]
"""Called with the steps that are done, and with all of them."""


def measure(
    comparison: Comparison,
    *,
    batch: int = 1,
    dtypes: Sequence[torch.dtype | str] = DTYPES,
    rounds: int = 20,
    device: torch.device | str = "cpu",
    threads: int | None = None,
    progress: ProgressCallback | None = None,
) -> Comparison:
    """Build what is compared with random weights, and measure a forward of each.

    Projectors for the same images take turns, in all dtypes, as `in_turns` says: all of them are in
    memory, and are timed in the same minutes, with the garbage collector off. `measured_peak` says
    what counts as memory; the input is added to it.

    Args:
        comparison: What to measure.
        batch: Images in a batch; packed images are those that they are.
        dtypes: The dtypes of weights and features, or their names.
        rounds: How often each projector takes its turn.
        device: Where they run. An accelerator is waited for at the end of each turn.
        threads: torch's threads meanwhile; default: as many as it has now.
        progress: Called after every step with the number that is done, and that of all steps.

    Returns:
        The comparison, in which each row has what was measured.

    Raises:
        SpecError: The device or a dtype cannot be used.
    """
    where = check_device(device)
    kinds = [check_dtype(dtype) for dtype in dtypes]
    groups: dict[object, list[Cost]] = {}  # by the images that they are for
    for row in comparison.rows:
        groups.setdefault(row.grids, []).append(row)
    total = len(kinds) * len(comparison.rows) + len(groups) * (rounds + 1)
    steps = count(1)

    def tick() -> None:
        if progress is not None:
            progress(next(steps), total)

    measured: dict[Cost, dict[str, Measured]] = {row: {} for row in comparison.rows}
    with _threads(threads) as number:
        for rows in groups.values():
            cases = list(product(rows, kinds))
            calls, peaks = [], []
            for row, kind in cases:
                call, held = _call(row, batch, where, kind)
                peak = measured_peak(call, where)
                calls.append(call)
                peaks.append(None if peak is None else held + peak)
                tick()
            times = in_turns(calls, rounds, tick=tick)
            for (row, kind), peak, seconds in zip(cases, peaks, times, strict=True):
                name = str(kind).removeprefix("torch.")
                measured[row][name] = Measured(Spread.of(seconds), peak)
    results = tuple(
        replace(each, measured=measured[each]) if isinstance(each, Cost) else each
        for each in comparison.results
    )
    images = "packed images" if comparison.rows[0].packed else f"batch {batch}"
    threaded = f", threads: {number}" if where.type == "cpu" else ""
    remark = (
        f"time: of a forward on {where}, {images}{threaded}; median of {rounds} rounds in turns "
        "(lowest to highest). peak: what it holds at most, with its input, without weights."
    )
    return replace(comparison, results=results, remarks=(*comparison.remarks, remark))


def _call(
    cost: Cost, batch: int, device: torch.device, dtype: torch.dtype
) -> tuple[Callable[[], None], int]:
    """Build a projector; return a call of it, and the bytes of its input."""
    plan, grids, packed = cost.plan, cost.grids, cost.packed
    project = build(plan, grids, packed=packed, dtype=dtype, device=device)
    x = features(plan, grids, packed=packed, dtype=dtype, device=device, batch=batch)
    return forward(project, x), x.nbytes


@contextmanager
def _threads(number: int | None) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
