"""Turning other projects' checkpoints into our own format, and ours into theirs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import save

from ..projectors.files import replace_file
from ..registry import quote
from .errors import CheckpointError
from .layouts import find_layout, to_upstream
from .load import Inspection, inspect_known, read_projector, recognise_projector
from .safetensors_file import SafetensorsFile
from .save import CONFIG, DOCUMENT, WEIGHTS, save_projector
from .weights import Progress, Weights

__all__ = ["convert_checkpoint"]


def convert_checkpoint(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    from_pickle: bool = False,
    to: str | None = None,
    prefix: str = "",
    root: str | None = None,
    grid: Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
    replace: bool = False,
    progress: Progress | None = None,
) -> Inspection:
    """Read a checkpoint's projector and write it in our own format, or under upstream's keys.

    All of it is read and its values are looked at for NaN and infinities before anything is
    written; a result is there in full or not at all.

    Args:
        path: What `load_projector` takes; with `from_pickle` a file of ``torch.save``, such as
            ``mm_projector.bin``, or a folder with one or with shards of ``pytorch_model.bin``.
        out: A folder as `save_projector` writes it, new or empty; with `to` a new safetensors file.
        from_pickle: Read a pickle, by torch's restricted loader; nothing of it is run. Needs torch
            2.11 or later.
        to: The layout whose keys to write, such as ``mlp`` for LLaVA; see `to_upstream`.
        prefix: What to put before these keys, such as ``model.mm_projector.``.
        root: What stands before the projector's keys, where there are several.
        grid: The token grid (h, w), for a projector that cannot be built without one.
        dtype: The dtype to write; default: that of the checkpoint.
        replace: Whether an earlier result at `out` may be replaced; nothing else ever is.
        progress: Is told how many bytes are read, of how many.

    Returns:
        What the checkpoint holds.

    Raises:
        CheckpointError: The checkpoint cannot be read, holds no projector that is known or values
            that are not finite, or `out` is taken.
        GridError: The grid does not fit.
        SpecError: The dtype is not a floating one.
        OSError: `out` cannot be written.
    """
    target = Path(out)
    if to is not None:
        find_layout(to)  # before much is read in vain
    fresh = not os.path.lexists(target) or (to is None and _is_empty_folder(target))
    if not fresh:
        _refuse_taken(target, Path(path), replace, folder=to is None)
    weights = Weights(path, pickled=from_pickle)
    known = recognise_projector(weights, root, grid)
    inspection = inspect_known(weights, known)
    projector = read_projector(
        weights, known, grid=grid, dtype=dtype, check_values=True, progress=progress
    )
    if to is not None:
        state = {prefix + key: tensor for key, tensor in to_upstream(projector, to).items()}
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_file(target, save(state, {"format": "pt"}))
        return inspection
    try:
        save_projector(projector, target)
    except BaseException:
        if fresh:
            with suppress(OSError):
                for name in (WEIGHTS, CONFIG):
                    (target / name).unlink(missing_ok=True)
                target.rmdir()
        raise
    return inspection


def _refuse_taken(target: Path, source: Path, replace: bool, *, folder: bool) -> None:
    """Refuse to write where something is, unless it is an earlier result that may be replaced."""
    earlier = replace and _is_earlier_result(target, folder=folder)
    if earlier and not _holds(target, source, folder=folder):
        return
    names = sorted(os.listdir(target)) if target.is_dir() else []
    found = f"a folder that holds {', '.join(map(quote, names[:4]))}" if names else "already there"
    raise CheckpointError(
        f"{found}{', ...' if len(names) > 4 else ''}",
        str(target),
        "a new or an empty folder" if folder else "a new file",
        "Name another: only an earlier result is replaced, and never what is read."
        if replace
        else "Name another, or replace an earlier result with replace=True (--force).",
    )


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not os.listdir(path)


def _is_earlier_result(path: Path, *, folder: bool) -> bool:
    """Whether a folder is `save_projector`'s and nothing more, or a file is a safetensors file."""
    if folder and not (path.is_dir() and {WEIGHTS} <= {*os.listdir(path)} <= {WEIGHTS, CONFIG}):
        return False
    try:
        file = SafetensorsFile(path / WEIGHTS if folder else path)
    except CheckpointError:
        return False
    return DOCUMENT in file.metadata or not folder


def _holds(target: Path, source: Path, *, folder: bool) -> bool:
    """Whether what is read would be written over."""
    beside = (target, source.parent) if folder else (target.parent, source)
    pairs = ((target, source), beside)
    return any(b.exists() and a.samefile(b) for a, b in pairs)
