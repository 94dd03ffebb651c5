"""Which families' upstream entries fit a checkpoint, by its config and its keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from ..projectors.index import upstream_entry, upstream_index
from ..projectors.upstream import Upstream
from .connectors import connectors
from .families import Family
from .own_keys import is_document
from .roots import Roots

__all__ = [
    "Candidate",
    "Config",
    "entries_tried",
    "inner_config",
    "is_known",
    "recognise",
    "recognise_as",
    "recognise_beside",
    "recognise_plugin",
]

Config: TypeAlias = Mapping[str, Any]


class Candidate(NamedTuple):
    """An upstream entry that fits a checkpoint.

    Attributes:
        family: The entry's family.
        entry: The entry.
        root: What stands before the keys: empty, or ends with a dot.
    """

    family: Family
    entry: Upstream
    root: str

    def is_of(self, config: Config) -> bool:
        """Return whether the config names a model of the entry's."""
        return config.get("model_type") in self.entry.model_types


def is_known(config: Config) -> bool:
    """Return whether the config names a model that a built-in family knows."""
    rows = upstream_index().values()
    return any(config.get("model_type") in entry.model_types for row in rows for entry in row)


def recognise(config: Config, keys: Iterable[str]) -> list[Candidate]:
    """Return the built-in entries that fit, each at its root; the most specific ones first.

    The config's model type decides which entries are tried; those without one always are. Only
    families of which an entry fits are imported.
    """
    model_type = config.get("model_type")
    return _built_in(keys, lambda entry: _is_tried(entry, model_type))


def recognise_beside(config: Config, keys: Iterable[str]) -> list[Candidate]:
    """Return the built-in entries of other models whose names alone say what the tensors are.

    In a model that is known they find the projectors that stand beside its main one.
    """
    model_type = config.get("model_type")
    return _built_in(keys, lambda entry: entry.names_suffice and not _is_tried(entry, model_type))


def recognise_plugin(family: Family, config: Config, keys: Iterable[str]) -> list[Candidate]:
    """Return the entries that fit of a family that is not built in."""
    model_type = config.get("model_type")
    entries = [entry for entry in family.entries if entry.read is not None]
    fits = _fits(entries, Roots(keys), lambda entry: _is_tried(entry, model_type))
    return _sorted(Candidate(family, entries[index], root) for index, root in fits)


def recognise_as(
    family: Family, config: Config, keys: Iterable[str], root: str | None = None
) -> list[Candidate]:
    """Return a family's entries that fit, whatever model the config is of.

    Of a family that knows the config's model type, no entry of other models is tried. They fit at
    the names of their modules; if none does, at the root that is given, or at modules that look
    like connectors.
    """
    keys = list(keys)
    roots = Roots(keys)
    entries = entries_tried(family, config)

    def at(places: Iterable[str]) -> list[Candidate]:
        return [
            Candidate(family, entry, place)
            for entry in entries
            for place in places
            if roots.hold(place, entry.tensors)
        ]

    if root is not None:
        found = at([root])
    else:
        found = [Candidate(family, entries[index], place) for index, place in _fits(entries, roots)]
        found = found or at([*connectors(keys), ""])
    main = {fit.root for fit in found if not fit.entry.secondary}
    return _sorted(fit for fit in found if not fit.entry.secondary or fit.root not in main)


def entries_tried(family: Family, config: Config) -> list[Upstream]:
    """Return the entries that `recognise_as` tries; none of a family that is not read."""
    entries = [entry for entry in family.entries if entry.read is not None and entry.tensors]
    stated = [entry for entry in entries if config.get("model_type") in entry.model_types]
    if stated:
        return [entry for entry in entries if entry in stated or not entry.model_types]
    return entries


def _built_in(keys: Iterable[str], is_tried: Callable[[Upstream], bool]) -> list[Candidate]:
    roots = Roots(keys)
    found = []
    for family, entries in upstream_index().items():
        for index, root in _fits(entries, roots, is_tried):
            entry = upstream_entry(family, index)
            found.append(Candidate(Family(family, (entry,)), entry, root))
    return _sorted(found)


def _fits(
    entries: Sequence[Upstream],
    roots: Roots,
    is_tried: Callable[[Upstream], bool] = lambda _: True,
) -> Iterator[tuple[int, str]]:
    """Yield the index of each entry that is tried and fits, and the roots at which it does."""
    for index, entry in enumerate(entries):
        if not entry.tensors or not is_tried(entry):
            continue
        pattern = re.compile(rf"(?:.*\.)?(?:{entry.prefix})\.")
        for root in roots.of_all(entry.tensors):
            if pattern.fullmatch(root) if root or entry.needs_prefix else True:
                yield index, root


def _sorted(found: Iterable[Candidate]) -> list[Candidate]:
    # What asks for more tensors says more: its failure tells more, too.
    return sorted(found, key=lambda fit: -len(fit.entry.tensors))


def _is_tried(entry: Upstream, model_type: object) -> bool:
    if not entry.model_types:
        return True
    return entry.names_suffice if model_type is None else model_type in entry.model_types


def inner_config(config: Config) -> Config:
    """Return the config of the vision-language model inside one that is built around it.

    Retrievers, robots and models that also speak keep it whole, model type and all. A document of
    ours is no model's config.
    """
    if is_document(config):
        return {}
    for part in ("vlm_config", "thinker_config"):
        inner = config.get(part)
        if isinstance(inner, Mapping):
            return inner
    return config
