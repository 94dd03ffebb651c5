"""The errors of exports."""

from __future__ import annotations

from ..registry import MobileVLMError

__all__ = ["ExportError", "Mismatch"]


class ExportError(MobileVLMError, ValueError):
    """A projector cannot be exported, or an exported file does not work."""


class Mismatch(ExportError):
    """The outputs of an exported file differ from the projector's; the file is not kept."""
