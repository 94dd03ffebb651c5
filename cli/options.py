"""Options and arguments that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

from ..blocks.core.dtypes import FLOATS, dtype_name
from ..projectors import PROJECTORS
from ..registry import did_you_mean, quote
from .arguments import UsageError, no_grid, sides

__all__ = [
    "Debug",
    "Force",
    "Grid",
    "Json",
    "Target",
    "Words",
    "complete_dtype",
    "dtype_of",
    "grid_of",
    "names",
]

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Force = Annotated[
    bool,
    typer.Option("--force", help="Replace what is there, even if this library did not write it."),
]
Grid = Annotated[
    str, typer.Option("--grid", metavar="HxW", help="The token grid, for a learned table: 24x24.")
]


def names(incomplete: str) -> list[str]:
    """Return the projectors whose names begin so, for a shell that completes a name."""
    known = PROJECTORS.names()
    if "_" in incomplete:  # which reads as "-"
        known = [name.replace("-", "_") for name in known]
    return [name for name in known if name.startswith(incomplete)]


def complete_dtype(incomplete: str) -> list[str]:
    """Return the dtypes whose names begin so, for a shell that completes one."""
    return [name for name in FLOATS if name.startswith(incomplete)]


Target = Annotated[
    str,
    typer.Argument(metavar="NAME-or-FILE", help="A projector or a document.", autocompletion=names),
]
Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="in=1024 out=2048 grid=24x24, and options."),
]


def dtype_of(text: str) -> str:
    """Return torch's name of the dtype that ``--dtype`` says.

    Raises:
        UsageError: It is none.
    """
    name = dtype_name(text)
    if name is None:
        known = [*FLOATS, *(other for others in FLOATS.values() for other in others)]
        hint = did_you_mean(text, known)
        raise UsageError(quote(text), "--dtype", f"one of {', '.join(FLOATS)}", hint)
    return name


def grid_of(text: str) -> tuple[int, int] | None:
    """Return the sides that ``--grid`` says, None where it is not given.

    Raises:
        UsageError: It is no grid.
    """
    if not text:
        return None
    grid = sides(text)
    if grid is None:
        raise no_grid(text, "--grid")
    return grid
