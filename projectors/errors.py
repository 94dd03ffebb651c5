"""The error of weights that do not fit; raised by readers of families, so it stands here."""

from __future__ import annotations

from ..registry import MobileVLMError

__all__ = ["CheckpointError"]


class CheckpointError(MobileVLMError, ValueError):
    """Weights that cannot be read, or do not fit the projector."""
