"""What can be wrong with a checkpoint."""

from __future__ import annotations

from pathlib import Path

from ..registry import MobileVLMError

__all__ = ["CheckpointError", "convert_pickle"]


class CheckpointError(MobileVLMError, ValueError):
    """Weights that cannot be read, or do not fit the projector."""


def convert_pickle(path: Path) -> str:
    """Return the advice for a pickle that is not loaded."""
    return f"Convert it: convert_checkpoint({str(path)!r}, 'projector', from_pickle=True)"
