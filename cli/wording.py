"""Advice of the Python API, said as the command line says it."""

from __future__ import annotations

import ast
import re
import shlex
from typing import TypeVar

from ..registry import MobileVLMError, printable

__all__ = ["on_the_command_line", "reworded"]

Error = TypeVar("Error", bound=MobileVLMError)

_TEXT = r"""(?<!\w)('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
# What a message of the library may advise, and what a reader of the command line writes instead.
_SAYINGS = [
    (re.compile(python), shell)
    for python, shell in (
        (
            rf"convert_checkpoint\({_TEXT}, {_TEXT}, from_pickle=True\)",
            "mobilevlm convert --from-pickle {} {}",
        ),
        (rf"load_projector\({_TEXT}\)", "mobilevlm inspect {}"),
        (rf"load_spec\({_TEXT}\)", "mobilevlm show {}"),
        (r"load_projector\(\.\.\., check_values=True\)", "mobilevlm inspect --values"),
        (r"(?:replace=True )?\(--force\)|\breplace=True\b", "--force"),
        (r"\bto=LAYOUT\b", "--to LAYOUT"),
        (r"\bfrom_pickle=True\b", "--from-pickle"),
        (r"\bdynamic_grid=True\b", "--dynamic-grid"),
        (r"\bgrid=\((\d+), (\d+)\)", "grid={}x{}"),
        (r"\bgrid=\(h, w\)", "grid=HxW"),
        (r"\bspec_of\b", "mobilevlm spec"),
        (r"\broot=('[^']*')", "--root {}"),
        (r"\b([a-z_]+)='([\w-]+)'", "{}={}"),
        (_TEXT, "{}"),  # whatever else is quoted is a user's own
    )
]
_ANY = re.compile("|".join(f"(?:{python.pattern})" for python, _ in _SAYINGS))


def reworded(error: Error) -> Error:
    """Return an error with its advice as one writes it in a shell; its message agrees.

    Only `expected` and `hint` are the library's own words: `where` and `found` hold the user's.
    """
    error.expected = on_the_command_line(error.expected)
    error.hint = on_the_command_line(error.hint)
    return error


def on_the_command_line(advice: str) -> str:
    """Return advice of the library as one writes it in a shell; what is quoted stays.

    >>> on_the_command_line("Give grid=(24, 24), or dynamic_grid=True.")
    'Give grid=24x24, or --dynamic-grid.'
    >>> on_the_command_line("Write load_projector('my model').")
    "Write mobilevlm inspect 'my model'."
    """
    return _ANY.sub(_said, advice)


def _said(match: re.Match[str]) -> str:
    for python, shell in _SAYINGS:
        found = python.fullmatch(match[0])
        if found:
            words = found.groups()
            if "mobilevlm" in shell:
                words = tuple(map(_quoted, words))
            return shell.format(*words)
    return match[0]


def _quoted(text: str) -> str:
    """Return a string of Python's as a shell has it, on one line."""
    try:
        return shlex.quote(printable(ast.literal_eval(text)))
    except (SyntaxError, ValueError):  # cut off
        return text
