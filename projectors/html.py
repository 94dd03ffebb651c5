"""Tables for notebooks, as HTML."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from html import escape

from ..registry import printable

__all__ = ["to_html"]

# Colours are the notebook's own, so that the table can be read in light and in dark.
_LINE = "1px solid rgba(128, 128, 128, 0.4)"
_CELL = "padding: 0.2em 0.6em; white-space: pre"
_TEXT = f"{_CELL}; text-align: left"
_NUMBER = f"{_CELL}; text-align: right; font-variant-numeric: tabular-nums"


def to_html(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Collection[int] = (),
    total: bool = False,
    title: str = "",
    marks: Sequence[str] = (),
    notes: Iterable[str] = (),
) -> str:
    """Return a table as HTML, with its notes below it, styles inline, and no scripts.

    Args:
        header: The columns' titles.
        rows: Cells, as many in each row as there are titles; the first says what the row is.
        right: Columns to align right.
        total: Whether the last row is a total, to be set apart.
        title: What stands above the table.
        marks: What to say of each row beside its first cell, if anything.
        notes: What stands below the table, each a paragraph.
    """
    lines = ['<div style="overflow-x: auto">']
    if title:
        lines.append(_paragraph(title))
    lines += [
        # Where a page has no doctype, tables do not inherit colours.
        '<table style="border-collapse: collapse; color: inherit">',
        "<thead>",
        f'<tr style="border-bottom: {_LINE}">{_cells("th", "col", header, right)}</tr>',
        "</thead>",
        "<tbody>",
    ]
    for number, (name, *cells) in enumerate(rows):
        mark = f" <em>{_escape(marks[number])}</em>" if marks and marks[number] else ""
        first = f'<th scope="row" style="{_TEXT}; font-weight: inherit">{_escape(name)}{mark}</th>'
        weight = "; font-weight: bold" if total and number == len(rows) - 1 else ""
        others = _cells("td", "", cells, right, start=1)
        lines.append(f'<tr style="border-bottom: {_LINE}{weight}">{first}{others}</tr>')
    return "\n".join([*lines, "</tbody>", "</table>", *map(_paragraph, notes), "</div>"])


def _cells(
    tag: str, scope: str, texts: Iterable[str], right: Collection[int], start: int = 0
) -> str:
    said = f' scope="{scope}"' if scope else ""
    return "".join(
        f'<{tag}{said} style="{_NUMBER if column in right else _TEXT}">{_escape(text)}</{tag}>'
        for column, text in enumerate(texts, start)
    )


def _paragraph(text: str) -> str:
    return f'<p style="margin: 0.4em 0.6em">{_escape(text)}</p>'


def _escape(text: str) -> str:
    return escape(printable(text, keep="\n"))
