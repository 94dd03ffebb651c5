"""Weights in and out: our own format, and other projects' checkpoints."""

from .convert import convert_checkpoint
from .errors import CheckpointError
from .inspection import Inspection, inspect_checkpoint
from .load import load_projector
from .mapping import to_upstream
from .push import push_projector
from .save import save_projector
from .values import Values, inspect_values

__all__ = [
    "CheckpointError",
    "Inspection",
    "Values",
    "convert_checkpoint",
    "inspect_checkpoint",
    "inspect_values",
    "load_projector",
    "push_projector",
    "save_projector",
    "to_upstream",
]
