"""Running an exported file in its own runtime, beside eager PyTorch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from .door import Door, first_line
from .errors import ExportError, Mismatch
from .report import Check
from .target import Loaded

__all__ = ["UNWRITTEN", "compare", "expect", "time_ratio"]

UNWRITTEN = "Nothing was written under that name."
_CALLS = 4
_REST = 0.05  # seconds
_ENOUGH = 1.0  # seconds after which no new turn begins


def expect(door: Door) -> list[tuple[Tensor, Tensor]]:
    """Return the inputs to check with, and what eager makes of them.

    Raises:
        ExportError: It makes no finite numbers of them.
        GridError: A block does not take a grid.
    """
    pairs: list[tuple[Tensor, Tensor]] = []
    for seed, (batch, grid) in enumerate(zip(door.batches[1:], door.checked, strict=True), 1):
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
    """Return the runtime's best time over eager's, on as many threads.

    They take turns of several calls, with a rest between: threads that wait for more work keep
    the other's from running.
    """

    def eager(x: Tensor) -> Tensor:
        with torch.inference_mode():
            y: Tensor = door.module(x)
        return y

    times: dict[str, list[float]] = {"theirs": [], "ours": []}
    start = time.perf_counter()
    with _threads(loaded.threads):
        while len(times["ours"]) < _CALLS or time.perf_counter() - start < _ENOUGH:
            for name, call in (("theirs", loaded.run), ("ours", eager)):
                time.sleep(_REST)
                times[name] += [_seconds(call, x) for _ in range(_CALLS)]
    return min(times["theirs"]) / min(times["ours"])


@contextmanager
def _threads(number: int) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _seconds(call: Callable[[Tensor], Tensor], x: Tensor) -> float:
    start = time.perf_counter()
    call(x)
    return time.perf_counter() - start
