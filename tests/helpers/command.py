"""The command line, in this process and on a terminal of its own."""

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import IO

from typer.testing import CliRunner

from mobilevlm.cli.app import app


def run(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(words))
    return result.exit_code, result.stdout, result.stderr


def on_a_terminal(
    *words: str, cwd: Path | None = None, stdout: IO[bytes] | None = None, **environment: str
) -> str:
    """Run on a pseudo-terminal; return what it drew, without standard output if a file takes that.

    It is read while the command runs: a terminal holds a few seconds of a progress bar, and a
    command that cannot draw the next frame waits for ever.
    """
    parent, child = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "mobilevlm.cli", *words],
        cwd=cwd,
        stdout=stdout or child,
        stderr=child,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", **environment},
    ):
        os.close(child)
        drawn = b""
        while True:
            try:
                chunk = os.read(parent, 65536)
            except OSError:  # the other end is closed
                break
            if not chunk:
                break
            drawn += chunk
    os.close(parent)
    return drawn.decode()
