"""Running an exported file in its own runtime, beside eager PyTorch."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from .door import Door, first_line
from .errors import ExportError, Mismatch
from .report import Check
from .target import Loaded

__all__ = ["UNWRITTEN", "compare", "expect", "time_ratio"]

UNWRITTEN = "Nothing was written under that name."
BATCHES = (1, 3)  # the door traces 2
_ROUNDS = 7
_ENOUGH = 2.0  # seconds after which three rounds will do


def expect(door: Door) -> list[tuple[Tensor, Tensor]]:
    """Return the inputs to check with, and what eager makes of them.

    Raises:
        ExportError: It makes no finite numbers of them.
        GridError: A block does not take a grid.
    """
    pairs: list[tuple[Tensor, Tensor]] = []
    for seed, (batch, grid) in enumerate(zip(BATCHES, door.checked, strict=True), start=1):
        x = door.example(batch, grid, seed)
        with torch.inference_mode():
            y: Tensor = door.module(x)
        if not bool(torch.isfinite(y).all()):
            raise ExportError(
                "the projector itself gives NaN or infinities for features of unit scale",
                expected="finite numbers",
                hint="Look at the weights: load_projector(..., check_values=True).",
            )
        pairs.append((x, y))
    return pairs


def compare(
    loaded: Loaded, pairs: list[tuple[Tensor, Tensor]], tolerance: float, path: Path
) -> tuple[Check, ...]:
    """Run the file on inputs it was not traced with, and compare with eager.

    Raises:
        Mismatch: It does not run, or differs by more than it may.
    """
    checks: list[Check] = []
    for x, wanted in pairs:
        shape = tuple(x.shape)
        try:
            y = loaded.run(x)
        except Exception as error:
            found = f"an input of {shape} fails: {type(error).__name__}: {first_line(error)}"
            raise Mismatch(found, str(path), "a file that runs", UNWRITTEN) from error
        if y.shape != wanted.shape:
            found = f"an input of {shape} gives {tuple(y.shape)}"
            raise Mismatch(found, str(path), f"{tuple(wanted.shape)}, as eager", UNWRITTEN)
        largest, scale = _largest(y.double() - wanted), _largest(wanted)
        relative = largest / scale if scale else largest
        if not relative <= tolerance:  # a NaN is no less
            found = f"an input of {shape} gives an output that is {relative:.1e} from eager's"
            expected = f"at most {tolerance:.0e}, relative to the largest number"
            raise Mismatch(found, str(path), expected, UNWRITTEN)
        checks.append(Check(shape, largest, relative))
    return tuple(checks)


def _largest(y: Tensor) -> float:
    return float(y.double().abs().max()) if y.numel() else 0.0


def time_ratio(loaded: Loaded, door: Door, x: Tensor) -> float:
    """Return the runtime's best time over eager's, in rounds in which both take turns.

    Eager runs on one thread, and every runtime is opened so: a second one measures how two pools
    of threads get in each other's way.
    """

    def eager(x: Tensor) -> Tensor:
        with torch.inference_mode():
            y: Tensor = door.module(x)
        return y

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        theirs, ours = [], []
        start = time.perf_counter()
        for index in range(_ROUNDS + 1):
            took, eager_took = _seconds(loaded.run, x), _seconds(eager, x)
            if index:  # the first round warms up
                theirs.append(took)
                ours.append(eager_took)
            if index >= 3 and time.perf_counter() - start > _ENOUGH:
                break
    finally:
        torch.set_num_threads(threads)
    return min(theirs) / min(ours)


def _seconds(call: Callable[[Tensor], Tensor], x: Tensor) -> float:
    start = time.perf_counter()
    call(x)
    return time.perf_counter() - start
