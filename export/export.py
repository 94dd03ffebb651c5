"""One verb for every format: choose it by suffix, write, run again, compare, and only then keep."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..blocks.core.dtypes import short_name
from ..blocks.core.feature import check_grid
from ..projectors.document import dump_spec
from ..projectors.files import check_target, replace_file
from ..projectors.projector import Projector
from ..projectors.unwrap import unwrap
from ..registry import MobileVLMError, RegistryError, quote, told
from .axes import Dims
from .check import UNWRITTEN, compare, expect, time_ratio
from .door import open_door
from .earlier import is_ours
from .errors import ExportError, Mismatch
from .noise import quiet
from .processor import processor
from .report import Report
from .target import Job, Tell, find_target

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
    progress: Tell | None = None,
) -> Report:
    """Export a projector in the format of the path's suffix, and prove that the file works.

    | suffix | format | weights, the default first | extra |
    |---|---|---|---|
    | ``.pt2`` | torch.export | those of the projector; or ``f32``, ``f16``, ``bf16`` | - |
    | ``.onnx`` | ONNX, one file | ``f32``, ``int8`` | ``onnx`` |
    | ``.gguf`` | llama.cpp's mmproj | ``f16``, ``f32``, ``q8_0`` | ``gguf`` |
    | ``.pte`` | ExecuTorch, XNNPACK | ``f32``, ``int8`` | ``executorch`` |

    The input is called ``x`` and the output ``y``, tokens ``(b, m, d)``; the batch is free, but for
    ``.gguf``. With a grid, ``x`` is tokens ``(b, n, c)``, as the projector takes them. With
    `dynamic_grid` it is ``(b, h, w, c)`` in raster order, which shows its own grid; where no block
    reads the grid, it is ``(b, n, c)`` with any n.

    The file is run in its own runtime with a batch it was not traced with, and with another grid
    if that is free, and compared with the projector; it gets its name only if it agrees. What was
    there before is untouched until then. The projector is not changed.

    An earlier export is replaced where it holds the document of its projector, as all do but
    ``.pte`` and those of blocks without a name; any other file, and a link, only with `replace`.

    In threads, exports run one after the other. Meanwhile the standard output and error of the
    whole process are held back, other threads' lines too, as converters print from C++: what
    was held back is shown, on standard error, if the export fails, and is dropped if it succeeds.

    Args:
        projector: The projector; or what DataParallel, DDP or torch.compile made of it.
        path: The file to write.
        grid: The token grid (h, w); default: the one given at build. Blocks that do not read the
            grid need none.
        dynamic_grid: Leave the grid free.
        weights: How to keep the weights; ``bf16`` is ``bfloat16`` too, and so on.
        opset: ONNX only: the opset, 18 to 23; default 20.
        tower: GGUF only: the folder of the CLIP or SigLIP vision tower, to make the file whole.
        max_batch: ExecuTorch only: the largest batch, for which memory is set aside; default 4.
            A free grid has sides of up to twice the given.
        replace: Whether what is there may be replaced, whoever wrote it; of a link, the link.
        progress: Is told what is being done.

    Raises:
        ExportError: It is no projector, the format cannot express it, its packages are not
            installed, the projector cannot be copied, the file does not do what the projector
            does, or something else is there.
        GridError: A block does not take the grid.
        OSError: The file cannot be written.
    """
    projector = unwrap(projector, ExportError).native()
    path = Path(path)
    target = find_target(path)
    given = {"opset": opset, "tower": tower, "max_batch": max_batch}
    options = {name: value for name, value in given.items() if value is not None}
    for name in options:
        if name not in target.options:
            raise ExportError(f"{path.suffix} does not take it", name)
    weights = target.weights(projector) if weights is None else short_name(str(weights))
    if weights not in target.tolerance:
        raise ExportError(quote(weights), "weights", f"one of {', '.join(target.tolerance)}")
    tolerance = target.tolerance[weights]
    check_target(path, path.suffix, is_ours, ExportError, replace=replace)
    if not path.absolute().parent.is_dir():
        raise ExportError("its folder is not there", str(path), "a file to write")

    if dynamic_grid and not target.free:
        raise ExportError(f"{path.suffix} holds one grid", "dynamic_grid", "a fixed grid")
    asked = check_grid(grid) if grid is not None else projector.grid
    sides = target.grid(asked, options)
    frozen = _freeze(projector, target.dtype(weights))
    door = target.door(open_door(frozen, sides, dynamic_grid=dynamic_grid), options)
    try:
        document = dump_spec(projector.spec)
    except RegistryError:  # a block without a name: the file works, but cannot say what it is
        document = ""
    job = Job(frozen, door, sides, dynamic_grid, weights, document, options)
    target.refuse(job)

    with torch.no_grad(), quiet() as noise:
        # No earlier: it would see another thread's tracing.
        expected = expect(door, tolerance if isinstance(tolerance, torch.dtype) else None)

        def say(stage: str) -> None:
            if progress is not None:
                with noise.aside():
                    progress(stage)

        try:
            data = target.write(job, say)
            say("Running it again")
            loaded = target.load(job, data)
        except (MobileVLMError, OSError):
            raise
        except Exception as error:
            raise ExportError(
                f"the exporter failed: {told(error)}",
                str(path),
                hint="What it printed stands before this message.",
            ) from error
        _keep_free(door.dims, loaded.inputs, path)
        checks = compare(loaded, expected, tolerance, path)
        say("Timing it")
        report = Report(
            path=str(path),
            format=path.suffix.removeprefix("."),
            weights=weights,
            bytes=len(data),
            inputs=loaded.inputs,
            outputs=loaded.outputs,
            versions=loaded.versions,
            checks=checks,
            time_ratio=time_ratio(loaded, door, expected[0].x) if loaded.timed else None,
            notes=loaded.notes,
            processor=processor(),
        )
    if progress is not None:
        progress("Writing")
    replace_file(path, data)
    return report


def _keep_free(asked: Dims, found: Dims, path: Path) -> None:
    """Refuse a file that froze an axis without a word."""
    if len(asked) == len(found):
        frozen = [
            f"{axis} ({name}) at {size}"
            for axis, (name, size) in enumerate(zip(asked, found, strict=True))
            if isinstance(name, str) and not isinstance(size, str)
        ]
        if not frozen:
            return
        what = f"the file has frozen axis {', '.join(frozen)}"
    else:
        what = f"the file takes {found}"
    raise Mismatch(what, str(path), f"an input {asked}", UNWRITTEN)


def _freeze(projector: Projector, dtype: torch.dtype | None) -> Projector:
    """Copy a projector for inference, on the CPU. Weights that fit as they are, are shared.

    Raises:
        ExportError: A weight is no plain tensor of floats, or it cannot be copied.
    """
    memo: dict[int, object] = {}
    for name, parameter in projector.named_parameters():
        tensor = parameter.detach()
        if type(tensor) is not Tensor or tensor.is_meta or not tensor.is_floating_point():
            what = "on the meta device" if tensor.is_meta else type(tensor).__name__
            raise ExportError(
                f"weights that are {what}, {tensor.dtype}",
                name,
                "plain tensors of floats",
                "Load the weights, without quantisation and sharding.",
            )
        if not tensor.numel():
            raise ExportError(
                f"an empty tensor of {tuple(tensor.shape)}, as sharded training leaves it",
                name,
                "all of its numbers",
                "Save it with save_projector(..., state_dict=...), which says how to gather it, "
                "and load that.",
            )
        plain = tensor.to("cpu", dtype)
        memo[id(parameter)] = nn.Parameter(plain, requires_grad=False)
    for buffer in projector.buffers():
        kind = dtype if buffer.is_floating_point() else None
        memo[id(buffer)] = buffer.detach().to("cpu", kind)
    try:
        return copy.deepcopy(projector, memo).eval()
    except Exception as error:
        raise ExportError(
            f"it cannot be copied: {told(error)}",
            "projector",
            hint="It must pass copy.deepcopy: after torch.nn.utils.prune, call prune.remove.",
        ) from error
