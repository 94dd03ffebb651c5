"""Running an exported file in its own runtime, and comparing it with eager PyTorch."""

from __future__ import annotations

import copy
import platform
import time
import timeit
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..blocks.core.fast import fast_paths
from ..blocks.core.linear import PROCESSOR_UNITS, capabilities
from ..registry import MobileVLMError, describe_error
from .errors import ExportError, Mismatch
from .formats import Loaded
from .report import Check
from .signature import ExportSignature

__all__ = ["UNWRITTEN", "Expected", "check_outputs", "expect", "processor", "time_ratio"]

UNWRITTEN = "No file was written."
_CALLS = 4
_REST = 0.05  # seconds
_ENOUGH = 1.0  # seconds after which no new turn begins
# How many times eager's distance from fp64 a file in half precision may have. If it rounds once
# more than eager, its error is sqrt(2) times eager's; the largest error of a few varies more.
_MEAN_FACTOR, _LARGEST_FACTOR = 2.0, 4.0
_MACHINES = {"AMD64": "x86-64", "x86_64": "x86-64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Expected:
    """An input to check with, and eager's output for it.

    Attributes:
        x: The input.
        y: Eager's output.
        exact: The output of the same weights in fp64, if the file is compared with it.
        half: Plain torch's output in half precision, if the file is compared with it.
    """

    x: Tensor
    y: Tensor
    exact: Tensor | None = None
    half: Tensor | None = None


def expect(signature: ExportSignature, half: torch.dtype | None = None) -> list[Expected]:
    """Return the inputs to check with, and eager's outputs for them.

    Args:
        signature: How the projector is called.
        half: The half precision that the file is compared in, if it is.

    Raises:
        ExportError: The outputs are not finite.
        GridError: A block does not take a grid.
    """
    expected: list[Expected] = []
    for seed, (batch, grid) in enumerate(
        zip(signature.batches[1:], signature.checked, strict=True), 1
    ):
        x = signature.example(batch, grid, seed)
        y = _run(signature.module, x)
        exact = plain = None
        if half is not None:
            with fast_paths(False):
                exact = _exact(signature.module, x)
                plain = _run_in(half, signature.module, x)
        expected.append(Expected(x, y, exact, plain))
    return expected


def _run(module: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        y: Tensor = module(x)
    if not bool(torch.isfinite(y).all()):
        hint = "Check the weights: load_projector(..., check_values=True)."
        if y.dtype == torch.float16:
            hint = 'Export with weights="f32".'
        found = f"the projector itself gives NaN or infinities in {y.dtype} at unit scale"
        raise ExportError(found, expected="finite values", hint=hint)
    return y


def _run_in(dtype: torch.dtype, module: nn.Module, x: Tensor) -> Tensor:
    return _run(copy.deepcopy(module).to(dtype), x.to(dtype))


def _exact(module: nn.Module, x: Tensor) -> Tensor:
    try:
        return _run_in(torch.float64, module, x)
    except MobileVLMError:
        raise
    except Exception:  # a third party's block that only computes in fp32
        return _run_in(torch.float32, module, x).double()


def check_outputs(
    loaded: Loaded,
    expected: list[Expected],
    tolerance: float | torch.dtype,
    path: Path,
) -> tuple[Check, ...]:
    """Run the file on inputs it was not traced with, and compare with eager.

    Args:
        loaded: The file.
        expected: The inputs and outputs.
        tolerance: The largest relative difference from eager that is allowed; or a half precision
            in which the file may be about as far from fp64 as eager is.
        path: The file's name.

    Raises:
        Mismatch: The file does not run, or differs by more than allowed.
    """
    checks: list[Check] = []
    for each in expected:
        x, y_eager = each.x, each.y
        shape = tuple(x.shape)
        try:
            y = loaded.run(x)
        except Exception as error:
            found = f"running it on an input of {shape} fails: {describe_error(error)}"
            raise Mismatch(found, str(path), "a file that runs", UNWRITTEN) from error
        if y.shape != y_eager.shape:
            found = f"for an input of {shape} the output is {tuple(y.shape)}"
            raise Mismatch(found, str(path), f"{tuple(y_eager.shape)}, as in eager", UNWRITTEN)
        largest, scale = _largest(y.double() - y_eager), _largest(y_eager)
        relative = largest / scale if scale else largest
        errors: tuple[float, ...] = ()
        if not isinstance(tolerance, torch.dtype):
            if not relative <= tolerance:  # also refuses NaN
                found = f"for an input of {shape} the output differs from eager's by {relative:.1e}"
                limit = f"at most {tolerance:.0e}, relative to the largest value"
                raise Mismatch(found, str(path), limit, UNWRITTEN)
        elif each.exact is not None and each.half is not None:
            errors = _check_half(y, each.exact, each.half, shape, path)
        checks.append(Check(shape, largest, relative, *errors))
    return tuple(checks)


def _check_half(
    y: Tensor, exact: Tensor, half: Tensor, shape: tuple[int, ...], path: Path
) -> tuple[float, float]:
    """Return the errors of the file and of eager relative to fp64, or refuse the file.

    A wrong factor shows in the mean error, a single wrong value in the largest.
    """
    for name, size, factor in (
        ("largest", _largest, _LARGEST_FACTOR),
        ("mean", _root_mean_square, _MEAN_FACTOR),
    ):
        scale = size(exact) or 1.0
        ours, eager = (size(each.double() - exact) / scale for each in (y, half))
        if not ours <= factor * eager:
            found = f"for an input of {shape} the output's {name} error from fp64 is {ours:.1e}"
            limit = f"at most {factor:g} times eager's, which is {eager:.1e}"
            raise Mismatch(found, str(path), limit, UNWRITTEN)
    return ours, eager


def _largest(y: Tensor) -> float:
    return float(y.double().abs().max()) if y.numel() else 0.0


def _root_mean_square(y: Tensor) -> float:
    return float(y.double().square().mean().sqrt()) if y.numel() else 0.0


def time_ratio(loaded: Loaded, signature: ExportSignature, x: Tensor) -> float:
    """Return the runtime's best time divided by eager's, on the same number of threads.

    The two take turns of several calls with a pause between them, because one's waiting threads
    would keep the other's from running.
    """
    calls = {
        "runtime": lambda: loaded.run(x),
        "eager": torch.inference_mode()(lambda: signature.module(x)),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    start = time.perf_counter()
    before = torch.get_num_threads()
    torch.set_num_threads(loaded.threads)
    try:
        while len(times["eager"]) < _CALLS or time.perf_counter() - start < _ENOUGH:
            for name, call in calls.items():
                time.sleep(_REST)
                times[name] += timeit.repeat(call, number=1, repeat=_CALLS)
    finally:
        torch.set_num_threads(before)
    return min(times["runtime"]) / min(times["eager"])


def processor() -> str:
    """Return the architecture and its units, such as ``x86-64 with AVX2, VNNI``.

    Runtimes choose their kernels by them, and the kernels' sums differ.
    """
    found = capabilities()
    units = dict.fromkeys(
        unit for flag, unit in PROCESSOR_UNITS.items() if unit and found.get(flag)
    )
    machine = platform.machine()
    return " with ".join(filter(None, (_MACHINES.get(machine, machine), ", ".join(units))))
