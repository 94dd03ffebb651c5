"""The picture of a comparison as a file: the same bytes each time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..blocks.core.errors import SpecError
from ..projectors.files import check_target, replace_file
from ..registry import MobileVLMError, first_line, quote
from ..registry.requirements import install_command

if TYPE_CHECKING:
    from .comparison import Comparison

__all__ = ["MatplotlibMissing", "plot"]

EXTRA = "plot"
CREATOR = "mobilevlm compare"
# What tells our files from others'; and None for what would make their bytes differ each time.
_METADATA: dict[str, dict[str, str | None]] = {
    ".pdf": {"Creator": CREATOR, "Producer": None, "CreationDate": None},
    ".png": {"Software": CREATOR},
    ".svg": {"Creator": CREATOR, "Date": None},
}


class MatplotlibMissing(MobileVLMError, ImportError):
    """Matplotlib is not installed."""


def plot(
    comparison: Comparison,
    path: str | os.PathLike[str],
    *,
    theme: Literal["light", "dark"] = "light",
    replace: bool = False,
) -> None:
    """Draw a comparison and write the picture: `Comparison.plot`, which says it all."""
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in _METADATA:
        found = f"the suffix {quote(suffix)}" if suffix else "no suffix"
        raise SpecError(found, str(path), ".png, .svg or .pdf", "Name it compare.png, say.")
    check_target(target, suffix, _is_ours, SpecError, replace=replace)
    try:
        from .drawing import THEMES, render
    except ImportError as error:
        found = f"matplotlib cannot be imported: {first_line(error)}"
        hint = f"Run: {install_command(EXTRA)}"
        raise MatplotlibMissing(found, "mobilevlm.compare", hint=hint) from error
    if theme not in THEMES:
        raise SpecError(quote(theme), "theme", " or ".join(THEMES))
    data = render(comparison, theme, suffix, _METADATA[suffix])
    try:
        replace_file(target, data)
    except OSError as error:
        raise SpecError(f"cannot be written: {error.strerror}", str(path)) from error


def _is_ours(path: Path) -> bool:
    return CREATOR.encode() in path.read_bytes()
