"""Options and arguments that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

from ..registry import quote
from .arguments import UsageError, sides

__all__ = ["Debug", "Force", "Grid", "Json", "Target", "Words", "grid_of"]

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Force = Annotated[
    bool,
    typer.Option("--force", help="Replace what is there, even if this library did not write it."),
]
Grid = Annotated[
    str, typer.Option("--grid", metavar="HxW", help="The token grid, for a learned table: 24x24.")
]
Target = Annotated[str, typer.Argument(metavar="NAME-or-FILE", help="A projector or a document.")]
Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="in=1024 out=2048 grid=24x24, and options."),
]


def grid_of(text: str) -> tuple[int, int] | None:
    """Return the sides that ``--grid`` says, None where it is not given.

    Raises:
        UsageError: It is no grid.
    """
    if not text:
        return None
    grid = sides(text)
    if grid is None:
        raise UsageError(quote(text), "--grid", "height x width, such as --grid 24x24")
    return grid
