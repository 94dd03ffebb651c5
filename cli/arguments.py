"""What is written on the command line: ``in=1024 out=2048 grid=24x24 key=value``."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..projectors import PROJECTORS
from ..registry import MobileVLMError, UnknownName, did_you_mean, quote

if TYPE_CHECKING:
    from ..projectors.stack import Stack

__all__ = ["UsageError", "call", "document", "no_grid", "settings", "sides"]


_PYTHON = {"True": "true", "False": "false", "None": "null"}  # read as Python writes them too


class UsageError(MobileVLMError):
    """A command line that cannot be understood."""


def settings(words: Iterable[str]) -> dict[str, Any]:
    """Turn ``key=value`` words into keywords; values are JSON where they can be, else text.

    >>> settings(["in=1024", "grid=24x18", "act=silu"])
    {'in': 1024, 'grid': (24, 18), 'act': 'silu'}

    Raises:
        UsageError: A word has no ``=``, or a key comes twice.
    """
    found: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise UsageError(quote(word), expected="key=value, such as in=1024 or grid=24x24")
        key = key.replace("-", "_")
        key = "in" if key == "in_" else key
        if key == "spec":
            raise UsageError("'spec' is no option", hint="Name the projector or its file first.")
        if key in found:
            raise UsageError(f"{key!r} is given twice")
        if key != key.lower() and key.lower() in ("in", "out", "grid"):
            raise UsageError(f"unknown key {key!r}", hint=f"Did you mean {key.lower()!r}?")
        grid = sides(text)
        if key == "grid" and not grid:
            raise no_grid(text, "grid")
        try:
            found[key] = grid or json.loads(_PYTHON.get(text, text))
        except (ValueError, RecursionError):
            found[key] = text
    return found


def no_grid(text: str, where: str) -> UsageError:
    """Return the error for a grid that is none; of one number a square may be meant."""
    square = re.fullmatch(r"[0-9]{1,9}", text, re.ASCII)
    hint = f"For a square of that side write {text}x{text}." if square else ""
    return UsageError(quote(text), where, "height x width, such as 24x24", hint)


def sides(text: str) -> tuple[int, int] | None:
    """Return the height and the width of ``24x18``; None of anything else."""
    grid = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", text, re.ASCII)
    return (int(grid[1]), int(grid[2])) if grid else None


def call(
    target: str, words: Iterable[str], verb: str, widths: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Return the keywords of `plan_projector` for ``NAME-or-FILE key=value ...``.

    Args:
        target: A file's path (``.json``), a registered name, or any other file's path.
        words: The ``key=value`` words.
        verb: The verb that is running, for the example in a message.
        widths: The widths to assume where a name is given without.

    Raises:
        UsageError: The words cannot be understood, or a name is given without widths.
        SpecError: The file cannot be read or does not fit.
    """
    keywords = settings(words)
    if _STREAM.fullmatch(target) or target.endswith(".json"):
        return {"spec": document(target), **keywords}
    if target not in PROJECTORS and os.path.isfile(target):
        return {"spec": document(target), **keywords}
    try:
        PROJECTORS.find(target)
    except UnknownName:
        if os.path.lexists(target):
            from ..projectors.lookup import refuse_path

            refuse_path(target)
        raise
    for key in ("in", "out"):
        if key not in keywords:
            if widths is None:
                near = [other for other in keywords if did_you_mean(other, [key])]
                hint = f"Write: mobilevlm {verb} {target} in=1024 out=2048"
                if near:
                    hint = f"Is {near[0]!r} meant for it?"
                raise UsageError(f"{key!r} is missing", target, hint=hint)
            keywords[key] = widths[key]
    return {"spec": target, **keywords}


def document(file: str) -> Stack:
    """Read a document from a file; from standard input, or a shell's pipe, where that is named.

    Any other pipe is refused, as `load_spec` does: one that nobody writes to would be waited for.

    Raises:
        SpecError: It cannot be read or does not fit.
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


_STREAM = re.compile(r"-|/dev/stdin|/dev/fd/[0-9]{1,9}|/proc/self/fd/[0-9]{1,9}", re.ASCII)
