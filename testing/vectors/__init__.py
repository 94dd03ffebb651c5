"""Test vectors, by which authors of other engines check their projectors."""

from __future__ import annotations

from .errors import VectorsError
from .write import Written, write_vectors

__all__ = ["VectorsError", "Written", "write_vectors"]
