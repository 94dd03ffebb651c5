"""The code that a saved folder carries, for ``trust_remote_code=True``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..registry.requirements import OWN, clone_first, install_own
from .upstream import EXTRA

__all__ = ["MODELING", "PROCESSING", "write_code"]

MODELING = "modeling_mobilevlm"
PROCESSING = "processing_mobilevlm"
_HOMES = {MODELING: "classes", PROCESSING: "processing"}


def write_code(beside: str | os.PathLike[str], module: str, names: Sequence[str]) -> None:
    """Write a module that imports classes of this library by name, beside a file.

    The import stands inside ``try``: transformers reads the imports of such a file, and would
    tell its user to install whatever package an index has under our name.
    """
    run = clone_first("In a clone of its repository, run: ") or "Run: "
    another = clone_first(". A package of that name on an index may be another library.")
    listed = "".join(f"        {name},\n" for name in sorted(names))
    Path(beside).with_name(f"{module}.py").write_text(
        f'''"""This model's projector was swapped with the library mobilevlm."""

try:
    from {OWN}.models.{_HOMES[module]} import (  # noqa: F401
{listed}    )
except ImportError as error:
    raise ImportError(
        "this model's projector needs the library {OWN} with its extra {EXTRA!r}. "
        {run + install_own(EXTRA) + another!r}
    ) from error
''',
        "utf-8",
    )
