"""Running an exported file in its own runtime, beside eager PyTorch."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..blocks.core.fast import fast_paths
from ..registry import MobileVLMError, told
from .door import Door
from .errors import ExportError, Mismatch
from .report import Check
from .target import Loaded

__all__ = ["UNWRITTEN", "Expected", "compare", "expect", "time_ratio"]

UNWRITTEN = "Nothing was written under that name."
_CALLS = 4
_REST = 0.05  # seconds
_ENOUGH = 1.0  # seconds after which no new turn begins
# How many times as far as eager a file in half precision may be from fp64. Where it rounds once
# more than eager, by as much, its error is sqrt(2) times eager's; the largest of a few varies more.
_MEAN, _LARGEST = 2.0, 4.0


@dataclass(frozen=True)
class Expected:
    """An input to check with, and what eager makes of it.

    Attributes:
        x: The input.
        y: Eager's output.
        exact: The output of the same weights in fp64, if the file is judged by it.
        half: The output in half precision, of plain torch, if the file is judged by it.
    """

    x: Tensor
    y: Tensor
    exact: Tensor | None = None
    half: Tensor | None = None


def expect(door: Door, half: torch.dtype | None = None) -> list[Expected]:
    """Return the inputs to check with, and what eager makes of them.

    Args:
        door: How the projector is called.
        half: The half precision in which the file keeps its weights, if it is judged by that.

    Raises:
        ExportError: It makes no finite numbers of them.
        GridError: A block does not take a grid.
    """
    found: list[Expected] = []
    for seed, (batch, grid) in enumerate(zip(door.batches[1:], door.checked, strict=True), 1):
        x = door.example(batch, grid, seed)
        y = _run(door.module, x)
        if half is None:
            found.append(Expected(x, y))
            continue
        with fast_paths(False):
            found.append(Expected(x, y, _exact(door.module, x), _in(half, door.module, x)))
    return found


def _run(module: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        y: Tensor = module(x)
    if not bool(torch.isfinite(y).all()):
        narrow = y.dtype == torch.float16
        raise ExportError(
            "the projector itself gives NaN or infinities for features of unit scale"
            + (" in float16" if narrow else ""),
            expected="finite numbers",
            hint='Keep the weights as "f32".'
            if narrow
            else "Look at the weights: load_projector(..., check_values=True).",
        )
    return y


def _in(dtype: torch.dtype, module: nn.Module, x: Tensor) -> Tensor:
    return _run(copy.deepcopy(module).to(dtype), x.to(dtype))


def _exact(module: nn.Module, x: Tensor) -> Tensor:
    try:
        return _in(torch.float64, module, x)
    except MobileVLMError:
        raise
    except Exception:  # a block of somebody else's that computes in fp32, whatever it is given
        return _in(torch.float32, module, x).double()


def compare(
    loaded: Loaded,
    expected: list[Expected],
    tolerance: float | torch.dtype,
    path: Path,
) -> tuple[Check, ...]:
    """Run the file on inputs it was not traced with, and compare with eager.

    Args:
        loaded: The file.
        expected: The inputs and outputs.
        tolerance: The largest relative difference from eager; or a half precision, in which
            the file may be about as far from fp64 as eager is.
        path: The file's name.

    Raises:
        Mismatch: It does not run, or differs by more than it may.
    """
    checks: list[Check] = []
    for each in expected:
        x, wanted = each.x, each.y
        shape = tuple(x.shape)
        try:
            y = loaded.run(x)
        except Exception as error:
            found = f"an input of {shape} fails: {told(error)}"
            raise Mismatch(found, str(path), "a file that runs", UNWRITTEN) from error
        if y.shape != wanted.shape:
            found = f"an input of {shape} gives {tuple(y.shape)}"
            raise Mismatch(found, str(path), f"{tuple(wanted.shape)}, as eager", UNWRITTEN)
        largest, scale = _largest(y.double() - wanted), _largest(wanted)
        relative = largest / scale if scale else largest
        errors: tuple[float, ...] = ()
        if not isinstance(tolerance, torch.dtype):
            if not relative <= tolerance:  # a NaN is no less
                found = f"an input of {shape} gives an output that is {relative:.1e} from eager's"
                limit = f"at most {tolerance:.0e}, relative to the largest number"
                raise Mismatch(found, str(path), limit, UNWRITTEN)
        elif each.exact is not None and each.half is not None:
            errors = _judge(y, each.exact, each.half, shape, path)
        checks.append(Check(shape, largest, relative, *errors))
    return tuple(checks)


def _judge(
    y: Tensor, exact: Tensor, half: Tensor, shape: tuple[int, ...], path: Path
) -> tuple[float, float]:
    """Return how far a file and eager are from fp64, or refuse the file.

    On average the file shows a wrong factor, in its largest error a single wrong number.
    """
    for name, size, factor in (("largest", _largest, _LARGEST), ("mean", _mean, _MEAN)):
        scale = size(exact) or 1.0
        ours, eager = (size(each.double() - exact) / scale for each in (y, half))
        if not ours <= factor * eager:
            found = f"an input of {shape} gives an output whose {name} error is {ours:.1e}"
            limit = f"at most {factor:g} times eager's, which is {eager:.1e} from fp64"
            raise Mismatch(found, str(path), limit, UNWRITTEN)
    return ours, eager


def _largest(y: Tensor) -> float:
    return float(y.double().abs().max()) if y.numel() else 0.0


def _mean(y: Tensor) -> float:
    """The root of the mean square."""
    return float(y.double().square().mean().sqrt()) if y.numel() else 0.0


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
