"""The verb that creates a package: new."""

from __future__ import annotations

import keyword
import re
import shutil
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from shlex import quote as quoted
from string import Template
from typing import Annotated

import typer

from ..registry import quote
from ..registry.requirements import installed_as, own_version
from .arguments import UsageError
from .options import Debug, Json
from .output import echo, echo_json, reporting

__all__ = ["new"]

_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*", re.ASCII)
_RULE = "lower-case ASCII letters, digits and single '-', starting with a letter, at most 64"
_TEMPLATE = Path(__file__).with_name("template")
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
        words = {
            "name": name,
            "module": _module_of(name),
            "distribution": installed_as(),
            "version": ".".join(own_version().split(".")[:2]),
        }
        written = _write(target, words)
        if as_json:
            echo_json({"name": name, "folder": str(target), "files": written})
        else:
            echo("\n".join(str(target / path) for path in written))
            echo(f"Next: cd {quoted(str(target))} && pip install -e . pytest && pytest")


def _module_of(name: str) -> str:
    """Return the module's name, if a package can have that name and none has it yet.

    Raises:
        UsageError: Otherwise.
    """
    if not _NAME.fullmatch(name) or len(name) > 64:
        plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        hint = f"Try {plain}." if _NAME.fullmatch(plain) and len(plain) <= 64 else ""
        raise UsageError(f"{quote(name)} is not a usable package name", "new", _RULE, hint)
    module = name.replace("-", "_")
    taken = keyword.iskeyword(module) or module in sys.stdlib_module_names
    if taken or find_spec(module) is not None:
        found = f"the name {module!r} is taken, by Python or by an installed package"
        raise UsageError(found, "new", hint=f"Try {name}-blocks.")
    return module


def _write(folder: Path, words: Mapping[str, str]) -> list[str]:
    """Write every file of the template, or none of them; return their paths.

    Raises:
        UsageError: The folder already exists, or cannot be written.
    """
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
        for source in _TEMPLATE.rglob("*" + _SUFFIX):
            path = source.relative_to(_TEMPLATE).as_posix().removesuffix(_SUFFIX)
            written.append(Template(path).substitute(words))
            file = folder / written[-1]
            file.parent.mkdir(parents=True, exist_ok=True)
            text = Template(source.read_text("utf-8")).substitute(words)
            file.write_text(text, "utf-8", newline="\n")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return written
