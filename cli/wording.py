"""Advice of the Python API, said as the command line says it."""

from __future__ import annotations

import re
import shlex

__all__ = ["on_the_command_line"]

# What a message of the library may advise, and what a reader of the command line writes instead.
_PATHS = (
    ("convert_checkpoint({}, {}, from_pickle=True)", "mobilevlm convert --from-pickle {} {}"),
    ("load_projector({})", "mobilevlm inspect {}"),
    ("load_spec({})", "mobilevlm show {}"),
)
_SAYINGS = (
    (r"load_projector\(\.\.\., check_values=True\)", "mobilevlm inspect --values"),
    (r"(?:replace=True )?\(--force\)|\breplace=True\b", "--force"),
    (r"\bto=LAYOUT\b", "--to LAYOUT"),
    (r"\bfrom_pickle=True\b", "--from-pickle"),
    (r"\bdynamic_grid=True\b", "--dynamic-grid"),
    (r"\bgrid=\((\d+), (\d+)\)", r"grid=\1x\2"),
    (r"\bgrid=\(h, w\)", "grid=HxW"),
    (r"\bspec_of\b", "mobilevlm spec"),
    (r"\broot=('[^']*')", r"--root \1"),
    (r"\b([a-z_]+)='([\w-]+)'", r"\1=\2"),
)


def on_the_command_line(message: str) -> str:
    """Return a message of the library with its advice as one writes it in a shell.

    >>> on_the_command_line("Give grid=(24, 24), or dynamic_grid=True.")
    'Give grid=24x24, or --dynamic-grid.'
    >>> on_the_command_line("Write load_projector('my model').")
    "Write mobilevlm inspect 'my model'."
    """
    for python, shell in _PATHS:
        pattern = re.escape(python).replace(r"\{\}", "'([^']*)'")
        for call in re.finditer(pattern, message):
            said = shell.format(*map(shlex.quote, call.groups()))
            message = message.replace(call[0], said)
    for python, shell in _SAYINGS:
        message = re.sub(python, shell, message)
    return message
