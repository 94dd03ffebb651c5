"""What is written on the command line: ``in=1024 out=2048 grid=24x24 key=value``."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..projectors import PROJECTORS
from ..registry import MobileVLMError, quote

if TYPE_CHECKING:
    from ..projectors.stack import Stack

__all__ = ["UsageError", "call", "document", "settings", "sides"]


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
        grid = sides(text)
        if key == "grid" and not grid:
            raise UsageError(quote(text), "grid", "height x width, such as grid=24x24")
        try:
            found[key] = grid or json.loads(text)
        except (ValueError, RecursionError):
            found[key] = text
    return found


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
    PROJECTORS.find(target)
    for key in ("in", "out"):
        if key not in keywords:
            if widths is None:
                example = f"mobilevlm {verb} {target} in=1024 out=2048"
                raise UsageError(f"{key!r} is missing", target, hint=f"Write: {example}")
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
