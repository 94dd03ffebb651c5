"""Errors of higher rooms that stand here.

The readers of families raise `CheckpointError`; `ModelError` can be caught also where the packages
that its room needs are not installed.
"""

from __future__ import annotations

from ..registry import MobileVLMError

__all__ = ["CheckpointError", "ModelError"]


class CheckpointError(MobileVLMError, ValueError):
    """Weights that cannot be read, or do not fit the projector."""


class ModelError(MobileVLMError, ValueError):
    """A model cannot take a projector, or does not fit its processor."""
