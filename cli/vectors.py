"""The verb that writes test vectors for other engines: vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Debug, Force, Json, names
from .output import echo, echo_json, progress_bar, reporting

__all__ = ["vectors"]


def vectors(
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    projectors: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help="Projectors, or one with the options that the pack has for it, such as "
            "internvl-merge-3; default: all built-in families.",
            autocompletion=names,
        ),
    ] = None,
    force: Force = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write test vectors: small weights, inputs, and what is right and wrong after each block.

    The folder holds check.py, which needs NumPy alone and compares another engine's outputs with
    them. An earlier pack is replaced, any other file only with --force.

    Example: mobilevlm vectors vectors ldpnetv2 qwen2-vl
    """
    with reporting(debug, as_json):
        from ..testing.vectors import write_vectors

        with progress_bar() as update:
            written = write_vectors(
                out,
                projectors or None,
                replace=force,
                progress=lambda done, total, name: update(done, total, title=f"{name} ..."),
            )
        if as_json:
            echo_json({"folder": str(out), **written.to_dict()})
        else:
            echo(written)
            echo(f"Next: python {out / 'check.py'} --help")
