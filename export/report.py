"""The report of an export: the file, and the results of running it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .axes import Dims

__all__ = ["Check", "Report"]


@dataclass(frozen=True)
class Check:
    """One run of the file in its own runtime, compared with eager PyTorch.

    Attributes:
        shape: The input's shape.
        max_abs: The largest difference.
        relative: That difference divided by the largest magnitude of eager's output.
        error: In half precision, the file's relative difference from fp64 (root mean square).
        eager_error: In half precision, the same for eager without fast forms.
    """

    shape: tuple[int, ...]
    max_abs: float
    relative: float
    error: float | None = None
    eager_error: float | None = None


@dataclass(frozen=True)
class Report:
    """An exported file.

    Attributes:
        path: The file.
        format: Its format, such as ``onnx``.
        weights: How the weights are stored: ``f32``, ``f16``, ``bf16``, ``int8`` or ``q8_0``.
        bytes: Its size.
        inputs: The axes of its input ``x``, read from the file; a free axis has a name or a
            formula.
        outputs: The axes of its output ``y``.
        versions: Versions of the format and of the tools that wrote it.
        checks: One run for each input it was not traced with.
        time_ratio: The runtime's best time for one image divided by eager's, on the same number of
            threads; None if the check does not use the real runtime.
        notes: What a user should know about the file.
        processor: The processor it was checked on, such as ``x86-64 with AVX2, VNNI``.
    """

    path: str
    format: str
    weights: str
    bytes: int
    inputs: Dims
    outputs: Dims
    versions: Mapping[str, str | int]
    checks: tuple[Check, ...]
    time_ratio: float | None
    notes: tuple[str, ...] = ()
    processor: str = ""

    @property
    def max_abs(self) -> float:
        """The largest difference from eager of any check."""
        return max(check.max_abs for check in self.checks)

    @property
    def relative(self) -> float:
        """The largest relative difference from eager of any check."""
        return max(check.relative for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return {
            **asdict(self),
            "max_abs": self.max_abs,
            "relative": self.relative,
            "dynamic": [name for name in self.inputs if isinstance(name, str)],
        }

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {value}" for name, value in self.versions.items())
        lines = [
            f"{self.path}: {self.weights}, {self.bytes / 1e6:.1f} MB, {versions}",
            f"{_shape(self.inputs)} -> {_shape(self.outputs)}",
        ]
        lines += [
            f"at {_shape(check.shape)}: differs from eager by {check.max_abs:.1e}, "
            f"{check.relative:.1e} relative{_half_errors(check)}"
            for check in self.checks
        ]
        if self.processor:
            lines.append(f"checked on {self.processor}")
        if self.time_ratio is not None:
            lines.append(f"takes {self.time_ratio:.2f} of eager's time")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def _half_errors(check: Check) -> str:
    if check.error is None:
        return ""
    return f"; from fp64 by {check.error:.1e}, eager by {check.eager_error:.1e}"


def _shape(dims: Dims) -> str:
    return f"({', '.join(map(str, dims))})"
