"""Keeping what exporters print off the terminal."""

from __future__ import annotations

import io
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout

__all__ = ["quiet"]


@contextmanager
def quiet() -> Iterator[None]:
    """Catch what is printed in here, and print it on standard error only if the body raises.

    Exporters print from C++ too, so the process's own outputs are turned away meanwhile: another
    thread's lines are caught as well. Warnings are dropped.
    """
    with tempfile.TemporaryFile() as caught:
        # For a notebook's streams. Never closed: a log handler that is made in here keeps it.
        text = io.StringIO()
        try:
            with ExitStack() as stack:
                stack.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
                stack.enter_context(_turned(1, caught.fileno()))
                stack.enter_context(_turned(2, caught.fileno()))
                if sys.stdout is not sys.__stdout__:
                    stack.enter_context(redirect_stdout(text))
                if sys.stderr is not sys.__stderr__:
                    stack.enter_context(redirect_stderr(text))
                yield
        except BaseException:
            caught.seek(0)
            noise = caught.read().decode(errors="replace") + text.getvalue()
            if noise and sys.stderr is not None:
                sys.stderr.write(noise)
            raise


@contextmanager
def _turned(descriptor: int, to: int) -> Iterator[None]:
    """Turn one of the process's outputs elsewhere for a while, if it has one."""
    _flush()
    try:
        kept = os.dup(descriptor)
    except OSError:  # closed
        yield
        return
    try:
        os.dup2(to, descriptor)
        yield
    finally:
        _flush()
        os.dup2(kept, descriptor)
        os.close(kept)


def _flush() -> None:
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None and not stream.closed:
            stream.flush()
