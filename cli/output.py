"""What is printed: tables, JSON, and errors on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import typer

from ..registry import MobileVLMError, told

__all__ = ["echo_json", "echo_table", "explain", "progress", "progress_bar", "reporting"]

FAILED = 1
USAGE = 2
LARGE = 100_000_000


@contextmanager
def reporting(debug: bool) -> Iterator[None]:
    """Turn an error into one message and an exit status; `debug` lets it through."""
    try:
        yield
    except MobileVLMError as error:
        if debug:
            raise
        explain(str(error))
        raise typer.Exit(USAGE) from None
    except (typer.Exit, BrokenPipeError):  # a closed pipe is typer's to handle
        raise
    except OSError as error:  # a full disk behind standard output
        explain(f"cannot write: {error.strerror}")
        raise typer.Exit(USAGE) from None
    except Exception as error:
        if debug:
            raise
        explain(f"{told(error)}. This is a fault of ours; --debug shows where.")
        raise typer.Exit(FAILED) from None


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar on standard error, where that is a terminal.

    Yields:
        What to call after each of `total` steps.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


def explain(message: str, kind: str = "error") -> None:
    """Print an error or a note on standard error, coloured only where colours are wanted."""
    from rich.console import Console
    from rich.text import Text

    text = Text.assemble((f"{kind}: ", "bold red" if kind == "error" else "bold"), message)
    Console(stderr=True, soft_wrap=True, highlight=False).print(text)


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
    """Print a table as aligned text, in colour on a terminal. Nothing is ever cut off."""
    from ..projectors.table import align

    title, rule, *lines = align(header, rows, right=right, total=total).splitlines()
    if sys.stdout is None or not sys.stdout.isatty():
        typer.echo("\n".join([title, rule, *lines]))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    console.print(Text(title, "bold"), Text(rule, "dim"), *map(Text, lines), sep="\n")


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
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False
    ) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.update(task, completed=done)
