"""The command and its verbs, in the order of its help."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from . import bench, checkpoint, compare, export, hub, plugins, zoo
from .info import info
from .new import new
from .options import Json
from .output import echo_json
from .vectors import vectors
from .verb import Verb, Verbs

__all__ = ["app"]

app = typer.Typer(
    cls=Verbs,
    name="mobilevlm",
    help="Vision-language projectors: list, show, check, convert and export them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def version(as_json: Json = False) -> None:
    """Show the version."""
    from ..registry.requirements import own_version

    number = own_version()
    if as_json:
        echo_json({"version": number})
    else:
        typer.echo(number)


def help_(
    context: typer.Context,
    verb: Annotated[
        str, typer.Argument(help="A verb; default: all of them.", autocompletion=lambda: [*_VERBS])
    ] = "",
) -> None:
    """Show the help of a verb."""
    root: Any = context.find_root()
    if verb:
        _, command, _ = root.command.resolve_command(root, [verb])
        command.make_context(verb, ["--help"], parent=root)
    typer.echo(root.get_help())


_VERBS: dict[str, Callable[..., None]] = {
    "list": zoo.list_,
    "info": info,
    "show": zoo.show,
    "tokens": zoo.tokens,
    "spec": zoo.spec,
    "check": zoo.check,
    "schema": zoo.schema,
    "inspect": checkpoint.inspect,
    "convert": checkpoint.convert,
    "push": hub.push,
    "compare": compare.compare,
    "bench": bench.bench,
    "plugins": plugins.plugins,
    "doctor": plugins.doctor,
    "new": new,
    "export": export.export,
    "vectors": vectors,
    "version": version,
    "help": help_,
}
for _name, _run in _VERBS.items():
    app.command(_name, cls=Verb)(_run)
