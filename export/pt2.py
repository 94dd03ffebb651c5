"""torch.export: a program that torch itself runs, in Python or C++."""

from __future__ import annotations

import io
from functools import reduce
from typing import ClassVar

import torch

from ..checkpoints.save import DOCUMENT
from ..projectors.projector import Projector
from .axes import dims_of
from .errors import ExportError
from .formats import Format, Job, Loaded, ProgressCallback

__all__ = ["FORMAT"]

_DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
_FILE = f"{DOCUMENT}.json"


class Pt2(Format):
    """``.pt2``, read by `torch.export.load`. Its extra file ``mobilevlm.json`` is the document."""

    tolerance: ClassVar = {**_DTYPES, "f32": 1e-5}
    mark = f"/extra/{_FILE}".encode()  # a member of the archive

    def weights(self, projector: Projector) -> str:
        # Of several, one that holds the values of all.
        dtypes = [parameter.dtype for parameter in projector.parameters()]
        dtype = reduce(torch.promote_types, dtypes) if dtypes else torch.float32
        for name, known in _DTYPES.items():
            if dtype == known:
                return name
        raise ExportError(f"parameters of {dtype}", "projector", ", ".join(_DTYPES))

    def dtype(self, weights: str) -> torch.dtype:
        return _DTYPES[weights]

    def write(self, job: Job, report_progress: ProgressCallback) -> bytes:
        report_progress("Tracing")
        program = job.signature.trace()
        program.example_inputs = None  # they would be stored in the file
        extra = {_FILE: job.document} if job.document else None
        # Given a path, torch aborts the process on a full disk: a destructor throws.
        torch.export.save(program, file := io.BytesIO(), extra_files=extra)
        return file.getvalue()

    def load(self, job: Job, data: bytes) -> Loaded:
        program = torch.export.load(io.BytesIO(data))
        inputs, outputs = dims_of(program, job.signature.dims)
        return Loaded(program.module(), inputs, outputs, {"torch": torch.__version__})


FORMAT = Pt2()
