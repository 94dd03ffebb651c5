"""The `mobilevlm` command: every verb is a thin call of the public API."""

from __future__ import annotations

import contextlib
import os
import sys

__all__ = ["main"]

COMPLETE = "_MOBILEVLM_COMPLETE"


def main() -> None:
    """Run the command line. What lies in the current folder is not installed: it offers nothing."""
    # python -m puts that folder first on the path; the command mobilevlm does not.
    with contextlib.suppress(OSError):  # a folder that is deleted
        if not sys.flags.safe_path and sys.path[:1] in ([""], [os.getcwd()]):
            del sys.path[0]
    from .app import app

    # Click's other programs say bash_source where typer's say source_bash.
    shell, _, what = os.environ.get(COMPLETE, "").partition("_")
    if what in ("source", "complete"):
        os.environ[COMPLETE] = f"{what}_{shell}"
    app(prog_name="mobilevlm")
