"""What a format must be able to do, and the table of formats."""

from __future__ import annotations

import importlib
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
from .door import Door
from .errors import ExportError

__all__ = ["FORMATS", "Job", "Loaded", "Target", "Tell", "find_target"]

# Where the format of each suffix lives.
FORMATS = {".pt2": "pt2", ".onnx": "onnx", ".gguf": "gguf", ".pte": "executorch"}

Tell: TypeAlias = Callable[[str], None]
"""Is told what is being done."""


@dataclass(frozen=True)
class Job:
    """What is to be exported.

    Attributes:
        projector: A copy in evaluation mode, on the CPU.
        door: How it is called.
        grid: The grid, if one is known.
        dynamic_grid: Whether it is to stay free.
        weights: How to keep the weights.
        document: The specification, as JSON; empty if a block has no name.
        options: The options that only this format has.
    """

    projector: Projector
    door: Door
    grid: Grid | None
    dynamic_grid: bool
    weights: str
    document: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Loaded:
    """A file, opened in its own runtime.

    Attributes:
        run: ``(b, ...) -> (b, m, d)``.
        inputs: The axes of the input, as the file tells them.
        outputs: The axes of the output.
        versions: Of the format and of what wrote it.
        notes: What a user should know of it.
        timed: Whether `run` is the runtime people would use.
        threads: How many threads it runs on.
    """

    run: Callable[[Tensor], Tensor]
    inputs: Dims
    outputs: Dims
    versions: Mapping[str, str | int]
    notes: tuple[str, ...] = ()
    timed: bool = True
    threads: int = 1


class Target(ABC):
    """One format.

    Attributes:
        extra: The extra that brings its packages; empty if there is none.
        packages: The packages it imports.
        tolerance: How it can keep weights, the default first, each with the largest relative
            difference from eager that a file may show; or with the half precision in which it
            may be about as far from fp64 as eager is.
        options: The options that it alone takes.
        free: Whether axes can be left free; otherwise it takes one image and one grid.
    """

    extra: ClassVar[str] = ""
    packages: ClassVar[tuple[str, ...]] = ()
    tolerance: ClassVar[Mapping[str, float | torch.dtype]]
    options: ClassVar[tuple[str, ...]] = ()
    free: ClassVar[bool] = True

    def weights(self, projector: Projector) -> str:
        """Return how the weights are kept where nobody says."""
        return next(iter(self.tolerance))

    def dtype(self, weights: str) -> torch.dtype:
        """Return the dtype that the projector is exported and compared in."""
        return torch.float32

    def grid(self, grid: Grid | None, options: Mapping[str, Any]) -> Grid | None:
        """Return the grid to export for, given the one that was asked for."""
        return grid

    def door(self, door: Door, options: Mapping[str, Any]) -> Door:
        """Return how it is called there, given how it could be."""
        return door

    def refuse(self, job: Job) -> None:  # noqa: B027
        """Refuse what the format cannot express, before any work is done.

        Raises:
            ExportError: It says what and why.
        """

    @abstractmethod
    def write(self, job: Job, tell: Tell) -> bytes:
        """Return what the file is to hold.

        It never writes beside the file: what a native writer does on a full disk may be to end
        the process.
        """

    @abstractmethod
    def load(self, job: Job, data: bytes) -> Loaded:
        """Open what was written in its own runtime."""


def find_target(path: Path) -> Target:
    """Return the format of a path's suffix.

    Raises:
        ExportError: There is none, or its packages are not installed.
    """
    module = FORMATS.get(path.suffix)
    if module is None:
        known = ", ".join(FORMATS)
        found = f"no format has the suffix {path.suffix!r}" if path.suffix else "it has no suffix"
        raise ExportError(found, str(path), f"one of {known}")
    target = cast("Target", importlib.import_module(f".{module}", __package__).TARGET)
    missing = [name for name in target.packages if find_spec(name) is None]
    if missing:
        raise ExportError(
            f"{path.suffix} needs {', '.join(missing)}",
            hint=f"Run: {install_command(target.extra)}",
        )
    return target
