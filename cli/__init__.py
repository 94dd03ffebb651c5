"""The `mobilevlm` command: every verb is a thin call of the public API."""

from __future__ import annotations

import contextlib
import os
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line. Nothing is imported from the current folder."""
    # python -m puts that folder first on the path; the command mobilevlm does not.
    with contextlib.suppress(OSError):  # the folder has been deleted
        if not sys.flags.safe_path and sys.path[:1] in ([""], [os.getcwd()]):
            del sys.path[0]
    from .app import app

    app(prog_name="mobilevlm")
