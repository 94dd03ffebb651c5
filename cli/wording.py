"""Rewords the Python API's advice for the command line."""

from __future__ import annotations

import ast
import re
import shlex
from typing import TypeVar

from ..registry import MobileVLMError, printable

__all__ = ["on_the_command_line", "reworded"]

Error = TypeVar("Error", bound=MobileVLMError)

_TEXT = r"""(?<!\w)('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
# Of a call, what stands after the path: without groups of its own.
_ARGUMENTS = r"""(?:, [a-z_]+=(?:'(?:[^'\\]|\\.)*'|\w+|\[\.\.\.\]))*"""
_INSPECT = "mobilevlm inspect {}{}"
_CONVERT = "mobilevlm convert --from-pickle {} {}{}"
_FAMILY = "--family {}{}"
# What the library's messages advise, and what to write in a shell instead.
_REWORDINGS = [
    (re.compile(python), shell)
    for python, shell in (
        (
            rf"convert_checkpoint\({_TEXT}, {_TEXT}, from_pickle=True({_ARGUMENTS})\)",
            _CONVERT,
        ),
        (rf"load_projector\({_TEXT}({_ARGUMENTS})\)", _INSPECT),
        (rf"inspect_checkpoint\({_TEXT}()\)(?:\.spec)?", _INSPECT),
        (
            rf"build_projector\({_TEXT}, (\d+), (\d+)((?:, \w+=[^,()]+)*)\)",
            "mobilevlm show {} in={} out={}{}",
        ),
        (rf"build_projector\(load_spec\({_TEXT}\)\)", "mobilevlm show {}"),
        (rf"load_spec\({_TEXT}\)", "mobilevlm show {}"),
        (r"load_projector\(\.\.\., check_values=True\)", "mobilevlm inspect --values"),
        (r"(?:replace=True )?\(--force\)|\breplace=True\b", "--force"),
        (r"\bto=LAYOUT\b", "--to LAYOUT"),
        (r"\bfrom_pickle=True\b", "--from-pickle"),
        (r"\bdynamic_grid=True\b", "--dynamic-grid"),
        (r"\bgrid=\((\d+), (\d+)\)", "grid={}x{}"),
        (r"\bgrid=\(h, w\)", "grid=HxW"),
        (r"\bspec_of\b", "mobilevlm spec"),
        (r"\b(?:spec=load_spec\('document\.json'\)|spec=document\b)", "--spec document.json"),
        (r"\bspec=(?=[.:\s])", "--spec"),
        (r"\bmodule_names=\[\.\.\.\]", "--module-names A,B"),
        (r"\bmodule_names=('[^']*')", "--module-names {}"),
        (rf"\bfamily=('[^']*')({_ARGUMENTS})", _FAMILY),
        (r"\broot=('[^']*')", "--root {}"),
        (r"\b(tokens|parameters|macs)=('[<=>][^']*')", "--{} {}"),
        (r"\b([a-z_]+)='([\w-]+)'", "{}={}"),
        (_TEXT, "{}"),  # any other quoted text is the user's own
    )
]
_ANY = re.compile("|".join(f"(?:{python.pattern})" for python, _ in _REWORDINGS))


def reworded(error: Error) -> Error:
    """Reword an error's advice for a shell, and return the error.

    Only `expected` and `hint` are reworded: `where` and `found` quote the user.
    """
    error.expected = on_the_command_line(error.expected)
    error.hint = on_the_command_line(error.hint)
    return error


def on_the_command_line(advice: str) -> str:
    """Return the library's advice as it is written in a shell; quoted text stays.

    >>> on_the_command_line("Give grid=(24, 24), or dynamic_grid=True.")
    'Give grid=24x24, or --dynamic-grid.'
    >>> on_the_command_line("Write load_projector('my model').")
    "Write mobilevlm inspect 'my model'."
    >>> on_the_command_line("Write build_projector('mlp', 1024, 2048, depth=3, act='silu').")
    "Write mobilevlm show mlp in=1024 out=2048 depth=3 act='silu'."
    """
    return _ANY.sub(_reword, advice)


def _reword(match: re.Match[str]) -> str:
    for python, shell in _REWORDINGS:
        found = python.fullmatch(match[0])
        if found:
            words = found.groups()
            if shell in (_INSPECT, _CONVERT, _FAMILY):
                *first, arguments = words
                if shell != _FAMILY:
                    first = [*map(_shell_quoted, first)]
                return shell.format(*first, on_the_command_line(arguments.replace(",", "")))
            if "mobilevlm" in shell:
                words = tuple(map(_shell_quoted, words))
            return shell.format(*words)
    return match[0]


def _shell_quoted(text: str) -> str:
    """Return a Python string literal as a word of a shell, on one line."""
    try:
        return shlex.quote(printable(ast.literal_eval(text)))
    except (SyntaxError, ValueError):  # cut off, or a call's keywords
        return text.replace(", ", " ")
