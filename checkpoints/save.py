"""Saving a projector: its weights, the document that describes it, and its model card."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from safetensors.torch import save
from torch import Tensor, nn

from ..projectors.document import dump_spec, is_document
from ..projectors.files import check_suffix, check_target, replace_file
from ..projectors.unwrap import unwrap
from ..registry import printable, quote
from .card import describes_another, is_card, model_card
from .errors import CheckpointError
from .formats.exported import DOCUMENT
from .formats.safetensors import SafetensorsFile
from .names import CARD, CONFIG, PICKLE, PICKLE_INDEX, WEIGHTS, WEIGHTS_INDEX
from .state import checked_state_dict

__all__ = [
    "DOCUMENT",
    "check_folder",
    "hidden_weights",
    "holds_document",
    "is_ours",
    "local_path",
    "save_projector",
    "weights_and_config",
]

# Files that show that a folder's weights are a whole model's.
_OTHERS = (WEIGHTS_INDEX, PICKLE, PICKLE_INDEX)


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
    metadata. ``README.md`` is a model card: the plan, the source of the weights as far as it is
    known, and how to load them. The same projector gives the same bytes. Each file is replaced at
    once or not at all. Tied parameters are written one by one, so they are untied when loaded.

    An earlier result of this library is replaced. What it did not write, such as a model's folder,
    and links are replaced only with `replace`; a link is then replaced itself, and its target
    stays as it is. `convert_checkpoint` and `export_projector` keep the same rule. A ``README.md``
    of somebody else's is no obstacle: it stays as it is, and there is no card then. So does a card
    that was edited: it no longer has the digest that it was written with. If that describes another
    projector, there is a warning.

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
        replace: Whether the three files may be replaced, whoever wrote them.

    Raises:
        CheckpointError: It is not a projector; its tensors are not those of its specification, as
            with unmerged adapters, or are sharded, or have no values; the path is not a folder, or
            the folder holds what this library did not write. Nothing is written then.
        RegistryError: A block is not registered, so no document can name it.
        OSError: The folder cannot be written.
    """
    path = local_path(folder)
    check_folder(path, replace=replace)
    files = weights_and_config(projector, state_dict)
    card = model_card(unwrap(projector, CheckpointError))
    if _takes_card(path / CARD, replace=replace):
        files[CARD] = card.encode()
    elif describes_another(path, card):
        warnings.warn(
            f"{path / CARD} was edited, so it stays as it is, but it describes another projector: "
            "edit it, or remove it before saving.",
            stacklevel=2,
        )
    made = not path.is_dir()
    new = [path / name for name in files if not os.path.lexists(path / name)]
    path.mkdir(parents=True, exist_ok=True)
    try:
        for name, data in files.items():
            replace_file(path / name, data)
    except BaseException:
        with suppress(OSError):
            for file in new:
                file.unlink(missing_ok=True)
            if made:
                path.rmdir()
        raise


def weights_and_config(
    projector: nn.Module, state_dict: Mapping[str, Tensor] | None = None
) -> dict[str, bytes]:
    """Return the files that make a saved projector, by name.

    Raises:
        CheckpointError: It is not a projector, or has no tensors that can be saved.
        RegistryError: A block is not registered, so no document can name it.
    """
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
    return {WEIGHTS: save(tensors, {DOCUMENT: document}), CONFIG: document.encode()}


def local_path(path: str | os.PathLike[str]) -> Path:
    """Return where to write, which is not a hub.

    Raises:
        CheckpointError: It is an address of a hub.
    """
    if os.fspath(path).startswith("hf:"):
        found, hint = "an address of a hub", "Call push_projector(projector, 'org/name')."
        raise CheckpointError(found, os.fspath(path), "a path on this machine", hint)
    return Path(path)


def _takes_card(path: Path, *, replace: bool) -> bool:
    """Return whether a card may be written: to a new file, over one of ours, or with `replace`."""
    try:
        check_target(path, ".md", is_card, CheckpointError, replace=replace)
    except CheckpointError:
        return False
    return True


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
    check_target(path / WEIGHTS, ".safetensors", holds_document, CheckpointError, replace=replace)
    check_target(path / CONFIG, ".json", is_document, CheckpointError, replace=replace)


def _check_others(path: Path) -> None:
    """Refuse a folder with weights that readers would no longer find once ours are there."""
    names = [name for name in _OTHERS if os.path.lexists(path / name)]
    names += [file.name for file in path.glob("[!.]*.safetensors")]
    others = hidden_weights(names, ours=holds_document(path / WEIGHTS))
    if others:
        raise CheckpointError(
            f"a folder with other weights, {printable(others[0])}, which ours would hide",
            str(path),
            "a new folder or an earlier result",
            f"Name another; replace=True writes {WEIGHTS} and {CONFIG} there all the "
            "same, over what has these names.",
        )


def hidden_weights(names: Iterable[str], *, ours: bool) -> list[str]:
    """Return those of a folder's files that readers would not find beside ours.

    Args:
        names: The files' names.
        ours: Whether the weights there are ours already.
    """
    names = set(names)
    others = [name for name in _OTHERS if name in names]
    if not ours:
        others += sorted(
            name
            for name in names
            if name.endswith(".safetensors") and name[0] != "." and name != WEIGHTS
        )
    return others


def holds_document(path: Path) -> bool:
    """Return whether a file is a result of `save_projector`, and holds nothing else."""
    try:
        file = SafetensorsFile(path)
    except CheckpointError:
        return False
    return is_ours(file.metadata, file.tensors)


def is_ours(metadata: Mapping[str, str], keys: Iterable[str]) -> bool:
    """Return whether what a file of weights says of itself is what `save_projector` writes."""
    return DOCUMENT in metadata and all(key.startswith("blocks.") for key in keys)
