"""Errors of specifications and token grids."""

from __future__ import annotations

from ...registry import MobileVLMError

__all__ = ["GridError", "SpecError"]


class SpecError(MobileVLMError, ValueError):
    """A document, an option or a chain of blocks that does not fit."""


class GridError(MobileVLMError, ValueError):
    """An input tensor or a token grid that a projector cannot take."""
