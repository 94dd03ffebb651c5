"""The error of this room, and what its messages share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..projectors.errors import CheckpointError

__all__ = ["CheckpointError", "SourceError", "convert_pickle", "listed"]

_SHOWN = 8  # of a list in a message


class SourceError(CheckpointError):
    """The bytes of a checkpoint cannot be had from where they are; what they hold is not known.

    So nothing else is tried, as it is where a family does not fit.
    """


def listed(items: Sequence[str]) -> str:
    """List the first few for a message, and say how many more there are.

    >>> listed([*"abcdefghij"])
    'a, b, c, d, e, f, g, h and 2 more'
    """
    more = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def convert_pickle(path: Path | str) -> str:
    """Return the hint for a pickle that is not loaded."""
    return f"Convert it: convert_checkpoint({str(path)!r}, 'projector', from_pickle=True)"
