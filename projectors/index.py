"""What is known of the built-in families without importing one; ``tools/index.py`` writes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .upstream import Upstream

__all__ = ["INDEX", "aliases", "read_index", "upstream_entry", "upstream_index"]

INDEX = Path(__file__).parent / "zoo" / "index.json"


@cache
def read_index() -> Mapping[str, Any]:
    """Return what the file says of each family: its models, aliases and upstream entries.

    Families that are not in the table are left out: the file may be out of date.
    """
    from . import FAMILIES

    found = json.loads(INDEX.read_text(encoding="utf-8"))
    return {family: row for family, row in found.items() if family in FAMILIES}


def aliases() -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Return each alias with its family's name and its options."""
    return {
        alias: (family, options)
        for family, row in read_index().items()
        for alias, options in row["aliases"].items()
    }


@cache
def upstream_index() -> Mapping[str, tuple[Upstream, ...]]:
    """Return each family's upstream entries as far as they are plain data: without functions."""
    from .upstream import Upstream

    def entry(row: Mapping[str, Any]) -> Upstream:
        lists = {key: tuple(value) for key, value in row.items() if isinstance(value, list)}
        return Upstream(**{**row, **lists})

    return {family: tuple(map(entry, row["upstream"])) for family, row in read_index().items()}


def upstream_entry(family: str, index: int) -> Upstream:
    """Return an entry of the index as its family's class has it: with its functions.

    Raises:
        RuntimeError: The class has another entry there, or none.
    """
    from . import PROJECTORS

    entries = PROJECTORS.get(family).upstream
    said = upstream_index()[family][index]
    entry = entries[index] if index < len(entries) else None
    if entry is None or (entry.layout, entry.prefix) != (said.layout, said.prefix):
        raise RuntimeError("projectors/zoo/index.json is out of date: run tools/index.py")
    return entry
