"""Options and arguments that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["Debug", "Json", "Target", "Words"]

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Target = Annotated[str, typer.Argument(metavar="NAME-or-FILE", help="A projector or a document.")]
Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="in=1024 out=2048 grid=24x24, and options."),
]
