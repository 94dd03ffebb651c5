"""Converting other projects' checkpoints to our own format, and ours to theirs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from ..projectors.files import check_target, replace_file
from .errors import CheckpointError
from .hub import is_hub
from .inspection import Inspection, inspect_known
from .load import open_projector, read_projector
from .mapping import find_layout, to_upstream
from .names import CONFIG, WEIGHTS
from .request import ModuleNames, Request, Spec
from .save import check_folder, local_path, save_projector
from .weights import ProgressCallback

__all__ = ["convert_checkpoint"]


def convert_checkpoint(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    from_pickle: bool = False,
    to: str | None = None,
    prefix: str = "",
    root: str | None = None,
    family: str | None = None,
    spec: Spec | None = None,
    module_names: ModuleNames | None = None,
    grid: Sequence[int] | None = None,
    prefix_tokens: int | None = None,
    token_order: str | None = None,
    tokens: int | None = None,
    dtype: torch.dtype | str | None = None,
    replace: bool = False,
    progress: ProgressCallback | None = None,
    **options: Any,
) -> Inspection:
    """Read a checkpoint's projector and write it in our own format, or under upstream's keys.

    All of it is read and its values are looked at for NaN and infinities before anything is
    written; a result is there in full or not at all.

    Args:
        path: What `load_projector` takes; with `from_pickle` a file of ``torch.save``, such as
            ``mm_projector.bin``, or a folder with one, with shards of ``pytorch_model.bin``, or
            of torch.distributed.checkpoint.
        out: A folder as `save_projector` writes it; with `to` a safetensors file.
        from_pickle: Read a pickle, by torch's restricted loader; nothing in it is run. Needs torch
            2.11 or later.
        to: The layout whose keys to write, such as ``mlp`` for LLaVA; see `to_upstream`.
        prefix: What to put before these keys, such as ``model.mm_projector.``.
        root: What stands before the projector's keys; this and the next six are those of
            `load_projector`.
        family: The family that it is of.
        spec: Its document.
        module_names: The checkpoint's names of the document's modules.
        grid: The token grid (h, w), for a projector that cannot be built without one.
        prefix_tokens: How many leading tokens to drop on entry.
        token_order: The order of the input tokens.
        tokens: How many tokens are to come out, in place of the option of the `family` that
            decides it; see `build_projector`.
        dtype: The dtype to write or its name, ``"bf16"``; default: that of the checkpoint.
        replace: Whether what is at `out` may be replaced, whoever wrote it. Without it, only an
            earlier result in our own format is, as by `save_projector`; what is read never is.
        progress: Called with the number of bytes that are read, and of all that will be.
        **options: Options of the family.

    Returns:
        What the checkpoint holds.

    Raises:
        CheckpointError: The checkpoint cannot be read, no projector is recognised in it, its
            values are not finite, or `out` is taken.
        GridError: The grid does not fit.
        RegistryError: There is no such family, or its plugin is broken.
        SpecError: The dtype is not a floating-point one; the document or an option does not fit.
        OSError: `out` cannot be written.
    """
    request = Request.of(
        root=root,
        family=family,
        spec=spec,
        module_names=module_names,
        grid=grid,
        prefix_tokens=prefix_tokens,
        token_order=token_order,
        tokens=tokens,
        options=options,
    )
    target = local_path(out)
    if to is None:
        is_file = target.suffix.lower() == ".safetensors"
        instead = ", or write a file in a layout of upstream's, with to=LAYOUT" if is_file else ""
        check_folder(target, replace=replace, instead=instead)
    else:
        find_layout(to)  # before much is read in vain
        # Upstream's keys do not show that this library wrote a file.
        check_target(
            target, ".safetensors", lambda _: False, CheckpointError, replace=replace, devices=True
        )
    if not is_hub(path) and _holds(target, Path(path), folder=to is None):
        raise CheckpointError(
            "it is what is read", str(target), "another place", "Name another, and keep this one."
        )
    weights, recognised = open_projector(path, request, pickled=from_pickle)
    inspection = inspect_known(weights, recognised)
    projector = read_projector(
        weights, recognised, grid=grid, dtype=dtype, check_values=True, progress=progress
    )
    if to is None:
        save_projector(projector, target, replace=replace)
        return inspection
    state = {prefix + key: tensor for key, tensor in to_upstream(projector, to).items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    replace_file(target, save(state, {"format": "pt"}))
    return inspection


def _holds(target: Path, source: Path, *, folder: bool) -> bool:
    """Return whether writing would replace what is read, or write into the folder it is in."""
    written = [target / WEIGHTS, target / CONFIG] if folder else [target]
    if not any(map(os.path.lexists, written)):
        return False
    beside = (target, source.parent) if folder else (target.parent, source)
    return any(a.exists() and b.exists() and a.samefile(b) for a, b in ((target, source), beside))
