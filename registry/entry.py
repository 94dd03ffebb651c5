"""What is known of a registered thing without importing it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Entry"]


@dataclass(frozen=True)
class Entry:
    """What is known of a registered thing without importing it.

    Attributes:
        name: What to write to get it: short, or ``distribution/name``.
        source: The distribution it comes from; ``built-in`` or ``local`` for ours and the user's.
        version: The distribution's version; empty for ``built-in`` and ``local``.
        target: Where it lives, as ``module:qualname``.
    """

    name: str
    source: str
    version: str
    target: str

    def __str__(self) -> str:
        return f"{self.source} {self.version}".rstrip() + f" ({self.target})"
