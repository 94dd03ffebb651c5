"""Keeping what compilers and exporters print off the terminal."""

from __future__ import annotations

import io
import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import IO

__all__ = ["Quiet", "quiet"]

_lock = threading.RLock()


class Quiet:
    """Captures what the process prints while it is on, and shows it on standard error on demand.

    Exporters print from C++ too, so the process's own outputs are redirected; this also captures
    what other threads print. Warnings are dropped, and so are the warnings that this thread logs,
    where a handler would print them.
    """

    def __init__(self, captured: IO[bytes]) -> None:
        self._captured = captured
        # For a notebook's streams. Never closed: a log handler created meanwhile keeps using it.
        self._text = io.StringIO()
        self._stack = ExitStack()

    def on(self) -> None:
        """Redirect the outputs."""
        self._stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        self._stack.enter_context(_silenced_logging())
        for descriptor in (1, 2):
            self._stack.enter_context(_redirected(descriptor, self._captured.fileno()))
        if sys.stdout is not sys.__stdout__:
            self._stack.enter_context(redirect_stdout(self._text))
        if sys.stderr is not sys.__stderr__:
            self._stack.enter_context(redirect_stderr(self._text))

    def off(self) -> None:
        """Restore the outputs."""
        self._stack.close()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Restore the outputs for the body."""
        self.off()
        try:
            yield
        finally:
            self.on()

    def show(self) -> None:
        """Print what was captured."""
        self._captured.seek(0)
        text = self._captured.read().decode(errors="replace") + self._text.getvalue()
        if text and sys.stderr is not None:
            sys.stderr.write(text)


@contextmanager
def quiet(*, show_on_error: bool = True) -> Iterator[Quiet]:
    """Capture what the process prints while the body runs.

    Only one thread at a time runs a body: redirections that overlap could not be restored, and
    neither torch's tracer nor every converter is thread-safe.

    Args:
        show_on_error: Whether the captured text is printed if the body raises.
    """
    with _lock, tempfile.TemporaryFile() as captured:
        output = Quiet(captured)
        try:
            output.on()
            yield output
        except BaseException:
            output.off()
            if show_on_error:
                output.show()
            raise
        finally:
            output.off()


@contextmanager
def _silenced_logging() -> Iterator[None]:
    """Drop this thread's log records up to warnings in handlers that print.

    The root logger keeps its handlers: where it has none, logging.warning() would add one for good.
    """
    thread = threading.get_ident()

    def passes(record: logging.LogRecord) -> bool:
        return record.thread != thread or record.levelno > logging.WARNING

    placeholder = logging.NullHandler()
    logging.root.addHandler(placeholder)
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    printing = {
        handler
        for logger in loggers
        if isinstance(logger, logging.Logger)
        for handler in logger.handlers
        if isinstance(handler, logging.StreamHandler)
        and not isinstance(handler, logging.FileHandler)
    }
    for handler in printing:
        handler.addFilter(passes)
    try:
        yield
    finally:
        for handler in printing:
            handler.removeFilter(passes)
        logging.root.removeHandler(placeholder)


@contextmanager
def _redirected(descriptor: int, to: int) -> Iterator[None]:
    """Redirect one of the process's outputs, if it is open."""
    _flush()
    try:
        original = os.dup(descriptor)
    except OSError:  # closed
        yield
        return
    try:
        os.dup2(to, descriptor)
        yield
    finally:
        _flush()
        os.dup2(original, descriptor)
        os.close(original)


def _flush() -> None:
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None and not stream.closed:
            with suppress(OSError):  # a full disk; the outputs are restored all the same
                stream.flush()
