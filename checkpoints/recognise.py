"""Which families' upstream entries fit a checkpoint, by its config and its keys."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from ..projectors.index import upstream_entry, upstream_index
from ..projectors.upstream import Upstream
from .connectors import connectors
from .families import Family
from .own import is_document

__all__ = [
    "Candidate",
    "Config",
    "entries_tried",
    "inner_config",
    "is_known",
    "recognise",
    "recognise_as",
    "recognise_beside",
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
    return _sorted(_built_in(keys, lambda entry: _is_tried(entry, model_type)))


def recognise_beside(config: Config, keys: Iterable[str]) -> list[Candidate]:
    """Return the built-in entries of other models whose names alone say what the tensors are.

    In a model that is known they find the projectors that stand beside its main one.
    """
    model_type = config.get("model_type")
    return _sorted(
        _built_in(keys, lambda entry: entry.names_suffice and not _is_tried(entry, model_type))
    )


def recognise_as(
    family: Family, config: Config, keys: Iterable[str], root: str | None = None
) -> list[Candidate]:
    """Return a family's entries that fit, whatever model the config is of.

    Of a family that knows the config's model type, no entry of other models is tried. They fit at
    the names of their modules; if none does, at the root that is given, or at modules that look
    like connectors.
    """
    keys = list(keys)
    known = set(keys)
    entries = entries_tried(family, config)
    found = []
    for entry in entries:
        roots = _roots(entry, keys, known)
        if root is not None:
            roots = [root] if all(root + tensor in known for tensor in entry.tensors) else []
        found += [Candidate(family, entry, root) for root in roots]
    if not found and root is None:
        places = [*connectors(keys), ""]
        found = [
            Candidate(family, entry, place)
            for entry in entries
            for place in places
            if all(place + tensor in known for tensor in entry.tensors)
        ]
    main = {fit.root for fit in found if not fit.entry.secondary}
    return _sorted(fit for fit in found if not fit.entry.secondary or fit.root not in main)


def entries_tried(family: Family, config: Config) -> list[Upstream]:
    """Return the entries that `recognise_as` tries; none of a family that is not read."""
    entries = [entry for entry in family.entries if entry.read is not None and entry.tensors]
    stated = [entry for entry in entries if config.get("model_type") in entry.model_types]
    if stated:
        return [entry for entry in entries if entry in stated or not entry.model_types]
    return entries


def recognise_plugin(family: Family, config: Config, keys: Iterable[str]) -> list[Candidate]:
    """Return the entries of a family that is not built in that fit."""
    keys = list(keys)
    known = set(keys)
    model_type = config.get("model_type")
    return _sorted(
        Candidate(family, entry, root)
        for entry in family.entries
        if entry.read is not None and entry.tensors and _is_tried(entry, model_type)
        for root in _roots(entry, keys, known)
    )


def _built_in(keys: Iterable[str], is_tried: Any) -> Iterator[Candidate]:
    keys = list(keys)
    known = set(keys)
    for family, entries in upstream_index().items():
        for index, entry in enumerate(entries):
            if entry.tensors and is_tried(entry):
                for root in _roots(entry, keys, known):
                    whole = upstream_entry(family, index)
                    yield Candidate(Family(family, (whole,)), whole, root)


def _sorted(found: Iterable[Candidate]) -> list[Candidate]:
    # What asks for more tensors says more: its failure tells more, too.
    return sorted(found, key=lambda fit: -len(fit.entry.tensors))


def _is_tried(entry: Upstream, model_type: object) -> bool:
    if not entry.model_types:
        return True
    return entry.names_suffice if model_type is None else model_type in entry.model_types


def _roots(entry: Upstream, keys: list[str], known: set[str]) -> list[str]:
    """Return the roots at which the entry's tensors are all there."""
    pattern = re.compile(rf"(?:.*\.)?(?:{entry.prefix})\.")
    first = entry.tensors[0]
    ends = [key for key in keys if key == first or key.endswith(f".{first}")]
    roots = [key.removesuffix(first) for key in ends]
    return [
        root
        for root in roots
        if (pattern.fullmatch(root) if root or entry.needs_prefix else True)
        and all(root + tensor in known for tensor in entry.tensors)
    ]


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
