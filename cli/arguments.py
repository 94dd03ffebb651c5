"""Parses the arguments of a verb: ``NAME-or-FILE in=1024 out=2048 grid=24x24 key=value``."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..projectors import PROJECTORS
from ..projectors.index import advising
from ..registry import MobileVLMError, did_you_mean, quote

if TYPE_CHECKING:
    from ..projectors.stack import Stack

__all__ = [
    "UsageError",
    "bracketed",
    "call",
    "check_name",
    "document",
    "is_file",
    "is_setting",
    "parse_grid",
    "require",
    "settings",
]

_GRID = re.compile(r"([0-9]{1,9})x([0-9]{1,9})", re.ASCII)
_BRACKETED = re.compile(r"([^()]+)\((.*)\)", re.DOTALL)
_SETTING = re.compile(r"[A-Za-z_][\w-]*=", re.ASCII)
_STREAM = re.compile(r"-|/dev/stdin|/dev/fd/[0-9]{1,9}|/proc/self/fd/[0-9]{1,9}", re.ASCII)
_MODELS = {"in": "tower", "out": "lm"}  # which model gives which width
_BY_NAME = "NAME(KEY=VALUE,...), such as mlp(depth=3)"
_PYTHON = {"True": "true", "False": "false", "None": "null"}  # Python's spelling of JSON's


class UsageError(MobileVLMError):
    """The command line is wrong."""


def is_setting(word: str) -> bool:
    """Return whether a word is ``key=value``, and not a name or a file."""
    return _SETTING.match(word) is not None


def bracketed(text: str) -> tuple[str, dict[str, Any]]:
    """Return a name and the options that stand in brackets behind it, read as by `settings`.

    >>> bracketed("c-abstractor(queries=64, act=silu)")
    ('c-abstractor', {'queries': 64, 'act': 'silu'})
    >>> bracketed("ldp")
    ('ldp', {})

    Raises:
        UsageError: What is in brackets are no options.
    """
    found = _BRACKETED.fullmatch(text)
    if found is None:
        if "(" in text:
            raise UsageError("a bracket is not closed", text, _BY_NAME)
        return text, {}
    name, inside = found.groups()
    inside = inside.strip().removesuffix(",")
    # A comma may stand in a value too, as in sizes=[8,12].
    options = re.split(rf",\s*(?={_SETTING.pattern})", inside) if inside else []
    for option in options:
        if not is_setting(option):
            raise UsageError(quote(option), text, _BY_NAME)
    return name.strip(), settings(options)


def settings(words: Iterable[str], *, several_grids: bool = False) -> dict[str, Any]:
    """Turn ``key=value`` words into keyword arguments; a value is read as JSON if possible.

    >>> settings(["in=1024", "grid=24x18", "act=silu"])
    {'in': 1024, 'grid': (24, 18), 'act': 'silu'}

    Args:
        words: The words.
        several_grids: Whether ``grid`` is a list: ``grid=24x24,16x32``.

    Raises:
        UsageError: A word has no ``=``, or a key is given twice.
    """
    found: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise UsageError(quote(word), expected="key=value, such as in=1024 or grid=24x24")
        key = key.replace("-", "_")
        key = "in" if key == "in_" else key
        if key == "spec":
            raise UsageError(
                "'spec' is not an option", hint="Name the projector or its file first."
            )
        if key in found:
            raise UsageError(f"{key!r} is given twice")
        if key in _MODELS.values():  # a path, whatever it looks like
            found[key] = text
            continue
        if key == "grid" and several_grids:
            found[key] = [parse_grid(each, key) for each in text.split(",")]
            continue
        if key == "grid" or _GRID.fullmatch(text):
            found[key] = parse_grid(text, key)
            continue
        try:
            found[key] = json.loads(_PYTHON.get(text, text))
        except (ValueError, RecursionError):
            found[key] = text
    return found


def parse_grid(text: str, where: str) -> tuple[int, int]:
    """Return the height and width of ``24x18``.

    Raises:
        UsageError: It is not a grid.
    """
    grid = _GRID.fullmatch(text)
    if grid:
        return int(grid[1]), int(grid[2])
    side = re.fullmatch(r"[0-9]{1,9}", text, re.ASCII)
    hint = f"For a square of that side write {text}x{text}." if side else ""
    raise UsageError(quote(text), where, "height x width, such as 24x24", hint)


def call(
    target: str,
    words: Iterable[str],
    verb: str,
    *,
    widths: Mapping[str, int] | None = None,
    needs_grid: bool = False,
) -> dict[str, Any]:
    """Return the keyword arguments of `plan_projector` for ``NAME-or-FILE key=value ...``.

    Args:
        target: The path of a file (``.json``), a registered name, or the path of any other file.
        words: The ``key=value`` words.
        verb: The verb that is running, for the example in a message.
        widths: The widths of a name for which none are given.
        needs_grid: Whether the verb cannot do without a grid.

    Raises:
        UsageError: A word is wrong, or the widths of a name or the grid are missing.
        SpecError: The file cannot be read, or is not a valid document.
    """

    def command(name: str, options: Mapping[str, Any]) -> str:
        grid = ["grid=24x24"] * needs_grid
        given = [f"{key}={value}" for key, value in options.items()]
        return " ".join([f"mobilevlm {verb} {name} in=1024 out=2048", *grid, *given])

    keywords = settings(words)
    if is_file(target):
        keywords["spec"] = document(target)
    else:
        check_name(target, command)
        missing = [key for key, model in _MODELS.items() if model not in keywords]
        defaults = {key: width for key, width in (widths or {}).items() if key in missing}
        keywords = {"spec": target, **defaults, **keywords}
        for key in missing:
            hint = f"Write: mobilevlm {verb} {target} in=1024 out=2048"
            require(key, keywords, target, hint)
    if needs_grid:
        if "tower" in keywords and "grid" not in keywords:
            _take_grid(keywords)
        require("grid", keywords, target, "Write grid=24x24.")
    return keywords


def _take_grid(keywords: dict[str, Any]) -> None:
    """Add the tower's grid, unless it takes images of any size."""
    from ..projectors.tower import read_tower

    tower = keywords["tower"] = read_tower(keywords["tower"])
    if tower.grid is not None:
        keywords["grid"] = tower.grid


def require(key: str, keywords: Mapping[str, Any], target: str, hint: str) -> None:
    """Refuse a call without a key; a key that looks like it is named in place of the hint.

    Raises:
        UsageError: The key is missing.
    """
    if key not in keywords:
        near = [other for other in keywords if did_you_mean(other, [key])]
        hint = f"Did you write {near[0]!r} for it?" if near else hint
        raise UsageError(f"{key!r} is missing", target, hint=hint)


def is_file(target: str) -> bool:
    """Return whether a target is a document to be read, and not a registered name."""
    is_document = _STREAM.fullmatch(target) or target.endswith(".json")
    return bool(is_document) or (target not in PROJECTORS and os.path.isfile(target))


def check_name(name: str, written: Callable[[str, Mapping[str, Any]], str]) -> None:
    """Look a registered name up, without importing anything.

    Args:
        name: The name.
        written: Writes a family with its options for this verb, where the name is a model's.

    Raises:
        RegistryError: There is no such name, or it is a model's.
        SpecError: It is the path of a folder or of a checkpoint.
    """
    if name not in PROJECTORS and os.path.lexists(name):
        from ..projectors.lookup import refuse_path

        refuse_path(name)
    with advising(name, written):
        PROJECTORS.find(name)


def document(file: str) -> Stack:
    """Read a document from a file, from standard input (``-``) or from a shell's pipe.

    Any other pipe is refused, as by `load_spec`: reading one that nobody writes to never ends.

    Raises:
        SpecError: It cannot be read, or is not a valid document.
    """
    from ..projectors.document import MAX_BYTES, load_spec, parse_spec

    if not _STREAM.fullmatch(file):
        return load_spec(Path(file))
    try:
        with open(0 if file == "-" else file, "rb", closefd=file != "-") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", file, "a JSON document") from error
    return parse_spec(data, file)
