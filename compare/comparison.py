"""Projectors side by side, on one ruler."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from ..blocks.core.errors import GridError, SpecError
from ..blocks.core.feature import Grid
from ..projectors.device import check_dtype
from ..projectors.packed import frames_of
from ..projectors.plan import MAX_PARAMETERS
from ..projectors.table import align, short_count
from ..registry import MobileVLMError
from .around import Around
from .asked import Asked, Spec, asked
from .cost import Cost, grids_text
from .html import to_html
from .picture import plot

__all__ = ["Comparison", "Refused", "compare_projectors", "count_reasons", "grid_sets"]

_REASONS = {"tokens": "by tokens", "parameters": "by parameters", "macs": "by MACs"}


@dataclass(frozen=True)
class Refused:
    """A projector that does not fit.

    Attributes:
        name: What was asked for.
        grids: The grid (h, w), or those of packed images.
        error: Why it does not fit.
    """

    name: str
    grids: tuple[Grid, ...]
    error: MobileVLMError

    @property
    def images(self) -> str:
        """The grids as text."""
        return grids_text(self.grids)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {"name": self.name, "grids": self.grids, "error": str(self.error)}


@dataclass(frozen=True)
class Comparison:
    """Projectors side by side; printed, it is a table.

    Attributes:
        results: What was asked for, in order: what it costs, or why it does not fit.
        remarks: What to know besides.
        left_out: Of a suggestion: what is not within the limits, or does not fit.
    """

    results: tuple[Cost | Refused, ...]
    remarks: tuple[str, ...] = ()
    left_out: tuple[Refused, ...] = ()

    @cached_property
    def rows(self) -> tuple[Cost, ...]:
        """What fits."""
        return tuple(each for each in self.results if isinstance(each, Cost))

    @cached_property
    def refused(self) -> tuple[Refused, ...]:
        """What does not fit."""
        return tuple(each for each in self.results if isinstance(each, Refused))

    def pareto(self) -> tuple[Cost, ...]:
        """Return the rows that no other one for the same images beats.

        One beats another by fewer tokens and no more MACs as run, or by fewer MACs as run and no
        more tokens. The prefill does not count in: it follows the tokens, which would count twice.
        """
        return tuple(row for row in self.rows if not any(_beats(other, row) for other in self.rows))

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return the comparison as a header and rows of text."""
        columns = self._columns()
        body = [
            [text(each) for _, text in columns]
            if isinstance(each, Cost)
            else [each.name, each.images, *("-" for _ in columns[2:])]
            for each in self.results
        ]
        return [title for title, _ in columns], body

    def notes(self) -> list[str]:
        """Return the lines to print below the table: conventions, what does not fit, traps."""
        rows = self.rows
        lines = [f"activations: in {rows[0].dtype}, of one forward, without weights."]
        if rows[0].prefill_macs is not None:
            lines.append(
                "prefill: MACs of these tokens alone in the language model; saved: the part of it "
                f"that is saved, beside as many tokens as enter; KV cache: in {rows[0].dtype}."
            )
        if rows[0].share is not None:
            lines.append(
                "share: the projector's part of the MACs of tower, projector as run and prefill."
            )
        lines += [
            f"Pareto front of the fewest tokens and MACs as run, {at}: {names}."
            for at, names in self._front().items()
        ]
        if self.left_out:
            lines.append(f"{len(self.left_out)} left out: {count_reasons(self.left_out)}.")
        lines += self.remarks
        lines += [f"{each.name} on {each.images}: {each.error}" for each in self.refused]
        notes: dict[str, dict[str, None]] = {}
        for row in rows:
            if row.note:
                notes.setdefault(row.note, {})[row.name] = None
        return lines + [f"{', '.join(names)}: {note}" for note, names in notes.items()]

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON types."""
        front = self.pareto()
        return {
            "rows": [{**row.to_dict(), "pareto": row in front} for row in self.rows],
            "refused": [each.to_dict() for each in self.refused],
            "left_out": [each.to_dict() for each in self.left_out],
            "notes": self.notes(),
        }

    def __str__(self) -> str:
        header, rows = self.table()
        table = align(header, rows, right=range(2, len(header)))
        return "\n".join([table, "", *self.notes()])

    def _repr_html_(self) -> str:
        return to_html(self)

    def plot(
        self,
        path: str | os.PathLike[str],
        *,
        theme: Literal["light", "dark"] = "light",
        replace: bool = False,
    ) -> None:
        """Draw tokens out (x) against cost (y), and write the picture as PNG, SVG or PDF.

        Each family has a marker of its own, and each row its name beside it; names that find no
        room stand below, and numbers beside the markers. The cost is that of the projector, in MACs
        as run, and with a language model that of the prefill too; a cost of nothing stands below
        all others. A line joins the rows on the Pareto front. A phone can show it.

        Args:
            path: The file: ``.png``, ``.svg`` or ``.pdf``. An earlier picture that this library
                wrote is replaced.
            theme: The colours.
            replace: Whether any other file, or a link, may be replaced.

        Raises:
            MatplotlibMissing: Matplotlib is not installed.
            SpecError: The suffix or the theme is another, or the file cannot be written.
        """
        plot(self, path, theme=theme, replace=replace)

    def _front(self) -> dict[str, str]:
        """Return the names on the Pareto front by the images that they are for."""
        front: dict[str, list[str]] = {row.images: [] for row in self.rows}
        for row in self.pareto():
            front[row.images].append(row.name)
        return {images: ", ".join(names) for images, names in front.items()}

    def _columns(self) -> list[tuple[str, Callable[[Cost], str]]]:
        """Return the titles, each with what it says of a row."""
        columns: list[tuple[str, Callable[[Cost], str]]] = [
            ("projector", lambda row: row.name),
            ("grid", lambda row: row.images),
            ("tokens", lambda row: f"{row.tokens_in:,} -> {row.tokens_out:,}"),
            ("parameters", lambda row: f"{row.parameters:,}"),
            ("MACs", lambda row: short_count(row.macs)),
            ("MACs as run", lambda row: short_count(row.macs_run)),
            ("activations", lambda row: _bytes(row.activation_bytes())),
        ]
        if self.rows[0].prefill_macs is not None:
            columns += [
                ("prefill", lambda row: short_count(row.prefill_macs)),
                ("KV cache", lambda row: _bytes(row.kv_bytes)),
                ("saved", lambda row: _percent(row.saved)),
            ]
        if self.rows[0].share is not None:
            columns.append(("share", lambda row: _percent(row.share)))
        for dtype in self.rows[0].measured:
            columns += _measured_columns(dtype)
        return columns


def compare_projectors(
    specs: Iterable[Spec],
    in_: int | None = None,
    out: int | None = None,
    *,
    grid: Sequence[int] | Sequence[Sequence[int]] | None = None,
    packed: bool = False,
    tower: object = None,
    lm: object = None,
    tokens: int | None = None,
    dtype: str = "bfloat16",
    max_parameters: int = MAX_PARAMETERS,
) -> Comparison:
    """Compare projectors on paper: tokens, parameters, MACs, and what the choice saves.

    >>> found = compare_projectors(["ldp", ("c-abstractor", {"queries": 64})], 1024, 2048,
    ...                            grid=(24, 24))
    >>> [(row.name, row.tokens_out) for row in found.rows]
    [('ldp', 144), ('c-abstractor(queries=64)', 64)]

    A projector that does not fit, such as one that does not take a grid, is a row that says why.

    Args:
        specs: The projectors: registered names, ``(name, options)``, documents, stacks, built
            projectors; a stack or a projector may have a name, ``("mine", stack)``.
        in_: The input width.
        out: The output width.
        grid: The image's token grid (h, w); or several, ``[(24, 24), (16, 16)]``, each of which has
            a row for each projector. By default the tower's.
        packed: Whether the grids are those of one set of packed images.
        tower: The vision tower, as `build_projector` takes it, or a `VisionCost`. With `lm`, there
            is the projector's share of the whole.
        lm: The language model, as `build_projector` takes it, or a `LanguageModel`. It adds what
            the image's tokens cost in prefill and KV cache.
        tokens: How many tokens are to come out of an image; each registered name sets the option
            for it.
        dtype: The dtype of activations and of the KV cache.
        max_parameters: Upper limit on parameters, of each projector.

    Raises:
        RegistryError: A name is unknown, or its plugin is broken.
        SpecError: There is nothing to compare, an option is none of the projector's, or tower or
            model cannot be read. If no projector fits: for what each is refused.
        GridError: The grid is none, or is missing.
    """
    check_dtype(dtype)
    around = Around.read(in_, out, tower, lm)
    sets = grid_sets(grid, around, packed=packed)
    wanted = asked(specs)
    if not wanted:
        raise SpecError("there is nothing to compare", "specs", "at least one projector")
    found = [
        _try(each, around, grids, packed=packed, tokens=tokens, dtype=dtype, limit=max_parameters)
        for each in wanted
        for grids in sets
    ]
    refused = [each for each in found if isinstance(each, Refused)]
    if len(refused) == len(found):
        if len(found) == 1:
            raise refused[0].error
        reasons = "".join(f"\n  {each.name} on {each.images}: {each.error}" for each in refused)
        raise SpecError("no projector fits", hint=f"Each is refused:{reasons}")
    return Comparison(tuple(found), around.remarks)


def grid_sets(
    grid: Sequence[int] | Sequence[Sequence[int]] | None, around: Around, *, packed: bool
) -> list[tuple[Grid, ...]]:
    """Return the images of each row: one grid each, or all of them packed.

    Raises:
        GridError: The grid is none, or is missing.
    """
    if grid is None and around.tower is not None:
        grid = around.tower.grid
    if grid is None:
        raise GridError("the grid is missing", "grid", hint="Give it: grid=(24, 24).")
    several = isinstance(grid, list | tuple) and grid and isinstance(grid[0], list | tuple)
    given: Any = grid if several else [grid]
    grids = tuple(frames_of(given)[0])
    return [grids] if packed else [(each,) for each in dict.fromkeys(grids)]


def count_reasons(refused: Iterable[Refused]) -> str:
    """Return how many projectors are refused for what: ``30 by tokens, 6 by parameters``."""
    counts = Counter(_REASONS.get(each.error.where, "for other reasons") for each in refused)
    return ", ".join(f"{count} {reason}" for reason, count in counts.most_common())


def _try(
    each: Asked,
    around: Around,
    grids: tuple[Grid, ...],
    *,
    packed: bool,
    tokens: int | None,
    dtype: str,
    limit: int,
) -> Cost | Refused:
    try:
        fitted = each.fit(around, grids, tokens)
        return Cost.of(fitted, grids, around, packed=packed, dtype=dtype, max_parameters=limit)
    except MobileVLMError as error:
        return Refused(each.label(), grids, error)


def _beats(one: Cost, other: Cost) -> bool:
    """Return whether one costs no more than the other in any way, and less in one."""
    if one.grids != other.grids:
        return False
    a, b = (one.tokens_out, one.macs_run), (other.tokens_out, other.macs_run)
    return a != b and a[0] <= b[0] and a[1] <= b[1]


def _measured_columns(dtype: str) -> list[tuple[str, Callable[[Cost], str]]]:
    return [
        (f"{dtype} time", lambda row: str(row.measured[dtype].seconds)),
        (f"{dtype} peak", lambda row: _bytes(row.measured[dtype].peak_bytes)),
    ]


def _bytes(count: int | None) -> str:
    """Format a number of bytes.

    >>> _bytes(21_000), _bytes(512), _bytes(None)
    ('21 kB', '512 B', '?')
    """
    if count is None:
        return "?"
    return f"{count} B" if count < 1000 else f"{short_count(count)}B"


def _percent(share: float | None) -> str:
    """Format a share with two significant digits.

    >>> _percent(0.7512), _percent(0.00412), _percent(0.0), _percent(-0.04)
    ('75 %', '0.41 %', '0 %', '-4 %')
    """
    return "?" if share is None else f"{100 * share:.2g} %"
