"""Find projectors by any name that the field has for them; reads the index only."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from ..registry import Entry, Registry
from . import PROJECTORS
from .index import folded, read_index

__all__ = ["Found", "find_in", "find_projectors", "list_projectors", "with_options"]


@dataclass(frozen=True)
class Found:
    """What a search found, and what is known of it without importing it.

    Attributes:
        kind: ``projector`` or ``block``.
        entry: Its entry in the registry.
        by: Where its own name does not match, the aliases, models and classes that do, each with
            the options that it means.
        tokens: The tokens that come out of 24x24, of a built-in projector.
        parameters: The number of parameters at 1024 -> 2048, of a built-in projector.
        note: What it is easily taken for, or what its authors count otherwise.
    """

    kind: str
    entry: Entry
    by: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tokens: int | None = None
    parameters: int | None = None
    note: str = ""


def list_projectors(pattern: str = "*") -> list[str]:
    """Return the registered names that a pattern finds by name, alias, model or class; sorted.

    Nothing is imported for it: neither torch nor a family nor a plugin.

    >>> list_projectors("smolvlm"), list_projectors("Llava*Projector")
    (['idefics3'], ['mlp'])

    Args:
        pattern: A name, or a pattern with ``*``, ``?`` and ``[...]``. Case, ``-``, ``_`` and ``.``
            do not matter.
    """
    return [found.entry.name for found in find_projectors(pattern)]


def find_projectors(pattern: str) -> Iterator[Found]:
    """Yield what `list_projectors` finds, each with the names that it was found by."""
    wanted = folded(pattern)
    for entry in PROJECTORS.entries():
        row = read_index().get(entry.name, {}) if entry.source == "built-in" else {}
        facts = {key: row[key] for key in ("tokens", "parameters", "note") if key in row}
        if _matches(entry, wanted):
            yield Found("projector", entry, **facts)
            continue
        by = {
            name: options
            for name, options in _other_names(row).items()
            if fnmatchcase(folded(name), wanted)
        }
        if by:
            yield Found("projector", entry, by, **facts)


def find_in(registry: Registry[Any], pattern: str) -> Iterator[Found]:
    """Yield the entries of a registry that a pattern finds by name."""
    wanted = folded(pattern)
    for entry in registry.entries():
        if _matches(entry, wanted):
            yield Found(registry.kind, entry)


def with_options(name: str, options: Mapping[str, Any]) -> str:
    """Return a name with the options that it means.

    >>> with_options("SmolVLM", {"merge": 3}), with_options("LLaVA", {})
    ('SmolVLM (merge=3)', 'LLaVA')
    """
    given = ", ".join(f"{key}={json.dumps(value)}" for key, value in options.items())
    return f"{name} ({given})" if given else name


def _other_names(row: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return a family's aliases, models and classes, and transformers' names of further models."""
    names = {**row.get("aliases", {}), **row.get("models", {}), **row.get("classes", {})}
    known = {folded(name) for name in names}
    types = (kind for entry in row.get("upstream", ()) for kind in entry.get("model_types", ()))
    return names | {kind: {} for kind in types if folded(kind) not in known}


def _matches(entry: Entry, wanted: str) -> bool:
    """Return whether a folded pattern finds an entry; a plugin's by its distribution too."""
    names = [entry.name]
    if entry.version:
        names += [entry.source, f"{entry.source}/{entry.name.rpartition('/')[2]}"]
    return any(fnmatchcase(folded(name), wanted) for name in names)
