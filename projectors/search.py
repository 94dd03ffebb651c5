"""Find projectors by any name that the field has for them; reads the index only."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from operator import itemgetter
from typing import Any

from ..registry import Entry, Registry
from . import PROJECTORS
from .index import folded, read_index

__all__ = ["Found", "find_in", "find_projectors", "list_projectors", "with_options"]

_NO_MATCH = 3


@dataclass(frozen=True)
class Found:
    """What a search found, and what is known of it without importing it.

    Attributes:
        kind: ``projector`` or ``block``.
        entry: Its entry in the registry.
        by: Where its own name does not match, the aliases, models and classes that do, best first,
            each with the options that it means.
        models: The models that use a built-in projector, those that match first, each with the
            options that it means.
        tokens: The tokens that come out of 24x24, of a built-in projector with its defaults.
        parameters: The number of parameters at 1024 -> 2048, of a built-in projector with its
            defaults.
        note: What it is easily taken for, or what its authors count otherwise.
    """

    kind: str
    entry: Entry
    by: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
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
    return sorted(found.entry.name for found in find_projectors(pattern))


def find_projectors(pattern: str) -> list[Found]:
    """Return what `list_projectors` finds, best first, each with the names that it was found by.

    A name that is the pattern comes first, then those that have further words, then the rest.
    """
    rank = _ranking(pattern)
    ranked: list[tuple[int, Found]] = []
    for entry in PROJECTORS.entries():
        row = read_index().get(entry.name, {}) if entry.source == "built-in" else {}
        facts = {key: row[key] for key in ("tokens", "parameters", "note") if key in row}
        own, others = _own_names(entry), _other_names(row)
        best = min(map(rank, (*own, *others)))
        if best == _NO_MATCH:
            continue
        by: dict[str, Mapping[str, Any]] = {}
        if min(map(rank, own)) == _NO_MATCH:
            matching = (name for name in others if rank(name) < _NO_MATCH)
            by = {name: others[name] for name in sorted(matching, key=rank)}
        models = row.get("models", {})
        models = {name: models[name] for name in sorted(models, key=rank)}
        ranked.append((best, Found("projector", entry, by=by, models=models, **facts)))
    return [found for _, found in sorted(ranked, key=itemgetter(0))]


def find_in(registry: Registry[Any], pattern: str) -> list[Found]:
    """Return the entries of a registry that a pattern finds by name, best first."""
    rank = _ranking(pattern)
    ranked = [(min(map(rank, _own_names(entry))), entry) for entry in registry.entries()]
    return [
        Found(registry.kind, entry)
        for best, entry in sorted(ranked, key=itemgetter(0))
        if best < _NO_MATCH
    ]


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


def _own_names(entry: Entry) -> list[str]:
    """Return the names of an entry; a plugin is found by its distribution too."""
    if not entry.version:
        return [entry.name]
    return [entry.name, entry.source, f"{entry.source}/{entry.name.rpartition('/')[2]}"]


def _ranking(pattern: str) -> Callable[[str], int]:
    """Return what says how well a name matches a pattern: the less the better.

    It returns 0 where the name is what was typed, 1 where further words follow, 2 where it matches
    otherwise, and `_NO_MATCH`. What was typed is the pattern without ``*`` around it.
    """
    wanted = folded(pattern)
    typed = wanted.strip("*")
    letters = r"[-_.\s]*".join(map(re.escape, typed))
    whole_words = re.compile(rf"{letters}(?![^\W_])", re.IGNORECASE)

    def rank(name: str) -> int:
        if not fnmatchcase(folded(name), wanted):
            return _NO_MATCH
        if folded(name) == typed:
            return 0
        return 1 if whole_words.match(name) else 2

    return rank
