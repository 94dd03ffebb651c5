"""What typical wrong implementations compute; one file for each part that they get wrong."""

from __future__ import annotations

from .find import Wrong, find_mistakes

__all__ = ["Wrong", "find_mistakes"]
