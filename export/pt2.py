"""torch.export: a program that torch alone runs, in Python or C++."""

from __future__ import annotations

import io
from typing import ClassVar

import torch

from ..projectors.projector import Projector
from .axes import dims_of
from .errors import ExportError
from .target import Job, Loaded, Target, Tell

__all__ = ["TARGET"]

_DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
DOCUMENT = "mobilevlm.json"


class Pt2(Target):
    """``.pt2``, which `torch.export.load` reads. The document lies inside as `mobilevlm.json`."""

    tolerance: ClassVar = {**_DTYPES, "f32": 1e-5}

    def weights(self, projector: Projector) -> str:
        dtype = next((p.dtype for p in projector.parameters()), torch.float32)
        for name, known in _DTYPES.items():
            if dtype == known:
                return name
        raise ExportError(f"parameters of {dtype}", "projector", ", ".join(_DTYPES))

    def dtype(self, weights: str) -> torch.dtype:
        return _DTYPES[weights]

    def write(self, job: Job, tell: Tell) -> bytes:
        tell("Tracing")
        program = job.door.trace()
        program.example_inputs = None  # or they would lie in the file
        extra = {DOCUMENT: job.document} if job.document else None
        # Given a path, torch aborts the process where the disk is full: a destructor throws.
        torch.export.save(program, file := io.BytesIO(), extra_files=extra)
        return file.getvalue()

    def load(self, job: Job, data: bytes) -> Loaded:
        program = torch.export.load(io.BytesIO(data))
        inputs, outputs = dims_of(program, job.door.dims)
        versions = {"torch": torch.__version__}
        return Loaded(program.module(), inputs, outputs, versions)


TARGET = Pt2()
