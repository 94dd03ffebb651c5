"""Options and arguments that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..blocks.core.dtypes import FLOATS, dtype_name
from ..projectors import PROJECTORS
from ..registry import did_you_mean, quote
from .arguments import UsageError, parse_grid

__all__ = [
    "Debug",
    "Family",
    "Force",
    "Grid",
    "Json",
    "ModuleNames",
    "NameOrFile",
    "PrefixTokens",
    "Root",
    "Spec",
    "TokenOrder",
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
    str, typer.Option("--grid", metavar="HxW", help="The token grid, for learned positions: 24x24.")
]


Root = Annotated[
    str | None, typer.Option(help="The prefix of its keys, where there are several projectors.")
]
Spec = Annotated[
    Path | None, typer.Option(help="A document of the projector, where nothing describes it.")
]
ModuleNames = Annotated[
    str | None,
    typer.Option(
        metavar="A,B",
        help="With --spec: its modules' names in the checkpoint, in order of use; or a layout.",
    ),
]
PrefixTokens = Annotated[
    int | None, typer.Option(help="How many leading tokens (CLS, registers) to drop on entry.")
]
TokenOrder = Annotated[
    str | None, typer.Option(help="The order of the input tokens, as in a document.")
]


def names(incomplete: str) -> list[str]:
    """Return the projector names and aliases that a shell offers as completions."""
    known = PROJECTORS.names()
    if "_" in incomplete:  # which stands for "-"
        known = [name.replace("-", "_") for name in known]
    known = sorted({*known, *PROJECTORS.aliases()})
    return [name for name in known if name.startswith(incomplete)]


def complete_dtype(incomplete: str) -> list[str]:
    """Return the dtypes that a shell offers as completions."""
    return [name for name in FLOATS if name.startswith(incomplete)]


NameOrFile = Annotated[
    str,
    typer.Argument(metavar="NAME-or-FILE", help="A projector or a document.", autocompletion=names),
]
Family = Annotated[
    str | None,
    typer.Option(
        help="The family that it is of, where the config names no model that is known.",
        autocompletion=names,
    ),
]
Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="in=1024 out=2048 grid=24x24, or tower=FOLDER lm=FOLDER, and options.",
    ),
]


def dtype_of(text: str) -> str:
    """Return torch's name of the dtype that ``--dtype`` names.

    Raises:
        UsageError: It is not a floating dtype.
    """
    name = dtype_name(text)
    if name is None:
        known = [*FLOATS, *(other for others in FLOATS.values() for other in others)]
        hint = did_you_mean(text, known)
        raise UsageError(quote(text), "--dtype", f"one of {', '.join(FLOATS)}", hint)
    return name


def grid_of(text: str) -> tuple[int, int] | None:
    """Return the height and width that ``--grid`` gives; None if it is not given.

    Raises:
        UsageError: It is not a grid.
    """
    return parse_grid(text, "--grid") if text else None
