"""Tables as plain text."""

from __future__ import annotations

from collections.abc import Collection, Sequence

__all__ = ["align", "short_count"]


def align(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Collection[int] = (),
    total: bool = False,
) -> str:
    """Return a table with aligned columns.

    >>> print(align(["name", "n"], [["ldp", "144"], ["total", "9"]], right={1}, total=True))
    name     n
    -----  ---
    ldp    144
    -----  ---
    total    9

    Args:
        header: The columns' titles.
        rows: Cells, as many in each row as there are titles.
        right: Columns to align right.
        total: Whether the last row is a total, to be set apart.
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * width for width in widths]
    body = [*rows[:-1], rule, rows[-1]] if total else rows
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (header, rule, *body)
    )


def short_count(count: int | None) -> str:
    """Format a count with three significant digits.

    >>> short_count(1_207_959_552), short_count(576), short_count(None)
    ('1.21 G', '576', '?')
    """
    if count is None:
        return "?"
    for unit, letter in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= unit:
            return f"{count / unit:.3g} {letter}"
    return str(count)
