"""The table at the end of a page: what goes with what, and below it why something does not."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Cells", "Matrix"]

REASONS = "\nWhy not:\n\n"
Cells = dict[str, dict[str, str]]  # by row and column; a reason in full


@dataclass(frozen=True)
class Matrix:
    """The table of one page.

    Attributes:
        path: The page.
        rows: What a row is, such as "preset".
        columns: The names of the columns.
        is_value: Whether a text stands in its cell; others are reasons, below the table.
    """

    path: Path
    rows: str
    columns: Sequence[str]
    is_value: Callable[[str], bool]

    @property
    def header(self) -> str:
        return f"| {self.rows} | {' | '.join(f'`{column}`' for column in self.columns)} |"

    def read(self, page: str) -> Cells:
        """Return what stands there."""
        _, _, tail = page.partition(self.header)
        reasons = dict(re.findall(r"^- \[(\w)\] (.*)$", tail, re.MULTILINE))
        found = {}
        for line in re.findall(r"^\| `(.*) \|$", tail, re.MULTILINE):
            name, *cells = line.split(" | ")
            texts = [reasons.get(text.strip("[]"), text) for text in cells]
            found[name.strip("`")] = dict(zip(self.columns, texts, strict=True))
        return found

    def render(self, page: str, cells: Cells) -> str:
        """Return the page with these cells in place of what is there, in their order."""
        letters: dict[str, str] = {}
        rows = []
        for name, texts in cells.items():
            row = [f"`{name}`"]
            for column in self.columns:
                text = texts.get(column, "")
                if text and not self.is_value(text):
                    text = f"[{letters.setdefault(text, chr(ord('a') + len(letters)))}]"
                row.append(text)
            rows.append(f"| {' | '.join(row)} |\n")
        head = page.partition(self.header)[0]
        rule = f"|{'---|' * (1 + len(self.columns))}\n"
        why = "".join(f"- [{letter}] {text}\n" for text, letter in letters.items())
        return f"{head}{self.header}\n{rule}{''.join(rows)}{REASONS}{why}"
