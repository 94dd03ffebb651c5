"""The verbs that look at checkpoints: inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Debug, Json
from .output import echo_json, reporting

__all__ = ["inspect"]


def inspect(
    path: Annotated[Path, typer.Argument(help="A safetensors file, or a model's folder.")],
    root: Annotated[
        str | None, typer.Option(help="What stands before its keys, if there are several.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say which projector a checkpoint holds. Reads headers and config, no weights."""
    with reporting(debug):
        from ..checkpoints.load import inspect_checkpoint

        inspection = inspect_checkpoint(path, root=root)
        if as_json:
            echo_json(inspection.to_dict())
        else:
            typer.echo(inspection)
