"""Keeping what exporters print off the terminal."""

from __future__ import annotations

import io
import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import (
    ExitStack,
    closing,
    contextmanager,
    redirect_stderr,
    redirect_stdout,
    suppress,
)

__all__ = ["Quiet", "quiet"]

_turn = threading.RLock()


class Quiet:
    """What is printed while this is on is caught, and shown on standard error on demand.

    Exporters print from C++ too, so the process's own outputs are turned away: other threads'
    lines are caught as well. Warnings are dropped, and so are those that this thread logs, where
    a handler would print them.
    """

    def __init__(self) -> None:
        self._caught = tempfile.TemporaryFile()  # noqa: SIM115
        # For a notebook's streams. Never closed: a log handler that is made meanwhile keeps it.
        self._text = io.StringIO()
        self._stack = ExitStack()

    def on(self) -> None:
        """Turn the outputs away."""
        self._stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        self._stack.enter_context(_unlogged())
        for descriptor in (1, 2):
            self._stack.enter_context(_turned(descriptor, self._caught.fileno()))
        if sys.stdout is not sys.__stdout__:
            self._stack.enter_context(redirect_stdout(self._text))
        if sys.stderr is not sys.__stderr__:
            self._stack.enter_context(redirect_stderr(self._text))

    def off(self) -> None:
        """Turn them back."""
        self._stack.close()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Let something be printed after all."""
        self.off()
        try:
            yield
        finally:
            self.on()

    def show(self) -> None:
        """Print what was caught."""
        self._caught.seek(0)
        noise = self._caught.read().decode(errors="replace") + self._text.getvalue()
        if noise and sys.stderr is not None:
            sys.stderr.write(noise)

    def close(self) -> None:
        """Drop what was caught."""
        self.off()
        self._caught.close()


@contextmanager
def quiet() -> Iterator[Quiet]:
    """Catch what the process prints meanwhile, and show it only if the body raises.

    One thread at a time is in here: outputs that overlap could not be turned back, and neither
    torch's tracer nor all converters are safe in threads.
    """
    with _turn, closing(Quiet()) as noise:
        try:
            noise.on()
            yield noise
        except BaseException:
            noise.off()
            noise.show()
            raise


@contextmanager
def _unlogged() -> Iterator[None]:
    """Keep this thread's warnings from handlers that print, and the root logger's as they are."""
    thread = threading.get_ident()

    def passes(record: logging.LogRecord) -> bool:
        return record.thread != thread or record.levelno > logging.WARNING

    # Where the root logger has none, logging.warning() gives it one, for good.
    none = logging.NullHandler()
    logging.root.addHandler(none)
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
        logging.root.removeHandler(none)


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
            with suppress(OSError):  # a full disk; the outputs are turned back all the same
                stream.flush()
