"""The verb for every format: choose it by suffix, write, run, compare, and only then keep."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..blocks.core.dtypes import short_name
from ..blocks.core.feature import check_grid
from ..blocks.core.quiet import quiet
from ..projectors.document import dump_spec
from ..projectors.files import check_target, replace_file
from ..projectors.projector import Projector
from ..projectors.unwrap import unwrap
from ..registry import MobileVLMError, RegistryError, describe_error, quote
from .axes import Dims
from .check import UNWRITTEN, check_outputs, expect, processor, time_ratio
from .errors import ExportError, Mismatch
from .formats import Job, ProgressCallback, find_format
from .report import Report
from .signature import export_signature

__all__ = ["export_projector"]


def export_projector(
    projector: nn.Module,
    path: str | os.PathLike[str],
    *,
    grid: Sequence[int] | None = None,
    dynamic_grid: bool = False,
    weights: str | None = None,
    opset: int | None = None,
    tower: str | os.PathLike[str] | None = None,
    max_batch: int | None = None,
    replace: bool = False,
    progress: ProgressCallback | None = None,
) -> Report:
    """Export a projector in the format of the path's suffix, and check that the file works.

    =========  ===================  ==============================================  ==============
    suffix     format               weights, default first                          extra
    =========  ===================  ==============================================  ==============
    ``.pt2``   torch.export         the projector's; or ``f32``, ``f16``, ``bf16``  none
    ``.onnx``  ONNX, one file       ``f32``, ``f16``, ``int8``                      ``onnx``
    ``.gguf``  llama.cpp's mmproj   ``f16``, ``f32``, ``q8_0``                      ``gguf``
    ``.pte``   ExecuTorch, XNNPACK  ``f32``, ``int8``                               ``executorch``
    =========  ===================  ==============================================  ==============

    The input is named ``x`` and the output ``y``, tokens ``(b, m, d)``; the batch is free except in
    ``.gguf``. With a grid, ``x`` is tokens ``(b, n, c)``, as the projector takes them. With
    `dynamic_grid` it is ``(b, h, w, c)`` in raster order, so its shape gives the grid; where no
    block reads the grid, it is ``(b, n, c)`` with any n.

    The file is run in its own runtime with a batch it was not traced with, and with another grid
    if the grid is free, and compared with the projector. It is moved to `path` only if it agrees;
    until then an existing file is untouched. The projector is not changed.

    An existing export is replaced if it contains the document of its projector. ``.pte`` files, and
    exports of blocks without a registered name, contain none. They, any other file and a link are
    replaced only with `replace`.

    Exports in several threads run one after the other. While one runs, the standard output and
    error of the whole process are captured, including other threads' lines, because converters
    print from C++. The captured text is printed on standard error if the export fails, and dropped
    if it succeeds.

    Args:
        projector: The projector, possibly wrapped by DataParallel, DDP or torch.compile.
        path: The file to write.
        grid: The token grid (h, w). Default: the one given at build. Not needed for blocks that do
            not read the grid.
        dynamic_grid: Leave the grid free.
        weights: How to store the weights; ``bfloat16`` means ``bf16``, and so on.
        opset: ONNX only: the opset, 18 to 23. Default: 20.
        tower: GGUF only: the folder of the CLIP or SigLIP vision tower to include.
        max_batch: ExecuTorch only: the largest batch, for which memory is reserved. Default: 4.
            The sides of a free grid may be up to twice those of `grid`.
        replace: Whether an existing file may be replaced, whoever wrote it. Of a link, the link
            itself is replaced.
        progress: Called with the name of each stage as it begins.

    Raises:
        ExportError: `projector` is not a projector or cannot be copied, the format cannot express
            it, the format's packages are not installed, the file's outputs differ from the
            projector's, or an existing file may not be replaced.
        GridError: A block does not take the grid.
        OSError: The file cannot be written.
    """
    projector = unwrap(projector, ExportError).native()
    path = Path(path)
    file_format = find_format(path)
    given = {"opset": opset, "tower": tower, "max_batch": max_batch}
    options = {name: value for name, value in given.items() if value is not None}
    for name in options:
        if name not in file_format.options:
            raise ExportError(f"{path.suffix} does not take this option", name)
    weights = file_format.weights(projector) if weights is None else short_name(str(weights))
    if weights not in file_format.tolerance:
        raise ExportError(quote(weights), "weights", f"one of {', '.join(file_format.tolerance)}")
    tolerance = file_format.tolerance[weights]
    check_target(path, path.suffix, file_format.is_ours, ExportError, replace=replace)
    if not path.absolute().parent.is_dir():
        raise ExportError("its folder does not exist", str(path), "a file to write")

    if dynamic_grid and not file_format.free:
        raise ExportError(f"{path.suffix} supports only one grid", "dynamic_grid", "a fixed grid")
    asked = check_grid(grid) if grid is not None else projector.grid
    sides = file_format.grid(asked, options)
    frozen = _freeze(projector, file_format.dtype(weights))
    signature = export_signature(frozen, sides, dynamic_grid=dynamic_grid)
    signature = file_format.restrict(signature, options)
    try:
        document = dump_spec(projector.spec)
    except RegistryError:  # a block without a registered name: the file works without its document
        document = ""
    job = Job(frozen, signature, dynamic_grid, weights, document, options)
    file_format.refuse(job)

    with torch.no_grad(), quiet() as output:
        # Not before quiet(): eager would run during another thread's tracing.
        expected = expect(signature, tolerance if isinstance(tolerance, torch.dtype) else None)

        def report_progress(stage: str) -> None:
            if progress is not None:
                with output.paused():
                    progress(stage)

        try:
            data = file_format.write(job, report_progress)
            report_progress("Running the file")
            loaded = file_format.load(job, data)
        except (MobileVLMError, OSError):
            raise
        except Exception as error:
            raise ExportError(
                f"the exporter failed: {describe_error(error)}",
                str(path),
                hint="Its output is printed above this message.",
            ) from error
        _keep_free(signature.dims, loaded.inputs, path)
        checks = check_outputs(loaded, expected, tolerance, path)
        report_progress("Timing the file")
        report = Report(
            path=str(path),
            format=path.suffix.removeprefix("."),
            weights=weights,
            bytes=len(data),
            inputs=loaded.inputs,
            outputs=loaded.outputs,
            versions=loaded.versions,
            checks=checks,
            time_ratio=time_ratio(loaded, signature, expected[0].x) if loaded.timed else None,
            notes=loaded.notes,
            processor=processor(),
        )
    if progress is not None:
        progress("Writing")
    replace_file(path, data)
    return report


def _keep_free(asked: Dims, found: Dims, path: Path) -> None:
    """Refuse a file in which the exporter has silently frozen an axis."""
    if len(asked) != len(found) or any(
        isinstance(name, str) and not isinstance(size, str)
        for name, size in zip(asked, found, strict=True)
    ):
        what = f"the exporter has frozen an axis: the file takes {found}"
        raise Mismatch(what, str(path), f"an input {asked}", UNWRITTEN)


def _freeze(projector: Projector, dtype: torch.dtype | None) -> Projector:
    """Copy a projector for inference, on the CPU. Weights that need no conversion are shared.

    Raises:
        ExportError: A weight is not a plain float tensor, or the projector cannot be copied.
    """
    memo: dict[int, object] = {}
    for name, parameter in projector.named_parameters():
        tensor = parameter.detach()
        if type(tensor) is not Tensor or tensor.is_meta or not tensor.is_floating_point():
            what = "on the meta device" if tensor.is_meta else type(tensor).__name__
            hint = "Load the weights without quantisation or sharding."
            found = f"a weight that is {what}, {tensor.dtype}"
            raise ExportError(found, name, "a plain float tensor", hint)
        if not tensor.numel():
            raise ExportError(
                f"an empty tensor of shape {tuple(tensor.shape)}, as sharded training leaves it",
                name,
                "all of its values",
                "Save it with save_projector(..., state_dict=...), which says how to gather it, "
                "and load that.",
            )
        memo[id(parameter)] = nn.Parameter(tensor.to("cpu", dtype), requires_grad=False)
    for buffer in projector.buffers():
        kind = dtype if buffer.is_floating_point() else None
        memo[id(buffer)] = buffer.detach().to("cpu", kind)
    try:
        return copy.deepcopy(projector, memo).eval()
    except Exception as error:
        raise ExportError(
            f"it cannot be copied: {describe_error(error)}",
            "projector",
            hint="copy.deepcopy must work: after torch.nn.utils.prune, call prune.remove.",
        ) from error
