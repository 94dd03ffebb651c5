"""The verb that starts a package: new."""

from __future__ import annotations

import keyword
import os
import re
import shutil
import sys
from collections.abc import Iterator
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
_SUFFIX = ".in"  # of the template's files, so that no tool takes them for Python


def new(
    name: Annotated[str, typer.Argument(help="The package to start, such as my-blocks.")],
    folder: Annotated[Path | None, typer.Argument(help="Where to; default: NAME.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a package with a block and a projector of its own, ready to install.

    Example: mobilevlm new my-blocks
    """
    with reporting(debug, as_json):
        target = Path(name) if folder is None else folder
        written = _write(_check(name), target)
        if as_json:
            echo_json({"name": name, "folder": str(target), "files": written})
        else:
            typer.echo("\n".join(str(target / path) for path in written))
            typer.echo(f"Next: cd {quoted(str(target))} && pip install -e . pytest && pytest")


def _check(name: str) -> str:
    """Return a distribution's name whose import name is free.

    Raises:
        UsageError: It is no such name.
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


def _write(name: str, target: Path) -> list[str]:
    """Write every file of the template, all of them or none, and return their paths.

    Raises:
        UsageError: The folder is there already, or cannot be written.
    """
    if os.path.lexists(target):
        raise UsageError("it is there already", str(target), "a folder to make")
    words = {"name": name, "module": _module(name), "version": _series()}
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    written = []
    try:
        for path, text in _walk(files(__package__) / "template"):
            written.append(Template(path).substitute(words).removesuffix(_SUFFIX))
            file = beside / written[-1]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(Template(text).substitute(words), "utf-8", newline="\n")
        beside.rename(target)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise UsageError(f"cannot be written: {error.strerror}", str(target)) from error
    return sorted(written)


def _walk(folder: Traversable, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path and the text of every file below a folder of this package."""
    for item in folder.iterdir():
        if item.is_dir():
            yield from _walk(item, f"{path}{item.name}/")
        elif item.name.endswith(_SUFFIX):
            yield path + item.name, item.read_text("utf-8")


def _series() -> str:
    """Return the version of this library to two places, ``0.1``."""
    return ".".join(version("mobilevlm").split(".")[:2])
