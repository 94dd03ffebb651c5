"""torch.export: a program that torch alone runs, in Python or C++."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch.export import ExportedProgram

from ..projectors.projector import Projector
from .door import Dims
from .errors import ExportError
from .target import Job, Loaded, Target, Tell

__all__ = ["TARGET", "dims_of"]

_DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
DOCUMENT = "mobilevlm.json"


class Pt2(Target):
    """``.pt2``, which `torch.export.load` reads. The document lies inside as `mobilevlm.json`."""

    tolerance = dict.fromkeys(_DTYPES, 1e-5)

    def weights(self, projector: Projector) -> str:
        dtype = next((p.dtype for p in projector.parameters()), torch.float32)
        for name, known in _DTYPES.items():
            if dtype == known:
                return name
        raise ExportError(f"parameters of {dtype}", "projector", ", ".join(_DTYPES))

    def dtype(self, weights: str) -> torch.dtype:
        return _DTYPES[weights]

    def write(self, job: Job, path: Path, tell: Tell) -> None:
        tell("Tracing")
        program = job.door.trace()
        tell("Writing")
        extra = {DOCUMENT: job.document} if job.document else None
        torch.export.save(program, path, extra_files=extra)

    def load(self, job: Job, path: Path) -> Loaded:
        program = torch.export.load(path)
        inputs, outputs = dims_of(program, job.door.dims)
        versions = {"torch": torch.__version__}
        return Loaded(program.module(), inputs, outputs, versions)


def dims_of(program: ExportedProgram, names: Dims) -> tuple[Dims, Dims]:
    """Read the axes of a program's input and output; a free one has its name in the door."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    signature = program.graph_signature
    x, y = (values[found[0]].shape for found in (signature.user_inputs, signature.user_outputs))
    symbols = {
        str(size): str(name)
        for size, name in zip(x, names, strict=True)
        if isinstance(size, torch.SymInt)
    }
    return named(x, symbols), named(y, symbols)


def named(shape: Sequence[int | torch.SymInt], symbols: Mapping[str, str]) -> Dims:
    """Write a shape's symbols, also those in formulas, by their names."""
    return tuple(
        re.sub(r"\w+", lambda word: symbols.get(word[0], word[0]), str(size))
        if isinstance(size, torch.SymInt)
        else size
        for size in shape
    )


TARGET = Pt2()
