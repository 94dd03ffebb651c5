"""A comparison as a table for notebooks."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

from ..registry import printable

if TYPE_CHECKING:
    from .comparison import Comparison

__all__ = ["to_html"]

# Colours are the notebook's own, so that the table can be read in light and in dark.
_LINE = "1px solid rgba(128, 128, 128, 0.4)"
_CELL = "padding: 0.2em 0.6em; white-space: nowrap"
_TEXT = f"{_CELL}; text-align: left"
_NUMBER = f"{_CELL}; text-align: right; font-variant-numeric: tabular-nums"
_COLUMNS = 2  # of text: name and grid; those of numbers follow


def to_html(comparison: Comparison) -> str:
    """Return a comparison as HTML: a table, its notes below it, styles inline, and no scripts.

    Rows on the Pareto front say so in a word.
    """
    header, rows = comparison.table()
    front = {id(row) for row in comparison.pareto()}
    lines = [
        '<div style="overflow-x: auto">',
        '<table style="border-collapse: collapse">',
        "<thead>",
        f'<tr style="border-bottom: {_LINE}">{"".join(_cells("th", "col", header))}</tr>',
        "</thead>",
        "<tbody>",
    ]
    for result, (name, *cells) in zip(comparison.results, rows, strict=True):
        mark = " <em>Pareto front</em>" if id(result) in front else ""
        first = f'<th scope="row" style="{_TEXT}; font-weight: inherit">{_escape(name)}{mark}</th>'
        others = "".join(_cells("td", "", cells, start=1))
        lines.append(f'<tr style="border-bottom: {_LINE}">{first}{others}</tr>')
    lines += ["</tbody>", "</table>"]
    lines += [f'<p style="margin: 0.4em 0.6em">{_escape(note)}</p>' for note in comparison.notes()]
    return "\n".join([*lines, "</div>"])


def _cells(tag: str, scope: str, texts: Iterable[str], start: int = 0) -> Iterable[str]:
    said = f' scope="{scope}"' if scope else ""
    for column, text in enumerate(texts, start):
        style = _TEXT if column < _COLUMNS else _NUMBER
        yield f'<{tag}{said} style="{style}">{_escape(text)}</{tag}>'


def _escape(text: str) -> str:
    return escape(printable(text, keep="\n"))
