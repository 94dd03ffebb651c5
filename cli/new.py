"""The verb that creates a package: new."""

from __future__ import annotations

import keyword
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from importlib.resources import files
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from pathlib import Path
from shlex import quote as quoted
from string import Template
from typing import Annotated

import typer

from ..registry import quote
from .arguments import UsageError
from .options import Debug, Json
from .output import echo_json, reporting

__all__ = ["new"]

_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*", re.ASCII)
_RULE = "lower-case ASCII letters, digits and single '-', starting with a letter, at most 64"
_SUFFIX = ".in"  # of the template's files, so that no tool takes them for Python modules


def new(
    name: Annotated[str, typer.Argument(help="The package to create, such as my-blocks.")],
    folder: Annotated[
        Path | None, typer.Argument(help="The folder to create; default: NAME.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Create a package with a block and a projector of its own, ready to install.

    Example: mobilevlm new my-blocks
    """
    with reporting(debug, as_json):
        target = Path(name) if folder is None else folder
        written = _write(_check_name(name), target)
        if as_json:
            echo_json({"name": name, "folder": str(target), "files": written})
        else:
            typer.echo("\n".join(str(target / path) for path in written))
            typer.echo(f"Next: cd {quoted(str(target))} && pip install -e . pytest && pytest")


def _check_name(name: str) -> str:
    """Return the name if a distribution can have it and nothing is imported under it yet.

    Raises:
        UsageError: Otherwise.
    """
    if not _NAME.fullmatch(name) or len(name) > 64:
        plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        hint = f"Try {plain}." if _NAME.fullmatch(plain) and len(plain) <= 64 else ""
        raise UsageError(f"{quote(name)} is not a usable package name", "new", _RULE, hint)
    module = _module(name)
    reason = ""
    if keyword.iskeyword(module):
        reason = f"{module!r} is a keyword of Python"
    elif module in sys.stdlib_module_names:
        reason = f"{module!r} is a module of Python's standard library"
    elif find_spec(module) is not None:
        reason = f"a package {module!r} is installed already"
    if reason:
        raise UsageError(reason, "new", hint=f"Try {name}-blocks.")
    return name


def _module(name: str) -> str:
    return name.replace("-", "_")


def _write(name: str, folder: Path) -> list[str]:
    """Write every file of the template, or none of them; return their paths.

    Raises:
        UsageError: The folder already exists, or cannot be written.
    """
    words = {"name": name, "module": _module(name), "version": _minor_version()}
    try:
        folder.mkdir(parents=True)
        return sorted(_fill(folder, words))
    except FileExistsError:
        raise UsageError("it already exists", str(folder), "a folder to create") from None
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", str(folder)) from error


def _fill(folder: Path, words: Mapping[str, str]) -> list[str]:
    """Write the template into a new folder; if that fails, remove the folder."""
    written = []
    try:
        for path, text in _template_files(files(__package__) / "template"):
            written.append(Template(path).substitute(words).removesuffix(_SUFFIX))
            file = folder / written[-1]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(Template(text).substitute(words), "utf-8", newline="\n")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return written


def _template_files(folder: Traversable, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path and the text of every file of the template."""
    for item in folder.iterdir():
        if item.is_dir():
            yield from _template_files(item, f"{path}{item.name}/")
        elif item.name.endswith(_SUFFIX):
            yield path + item.name, item.read_text("utf-8")


def _minor_version() -> str:
    """Return this library's version without its last part: ``0.1``."""
    return ".".join(version("mobilevlm").split(".")[:2])
