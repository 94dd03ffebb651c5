"""The command: its verbs, in the order of its help."""

from __future__ import annotations

from typing import Annotated

import typer

from . import bench, checkpoint, export, plugins, zoo
from .new import new

__all__ = ["app"]

app = typer.Typer(
    name="mobilevlm",
    help="Vision-language projectors: list them, look at them, check, convert and export them.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("mobilevlm"))
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


app.command("list")(zoo.list_)
app.command()(zoo.show)
app.command()(zoo.tokens)
app.command()(zoo.spec)
app.command()(zoo.check)
app.command()(zoo.schema)
app.command()(checkpoint.inspect)
app.command()(checkpoint.convert)
app.command()(bench.bench)
app.command()(plugins.plugins)
app.command()(plugins.doctor)
app.command()(new)
app.command()(export.export)
