"""A comparison as a table for notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..projectors import html

if TYPE_CHECKING:
    from .comparison import Comparison

__all__ = ["to_html"]

_COLUMNS = 2  # of text: name and grid; those of numbers follow


def to_html(comparison: Comparison) -> str:
    """Return a comparison as HTML; rows on the Pareto front say so in words."""
    header, rows = comparison.table()
    front = {id(row) for row in comparison.pareto()}
    return html.to_html(
        header,
        rows,
        right=range(_COLUMNS, len(header)),
        marks=["Pareto front" if id(each) in front else "" for each in comparison.results],
        notes=comparison.notes(),
    )
