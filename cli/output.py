"""What is printed: tables, JSON, progress bars, and errors on standard error."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stdout, suppress
from contextvars import ContextVar
from io import UnsupportedOperation
from typing import TYPE_CHECKING, Any, TextIO

import typer

from ..registry import MobileVLMError, describe_error
from .wording import reworded

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["echo", "echo_json", "echo_table", "explain", "progress_bar", "reading_bar", "reporting"]

FAILED = 1
USAGE = 2
PIPE = 141  # what a shell reports for a program that SIGPIPE has ended
LARGE = 100_000_000  # bytes that take long enough to read for a progress bar

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

    if os.environ.get("NO_COLOR"):
        options["color_system"] = None
    return Piped(**options)


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


def echo_json(value: Any) -> None:
    """Print a result as JSON."""
    echo(json.dumps(value, indent=2, allow_nan=False))


def echo_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Collection[int] = (),
    total: bool = False,
    titles: int = 1,
) -> None:
    """Print a table as aligned text, with styles on a terminal. No cell is ever cut off.

    A table that is wider than the terminal is printed in parts, one below the other. Each part
    starts with the columns that say what a row is, the first `titles`.
    """
    from ..projectors.table import align

    terminal = _results.get()
    if terminal is None or not terminal.isatty():
        echo(align(header, rows, right=right, total=total))
        return
    from rich.text import Text

    page = console(file=terminal, soft_wrap=True, highlight=False)
    for part, columns in enumerate(
        _parts(header, rows, shutil.get_terminal_size().columns, titles)
    ):
        title, rule, *lines = align(
            [header[column] for column in columns],
            [[row[column] for column in columns] for row in rows],
            right={index for index, column in enumerate(columns) if column in right},
            total=total,
        ).splitlines()
        if part:
            page.print()
        page.print(Text(title, "bold"), Text(rule, "dim"), *map(Text, lines), sep="\n")


def _parts(
    header: Sequence[str], rows: Sequence[Sequence[str]], width: int, titles: int
) -> list[list[int]]:
    """Divide the columns into parts that fit, each of which starts with the titles."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    first = list(range(titles))
    parts = [first.copy()]
    for column in range(titles, len(widths)):
        taken = sum(widths[each] + 2 for each in parts[-1])
        if len(parts[-1]) > titles and taken + widths[column] > width:
            parts.append(first.copy())
        parts[-1].append(column)
    return parts


@contextmanager
def progress_bar(
    title: str = "", *, in_bytes: bool = False, large: int = LARGE
) -> Iterator[Callable[..., None]]:
    """Draw a progress bar on standard error if that is a terminal, and remove it at the end.

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
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [TextColumn("{task.description}"), BarColumn()]
    if in_bytes:
        columns += [DownloadColumn(), TimeRemainingColumn()]
    with ExitStack() as stack:
        terminal = sys.stderr
        # A copy, because an export redirects the process's output while it draws here.
        with suppress(UnsupportedOperation):
            terminal = stack.enter_context(
                open(os.dup(terminal.fileno()), "w", encoding=terminal.encoding)
            )
        bar = Progress(
            *columns,
            console=console(file=terminal),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        stack.enter_context(bar)
        task = bar.add_task(title, total=None, visible=False)

        def update(done: int, total: int | None = None, title: str = title) -> None:
            visible = not in_bytes or (total or 0) >= large
            bar.update(task, completed=done, total=total, description=title, visible=visible)

        yield update


def reading_bar(path: str) -> AbstractContextManager[Callable[..., None]]:
    """Draw a bar of what is read; of what is fetched there may be less before it is worth one."""
    from ..checkpoints.hub import is_hub

    name = path.rstrip("/").rpartition("/")[2]
    if is_hub(path):
        return progress_bar(f"fetching {name}", in_bytes=True, large=1_000_000)
    return progress_bar(f"reading {name}", in_bytes=True)
