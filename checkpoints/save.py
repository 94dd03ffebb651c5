"""Saving a projector: its weights, and the document that describes it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from safetensors.torch import save
from torch import Tensor, nn

from ..projectors.document import dump_spec, is_document
from ..projectors.files import check_suffix, check_target, replace_file
from ..projectors.unwrap import unwrap
from ..registry import printable, quote
from .errors import CheckpointError
from .formats.exported import DOCUMENT
from .formats.safetensors import SafetensorsFile
from .state import checked_state_dict

__all__ = ["CONFIG", "DOCUMENT", "WEIGHTS", "check_folder", "save_projector"]

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
# Files that show that a folder's weights are a whole model's.
_OTHERS = ("model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def save_projector(
    projector: nn.Module,
    folder: str | os.PathLike[str],
    *,
    state_dict: Mapping[str, Tensor] | None = None,
    replace: bool = False,
) -> None:
    """Save a projector as a folder that `load_projector` reads.

    ``model.safetensors`` holds the weights and, in its metadata, the document, which decides what
    is loaded. ``config.json`` is a copy of it, for people, and for a file that has lost its
    metadata. The same projector gives the same bytes. Each file is replaced at once or not at all.
    Tied parameters are written one by one, so they are untied when loaded.

    An earlier result of this library is replaced. What it did not write, such as a model's folder,
    and links are replaced only with `replace`; a link is then replaced itself, and its target
    stays as it is. `convert_checkpoint` and `export_projector` keep the same rule.

    Weights that training has sharded are gathered first, on every process, and saved on one::

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = get_model_state_dict(model, options=options)  # empty but on the first process
        if torch.distributed.get_rank() == 0:
            save_projector(model, "folder", state_dict=state)

    Args:
        projector: The projector; or what DataParallel, DDP, FSDP or torch.compile made of it.
        folder: The folder; created if needed.
        state_dict: Its tensors, if it does not hold them itself, by the names of the projector's
            own `state_dict`; these may contain the names of wrappers, such as ``module.``.
        replace: Whether the two files may be replaced, whoever wrote them.

    Raises:
        CheckpointError: It is not a projector; its tensors are not those of its specification, as
            with unmerged adapters, or are sharded, or have no values; the path is not a folder, or
            the folder holds what this library did not write. Nothing is written then.
        RegistryError: A block is not registered, so no document can name it.
        OSError: The folder cannot be written.
    """
    path = Path(folder)
    check_folder(path, replace=replace)
    document = dump_spec(unwrap(projector, CheckpointError).spec)
    tensors: dict[str, Tensor] = {}
    storages: set[int] = set()
    for key, tensor in checked_state_dict(projector, state_dict).items():
        if tensor.is_meta:
            raise CheckpointError(
                "no values: it is on the meta device",
                key,
                hint="Load its weights first, or build it on another device.",
            )
        tensors[key] = tensor.contiguous()
        storage = tensors[key].untyped_storage().data_ptr()
        if storage in storages:  # the format does not allow tensors to share memory
            tensors[key] = tensors[key].clone()
        storages.add(storage)
    # One key only: with more, their order, and so the file's bytes, would differ run by run.
    data = save(tensors, {DOCUMENT: document})
    made = not path.is_dir()
    new = [path / name for name in (WEIGHTS, CONFIG) if not os.path.lexists(path / name)]
    path.mkdir(parents=True, exist_ok=True)
    try:
        replace_file(path / WEIGHTS, data)
        replace_file(path / CONFIG, document.encode())
    except BaseException:
        with suppress(OSError):
            for file in new:
                file.unlink(missing_ok=True)
            if made:
                path.rmdir()
        raise


def check_folder(path: Path, *, replace: bool, instead: str = "") -> None:
    """Refuse a folder in which saving would replace, or hide, what this library did not write.

    Raises:
        CheckpointError: It names what is there.
    """
    if not os.path.isdir(path):
        check_suffix(path, "", CheckpointError, instead)
        if os.path.lexists(path):
            there = os.path.exists(path)
            what = "a file" if there else f"a link to {quote(os.readlink(path))}, not there"
            raise CheckpointError(what, str(path), "a folder", "Name another.")
    elif not replace:
        _check_others(path)
    check_target(path / WEIGHTS, ".safetensors", _holds_document, CheckpointError, replace=replace)
    check_target(path / CONFIG, ".json", is_document, CheckpointError, replace=replace)


def _check_others(path: Path) -> None:
    """Refuse a folder with weights that readers would no longer find once ours are there."""
    others = [name for name in _OTHERS if os.path.lexists(path / name)]
    if not _holds_document(path / WEIGHTS):
        names = sorted(file.name for file in path.glob("[!.]*.safetensors"))
        others += [name for name in names if name != WEIGHTS]
    if others:
        raise CheckpointError(
            f"a folder with other weights, {printable(others[0])}, which ours would hide",
            str(path),
            "a new folder or an earlier result",
            f"Name another; replace=True writes {WEIGHTS} and {CONFIG} there all the "
            "same, over what has these names.",
        )


def _holds_document(path: Path) -> bool:
    """Return whether a file is a result of `save_projector`, and holds nothing else."""
    try:
        file = SafetensorsFile(path)
    except CheckpointError:
        return False
    return DOCUMENT in file.metadata and all(key.startswith("blocks.") for key in file.tensors)
