"""The error of this room."""

from __future__ import annotations

from ..projectors.errors import ModelError

__all__ = ["ModelError"]
