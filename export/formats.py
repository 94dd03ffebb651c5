"""What every export format implements, and the table of formats."""

from __future__ import annotations

import importlib
import mmap
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, cast

import torch
from torch import Tensor

from ..blocks.core.feature import Grid
from ..projectors.projector import Projector
from ..registry.requirements import install_command
from .axes import Dims
from .errors import ExportError
from .signature import ExportSignature

__all__ = ["FORMATS", "Format", "Job", "Loaded", "ProgressCallback", "find_format"]

# The module of each suffix.
FORMATS = {".pt2": "pt2", ".onnx": "onnx", ".gguf": "gguf", ".pte": "executorch"}

ProgressCallback: TypeAlias = Callable[[str], None]
"""Called with the name of each stage as it begins."""


@dataclass(frozen=True)
class Job:
    """What to export, and how.

    Attributes:
        projector: A copy of the projector in evaluation mode, on the CPU.
        signature: How the exported projector is called.
        dynamic_grid: Whether the grid stays free.
        weights: How to store the weights.
        document: The specification as JSON; empty if a block has no registered name.
        options: The options that only this format has.
    """

    projector: Projector
    signature: ExportSignature
    dynamic_grid: bool
    weights: str
    document: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Loaded:
    """An exported file, opened in its own runtime.

    Attributes:
        run: ``(b, ...) -> (b, m, d)``.
        inputs: The axes of the input, as the file declares them.
        outputs: The axes of the output.
        versions: Versions of the format and of the tools that wrote it.
        notes: What a user should know about the file.
        timed: Whether `run` uses the runtime that users would use.
        threads: The number of threads it runs on.
    """

    run: Callable[[Tensor], Tensor]
    inputs: Dims
    outputs: Dims
    versions: Mapping[str, str | int]
    notes: tuple[str, ...] = ()
    timed: bool = True
    threads: int = 1


class Format(ABC):
    """One export format.

    Attributes:
        extra: The extra that installs its packages; empty if it needs none.
        packages: The packages it imports.
        tolerance: The ways to store weights, the default first. Each maps to the largest relative
            difference from eager that is allowed, or to the half precision in which the file may
            be about as far from fp64 as eager is.
        options: The options that only this format takes.
        free: Whether axes can stay free; otherwise the file takes one image and one grid.
        mark: The bytes that introduce the projector's document in a file; empty if the format
            has no place for one.
    """

    extra: ClassVar[str] = ""
    packages: ClassVar[tuple[str, ...]] = ()
    tolerance: ClassVar[Mapping[str, float | torch.dtype]]
    options: ClassVar[tuple[str, ...]] = ()
    free: ClassVar[bool] = True
    mark: ClassVar[bytes] = b""

    def weights(self, projector: Projector) -> str:
        """Return how the weights are stored by default."""
        return next(iter(self.tolerance))

    def dtype(self, weights: str) -> torch.dtype:
        """Return the dtype that the projector is exported and compared in."""
        return torch.float32

    def grid(self, grid: Grid | None, options: Mapping[str, Any]) -> Grid | None:
        """Return the grid to export for, given the requested one."""
        return grid

    def restrict(self, signature: ExportSignature, options: Mapping[str, Any]) -> ExportSignature:
        """Return the part of a signature that the format supports."""
        return signature

    def refuse(self, job: Job) -> None:  # noqa: B027
        """Refuse what the format cannot express, before any work is done.

        Raises:
            ExportError: The format cannot express it; the message says why.
        """

    @abstractmethod
    def write(self, job: Job, report_progress: ProgressCallback) -> bytes:
        """Return the contents of the file.

        Never write next to the target: a native writer may abort the process on a full disk.
        """

    @abstractmethod
    def load(self, job: Job, data: bytes) -> Loaded:
        """Open the contents of a file in the format's own runtime."""

    def is_ours(self, path: Path) -> bool:
        """Return whether a file holds a projector's document where our exports store it."""
        if not self.mark:
            return False
        try:
            with (
                path.open("rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
            ):
                return data.find(self.mark) >= 0
        except (OSError, ValueError):
            return False


def find_format(path: Path) -> Format:
    """Return the format of a path's suffix.

    Raises:
        ExportError: No format has the suffix, or its packages are not installed.
    """
    module = FORMATS.get(path.suffix)
    if module is None:
        known = ", ".join(FORMATS)
        found = f"no format has the suffix {path.suffix!r}" if path.suffix else "it has no suffix"
        raise ExportError(found, str(path), f"one of {known}")
    found_format = cast("Format", importlib.import_module(f".{module}", __package__).FORMAT)
    missing = [name for name in found_format.packages if find_spec(name) is None]
    if missing:
        raise ExportError(
            f"{path.suffix} needs {', '.join(missing)}",
            hint=f"Run: {install_command(found_format.extra)}",
        )
    return found_format
