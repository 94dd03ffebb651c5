"""Saving a projector: its weights, and the document that says what they are."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from ..projectors.document import dump_spec
from ..projectors.files import replace_file
from ..projectors.projector import Projector
from .errors import CheckpointError
from .state import own_state

__all__ = ["CONFIG", "DOCUMENT", "WEIGHTS", "save_projector"]

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
# One key only: with more, their order in the file, and so its bytes, would differ run by run.
DOCUMENT = "mobilevlm"


def save_projector(projector: Projector, folder: str | os.PathLike[str]) -> None:
    """Save a projector as a folder that `load_projector` reads.

    ``model.safetensors`` holds the weights and, in its metadata, the document, which alone decides
    what is loaded; ``config.json`` is a copy of it to read. The same projector gives the same
    bytes. Each file is replaced at once or not at all. Tied parameters are written one by one,
    so that they come back untied.

    Args:
        projector: The projector.
        folder: Where to; made if it is not there.

    Raises:
        CheckpointError: Its tensors are not those of its specification, as with adapters that are
            not merged, or have no values. Nothing is written then.
        RegistryError: A block is not registered, so no document can name it.
        OSError: The folder cannot be written.
    """
    document = dump_spec(projector.spec)
    tensors: dict[str, Tensor] = {}
    storages: set[int] = set()
    for key, tensor in own_state(projector).items():
        if tensor.is_meta:
            raise CheckpointError(
                "no values: it is on the meta device",
                key,
                hint="Load its weights first, or build it on another device.",
            )
        tensors[key] = tensor.contiguous()
        storage = tensors[key].untyped_storage().data_ptr()
        if storage in storages:  # the format has no two tensors in the same memory
            tensors[key] = tensors[key].clone()
        storages.add(storage)
    data = save(tensors, {DOCUMENT: document})
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    replace_file(path / WEIGHTS, data)
    replace_file(path / CONFIG, document.encode())
