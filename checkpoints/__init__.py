"""Weights in and out: our own format, and other projects' checkpoints."""

from .errors import CheckpointError
from .layouts import to_upstream
from .load import Inspection, inspect_checkpoint, load_projector
from .save import save_projector

__all__ = [
    "CheckpointError",
    "Inspection",
    "inspect_checkpoint",
    "load_projector",
    "save_projector",
    "to_upstream",
]
