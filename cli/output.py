"""What is printed: text, JSON, progress bars, and errors on standard error."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stdout, suppress
from contextvars import ContextVar
from io import UnsupportedOperation
from textwrap import fill
from typing import TYPE_CHECKING, Any, TextIO, TypeAlias

import typer

from ..registry import MobileVLMError, describe_error
from .wording import reworded

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "columns",
    "console",
    "echo",
    "echo_drawing",
    "echo_json",
    "echo_prose",
    "explain",
    "progress_bar",
    "reading_bar",
    "reporting",
    "results",
]

FAILED = 1
USAGE = 2
PIPE = 141  # what a shell reports for a program that SIGPIPE has ended
LARGE = 100_000_000  # bytes that take long enough to read for a progress bar
_ASCII = str.maketrans("│├└┌┐┘─▼", "|+++++-v")

_as_json: ContextVar[bool] = ContextVar("as_json", default=False)
_results: ContextVar[TextIO | None] = ContextVar("results", default=None)  # None: sys.stdout


@contextmanager
def reporting(debug: bool, as_json: bool = False) -> Iterator[None]:
    """Turn an error into one message and an exit status.

    Only what the functions of this module print is a result, and goes to standard output. What
    anything else prints there, such as a plugin while it is imported, goes to standard error.

    Args:
        debug: Let the error through, with its traceback.
        as_json: Whether `explain` prints JSON, one object on a line.
    """
    tokens = _as_json.set(as_json), _results.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    except MobileVLMError as error:
        if debug:
            raise
        parts = ("where", "found", "expected", "hint")
        explain(str(reworded(error)), **{key: getattr(error, key) for key in parts})
        raise typer.Exit(USAGE) from None
    except typer.Exit:
        raise
    except BrokenPipeError:  # as with `head`: the rest of the output is dropped
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(PIPE) from None
    except OSError as error:  # such as a full disk behind standard output
        explain(f"cannot write: {error.strerror}")
        raise typer.Exit(USAGE) from None
    except Exception as error:
        if debug:
            raise
        explain(f"{describe_error(error)}. This is a bug in mobilevlm; --debug shows where.")
        raise typer.Exit(FAILED) from None
    finally:
        _as_json.reset(tokens[0])
        _results.reset(tokens[1])


def console(**options: Any) -> Console:
    """Return rich's console; ``NO_COLOR`` switches every style off, bold included."""
    from rich.console import Console

    class Piped(Console):
        def on_broken_pipe(self) -> None:
            raise  # noqa: PLE0704 - rich would exit with its own status

    if _no_escapes():
        options["color_system"] = None
    return Piped(**options)


def _no_escapes() -> bool:
    return bool(os.environ.get("NO_COLOR"))


def explain(
    message: str, kind: str = "error", *, as_json: bool | None = None, **parts: str
) -> None:
    """Print an error or a note on standard error.

    Args:
        message: The message.
        kind: ``error`` or ``note``.
        as_json: Whether to print it as JSON; default: what `reporting` was called with.
        parts: Further keys of the JSON object.
    """
    if _as_json.get() if as_json is None else as_json:
        typer.echo(json.dumps({kind: message, **parts}), err=True)
        return
    from rich.text import Text

    text = Text.assemble((f"{kind}: ", "bold red" if kind == "error" else "bold"), message)
    console(stderr=True, soft_wrap=True, highlight=False).print(text)


def echo(text: object = "", *, nl: bool = True) -> None:
    """Print a result."""
    typer.echo(text, file=_results.get(), nl=nl)


def echo_prose(text: str, indent: int = 0) -> None:
    """Print a paragraph; on a terminal, further lines of it begin after `indent` spaces."""
    if results().isatty():
        text = fill(text, columns(), subsequent_indent=" " * indent, break_on_hyphens=False)
    echo(text)


def echo_json(value: Any) -> None:
    """Print a result as JSON."""
    echo(json.dumps(value, indent=2, allow_nan=False))


def echo_drawing(text: str) -> None:
    """Print a drawing made of lines, with signs of ASCII where the output has no better ones."""
    try:
        text.encode(results().encoding or "utf-8")
    except UnicodeEncodeError:
        text = text.translate(_ASCII)
    echo(text)


def results() -> TextIO:
    """Return where results are printed."""
    return _results.get() or sys.stdout


def columns() -> int:
    """Return the width of the terminal; ``COLUMNS`` sets it, and elsewhere it is 80."""
    return shutil.get_terminal_size().columns


@contextmanager
def progress_bar(
    title: str = "", *, in_bytes: bool = False, large: int = LARGE
) -> Iterator[Callable[..., None]]:
    """Draw a progress bar on standard error if that is a terminal, and remove it at the end.

    With ``NO_COLOR`` it is a line with a percentage, as a bar is drawn with escape sequences.

    Args:
        title: What is being done.
        in_bytes: Whether progress is counted in bytes. Then a bar appears only for many of them.
        large: How many these are.

    Yields:
        ``update(done, total=None, title=title)``, to be called on every change. Without a
        total the bar only shows activity.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda *_, **__: None
        return
    with ExitStack() as stack:
        terminal = sys.stderr
        # A copy, because an export redirects the process's output while it draws here.
        with suppress(UnsupportedOperation):
            terminal = stack.enter_context(
                open(os.dup(terminal.fileno()), "w", encoding=terminal.encoding)
            )
        draw = stack.enter_context((_line if _no_escapes() else _bar)(terminal, in_bytes))

        def update(done: int, total: int | None = None, title: str = title) -> None:
            draw(done, total, title, not in_bytes or (total or 0) >= large)

        yield update


_Draw: TypeAlias = Callable[[int, int | None, str, bool], None]
"""Draws what is done, of how many, under which title, and whether it is to be seen."""


@contextmanager
def _bar(terminal: TextIO, in_bytes: bool) -> Iterator[_Draw]:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [TextColumn("{task.description}"), BarColumn()]
    if in_bytes:
        columns += [DownloadColumn(), TimeRemainingColumn()]
    with Progress(
        *columns,
        console=console(file=terminal),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as bar:
        task = bar.add_task("", total=None, visible=False)
        yield lambda done, total, title, visible: bar.update(
            task, completed=done, total=total, description=title, visible=visible
        )


@contextmanager
def _line(terminal: TextIO, in_bytes: bool) -> Iterator[_Draw]:
    shown = ""

    def draw(done: int, total: int | None, title: str, visible: bool) -> None:
        nonlocal shown
        share = f" {done / total:.0%}" if total else ""
        text = f"{title}{share}"[: columns() - 1] if visible else ""
        if text != shown:
            terminal.write(f"\r{text.ljust(len(shown))}")
            terminal.flush()
            shown = text

    yield draw
    draw(0, None, "", False)
    terminal.write("\r")


def reading_bar(path: str) -> AbstractContextManager[Callable[..., None]]:
    """Draw a bar of what is read; of what is fetched there may be less before it is worth one."""
    from ..checkpoints.hub import is_hub

    name = path.rstrip("/").rpartition("/")[2]
    if is_hub(path):
        return progress_bar(f"fetching {name}", in_bytes=True, large=1_000_000)
    return progress_bar(f"reading {name}", in_bytes=True)
