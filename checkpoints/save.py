"""Saving a projector: its weights, and the document that says what they are."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors.torch import save

from ..projectors.document import dump_spec
from ..projectors.files import replace_file
from ..projectors.projector import Projector
from .llava import UpstreamProjector

__all__ = ["CONFIG", "DOCUMENT", "WEIGHTS", "save_projector"]

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
# One key only: with more, their order in the file, and so its bytes, would differ run by run.
DOCUMENT = "mobilevlm"


def save_projector(projector: Projector, folder: str | os.PathLike[str]) -> None:
    """Save a projector as a folder that `load_projector` reads.

    ``model.safetensors`` holds the weights and, in its metadata, the document, which alone decides
    what is loaded; ``config.json`` is a copy of it to read. The same projector gives the same
    bytes. Each file is replaced at once or not at all.

    Args:
        projector: The projector.
        folder: Where to; made if it is not there.

    Raises:
        RegistryError: A block is not registered, so no document can name it.
        OSError: The folder cannot be written.
    """
    document = dump_spec(projector.spec)
    if isinstance(projector, UpstreamProjector):
        projector = projector.native()
    state = projector.blocks.state_dict(prefix="blocks.")
    tensors = {key: tensor.contiguous() for key, tensor in state.items()}
    data = save(tensors, {DOCUMENT: document})
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    replace_file(path / WEIGHTS, data)
    replace_file(path / CONFIG, document.encode())
