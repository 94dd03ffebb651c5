"""Tables, fitted to the terminal."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from itertools import zip_longest
from textwrap import wrap
from typing import TypeAlias

from .output import columns, console, echo, results

__all__ = ["Cell", "cut", "echo_table"]

Cell: TypeAlias = str | Sequence[str]
"""Text; or names, of which those are left out that do not fit."""

_LEAST = 24  # columns to give to names and to prose; with fewer they go into a part of their own


def echo_table(
    header: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    right: Collection[int] = (),
    total: bool = False,
    titles: int = 1,
    prose: Collection[int] = (),
) -> None:
    """Print a table as aligned text, with styles on a terminal. Text is never cut off.

    A table that is wider than the terminal is printed in parts, one below the other. Each part
    starts with the columns that say what a row is, the first `titles`. Elsewhere it is in one part,
    and names take what is left of the usual 80 columns.

    Args:
        header: The columns' titles.
        rows: Cells, as many in each row as there are titles.
        right: Columns to align right.
        total: Whether the last row is a total, to be set apart.
        titles: How many columns say what a row is.
        prose: Columns of text that may go on in the next line.
    """
    from ..projectors.table import align

    terminal = results()
    on_terminal = terminal.isatty()
    elastic = {*prose, *(i for row in rows for i, cell in enumerate(row) if not _is_text(cell))}
    widths = [
        max(map(len, (title, *map(_joined, column))))
        for title, *column in zip(header, *rows, strict=True)
    ]
    parts = _parts(widths, elastic, columns(), titles, whole=not on_terminal)
    texts: list[str] = []
    for part in parts:
        body = [
            [_fitted(row[column], room, on_terminal and column in prose) for column, room in part]
            for row in rows
        ]
        texts.append(
            align(
                [header[column] for column, _ in part],
                [list(line) for row in body for line in zip_longest(*row, fillvalue="")],
                right={index for index, (column, _) in enumerate(part) if column in right},
                total=total,
            )
        )
    if not (on_terminal or os.environ.get("FORCE_COLOR")):
        echo("\n\n".join(texts))
        return
    from rich.text import Text

    page = console(file=terminal, soft_wrap=True, highlight=False)
    for number, text in enumerate(texts):
        title, rule, *lines = text.splitlines()
        if number:
            page.print()
        page.print(Text(title, "bold"), Text(rule, "dim"), *map(Text, lines), sep="\n")


def cut(names: Sequence[str], room: int) -> str:
    """Return names as a list in `room` columns, and how many are left out.

    >>> cut(["Idefics3", "SmolVLM", "nanoVLM"], 24), cut(["Idefics3", "SmolVLM"], 5)
    ('Idefics3, 2 more', '2 names')
    """
    for count in range(len(names), 0, -1):
        left = len(names) - count
        text = ", ".join([*names[:count], *([f"{left} more"] if left else [])])
        if len(text) <= room:
            return text
    return f"{len(names)} names" if names else ""


def _parts(
    widths: Sequence[int], elastic: Collection[int], width: int, titles: int, *, whole: bool
) -> list[list[tuple[int, int]]]:
    """Divide the columns into parts that fit, each of which starts with the titles.

    Returns:
        The columns of each part, with the room that each of them has.
    """
    first = [(column, widths[column]) for column in range(titles)]
    parts = [first.copy()]
    for column in range(titles, len(widths)):
        least = min(widths[column], _LEAST) if column in elastic else widths[column]
        left = width - sum(room + 2 for _, room in parts[-1])
        if left < least and len(parts[-1]) > titles and not whole:
            parts.append(first.copy())
            left = width - sum(room + 2 for _, room in first)
        parts[-1].append((column, min(widths[column], max(left, least))))
    return parts


def _fitted(cell: Cell, room: int, prose: bool) -> Sequence[str]:
    """Return the lines of a cell."""
    if not isinstance(cell, str):
        return [cut(cell, room)]
    return wrap(cell, room) if prose else [cell]


def _joined(cell: Cell) -> str:
    return cell if isinstance(cell, str) else ", ".join(cell)


def _is_text(cell: Cell) -> bool:
    return isinstance(cell, str)
