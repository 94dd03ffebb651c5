"""The `mobilevlm` command: every verb is a thin call of the public API."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    from .app import app

    app()
