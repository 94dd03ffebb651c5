"""What can go wrong with an export."""

from __future__ import annotations

from ..registry import MobileVLMError

__all__ = ["ExportError", "Mismatch"]


class ExportError(MobileVLMError, ValueError):
    """A projector that a format cannot express, or a file that does not do what it should."""


class Mismatch(ExportError):
    """A file that was written, and does not do what the projector does; it is not kept."""
