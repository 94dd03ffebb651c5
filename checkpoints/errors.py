"""The error of this room."""

from __future__ import annotations

from pathlib import Path

from ..projectors.errors import CheckpointError

__all__ = ["CheckpointError", "convert_pickle"]


def convert_pickle(path: Path) -> str:
    """Return the hint for a pickle that is not loaded."""
    return f"Convert it: convert_checkpoint({str(path)!r}, 'projector', from_pickle=True)"
