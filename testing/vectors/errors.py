"""The errors of test vectors."""

from __future__ import annotations

from ...registry import MobileVLMError

__all__ = ["VectorsError"]


class VectorsError(MobileVLMError, ValueError):
    """Test vectors cannot be written, or there can be none of a projector."""
