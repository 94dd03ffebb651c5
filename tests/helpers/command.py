"""The command line, in this process and on a terminal of its own."""

import os
import pty
import subprocess
import sys

from typer.testing import CliRunner

from mobilevlm.cli.app import app


def run(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(words))
    return result.exit_code, result.stdout, result.stderr


def on_a_terminal(*words: str, **environment: str) -> str:
    """Run with standard output on a pseudo-terminal; return what it drew."""
    parent, child = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "mobilevlm.cli", *words],
        stdout=child,
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
