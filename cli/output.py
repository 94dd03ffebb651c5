"""What is printed: tables, JSON, and errors on standard error."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import typer

from ..registry import MobileVLMError, told
from .wording import reworded

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["console", "echo_json", "echo_table", "explain", "progress", "progress_bar", "reporting"]

FAILED = 1
USAGE = 2
PIPE = 141  # what a shell says of a program that a closed pipe has ended
LARGE = 100_000_000

_as_json: ContextVar[bool] = ContextVar("as_json", default=False)


@contextmanager
def reporting(debug: bool, as_json: bool = False) -> Iterator[None]:
    """Turn an error into one message and an exit status; `debug` lets it through.

    Where `as_json`, what `explain` prints is JSON too, one object on a line.
    """
    token = _as_json.set(as_json)
    try:
        yield
    except MobileVLMError as error:
        if debug:
            raise
        error = reworded(error)
        parts = {key: getattr(error, key) for key in ("where", "found", "expected", "hint")}
        explain(str(error), **parts)
        raise typer.Exit(USAGE) from None
    except typer.Exit:
        raise
    except BrokenPipeError:  # as of `head`: what is left to print is dropped
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(PIPE) from None
    except OSError as error:  # a full disk behind standard output
        explain(f"cannot write: {error.strerror}")
        raise typer.Exit(USAGE) from None
    except Exception as error:
        if debug:
            raise
        explain(f"{told(error)}. This is a fault of ours; --debug shows where.")
        raise typer.Exit(FAILED) from None
    finally:
        _as_json.reset(token)


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar on standard error, where that is a terminal.

    Yields:
        What to call after each of `total` steps.
    """
    from rich.progress import Progress

    shown = console(stderr=True)
    with Progress(console=shown, transient=True, disable=not shown.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


def console(**options: Any) -> Console:
    """Return a console of rich: without any style where ``NO_COLOR`` is set, bold included."""
    from rich.console import Console

    class Piped(Console):
        def on_broken_pipe(self) -> None:
            raise  # noqa: PLE0704 - rich would end the process with a status of its own

    if os.environ.get("NO_COLOR"):
        options["color_system"] = None
    return Piped(**options)


def explain(
    message: str, kind: str = "error", *, as_json: bool | None = None, **parts: str
) -> None:
    """Print an error or a note on standard error, coloured only where colours are wanted.

    Args:
        message: The message.
        kind: Of what kind it is: ``error`` or ``note``.
        as_json: Whether to print it as JSON; default: as the verb was asked to.
        parts: What JSON has beside the message.
    """
    if _as_json.get() if as_json is None else as_json:
        typer.echo(json.dumps({kind: message, **parts}), err=True)
        return
    from rich.text import Text

    text = Text.assemble((f"{kind}: ", "bold red" if kind == "error" else "bold"), message)
    console(stderr=True, soft_wrap=True, highlight=False).print(text)


def echo_json(value: Any) -> None:
    """Print a value as JSON."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def echo_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Collection[int] = (),
    total: bool = False,
) -> None:
    """Print a table as aligned text, in colour on a terminal. Nothing is ever cut off.

    What is wider than the terminal is printed in parts, one below the other, each of which begins
    with the first column.
    """
    from ..projectors.table import align

    if sys.stdout is None or not sys.stdout.isatty():
        typer.echo(align(header, rows, right=right, total=total))
        return
    from rich.text import Text

    page = console(soft_wrap=True, highlight=False)
    for index, columns in enumerate(_parts(header, rows, shutil.get_terminal_size().columns)):
        title, rule, *lines = align(
            [header[column] for column in columns],
            [[row[column] for column in columns] for row in rows],
            right={place for place, column in enumerate(columns) if column in right},
            total=total,
        ).splitlines()
        if index:
            page.print()
        page.print(Text(title, "bold"), Text(rule, "dim"), *map(Text, lines), sep="\n")


def _parts(header: Sequence[str], rows: Sequence[Sequence[str]], room: int) -> list[list[int]]:
    """Divide columns into parts that fit, each with the first column before its own."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    parts = [[0]]
    for column in range(1, len(widths)):
        taken = sum(widths[each] + 2 for each in parts[-1])
        if len(parts[-1]) > 1 and taken + widths[column] > room:
            parts.append([0])
        parts[-1].append(column)
    return parts


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Give what to call with the bytes done and the bytes in all, again and again.

    It draws a bar on standard error, if that is a terminal and there are many bytes, and takes it
    away in the end.
    """
    with ExitStack() as stack:
        updates: list[Callable[[int], None]] = []

        def update(done: int, total: int) -> None:
            if not updates and total >= LARGE and sys.stderr is not None and sys.stderr.isatty():
                updates.append(stack.enter_context(_bar(title, total)))
            for each in updates:
                each(done)

        yield update


@contextmanager
def _bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns,
        console=console(stderr=True),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.update(task, completed=done)
