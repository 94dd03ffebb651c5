"""Parses the arguments of a verb: ``NAME-or-FILE in=1024 out=2048 grid=24x24 key=value``."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..projectors import PROJECTORS
from ..registry import MobileVLMError, did_you_mean, quote

if TYPE_CHECKING:
    from ..projectors.stack import Stack

__all__ = ["UsageError", "call", "document", "parse_grid", "settings"]

_GRID = re.compile(r"([0-9]{1,9})x([0-9]{1,9})", re.ASCII)
_STREAM = re.compile(r"-|/dev/stdin|/dev/fd/[0-9]{1,9}|/proc/self/fd/[0-9]{1,9}", re.ASCII)
_MODELS = {"in": "tower", "out": "lm"}  # which model gives which width
_PYTHON = {"True": "true", "False": "false", "None": "null"}  # Python's spelling of JSON's


class UsageError(MobileVLMError):
    """The command line is wrong."""


def settings(words: Iterable[str]) -> dict[str, Any]:
    """Turn ``key=value`` words into keyword arguments; a value is read as JSON if possible.

    >>> settings(["in=1024", "grid=24x18", "act=silu"])
    {'in': 1024, 'grid': (24, 18), 'act': 'silu'}

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
    keywords = settings(words)
    is_document = _STREAM.fullmatch(target) or target.endswith(".json")
    if is_document or (target not in PROJECTORS and os.path.isfile(target)):
        keywords["spec"] = document(target)
    else:
        _check_name(target)
        missing = [key for key, model in _MODELS.items() if model not in keywords]
        defaults = {key: width for key, width in (widths or {}).items() if key in missing}
        keywords = {"spec": target, **defaults, **keywords}
        for key in missing:
            hint = f"Write: mobilevlm {verb} {target} in=1024 out=2048"
            _require(key, keywords, target, hint)
    if needs_grid:
        if "tower" in keywords and "grid" not in keywords:
            _take_grid(keywords)
        _require("grid", keywords, target, "Write grid=24x24.")
    return keywords


def _take_grid(keywords: dict[str, Any]) -> None:
    """Add the tower's grid, unless it takes images of any size."""
    from ..projectors.tower import read_tower

    tower = keywords["tower"] = read_tower(keywords["tower"])
    if tower.grid is not None:
        keywords["grid"] = tower.grid


def _require(key: str, keywords: Mapping[str, Any], target: str, hint: str) -> None:
    if key not in keywords:
        near = [other for other in keywords if did_you_mean(other, [key])]
        hint = f"Did you write {near[0]!r} for it?" if near else hint
        raise UsageError(f"{key!r} is missing", target, hint=hint)


def _check_name(name: str) -> None:
    if name not in PROJECTORS and os.path.lexists(name):
        from ..projectors.lookup import refuse_path

        refuse_path(name)
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
