"""Which families' upstream entries fit a checkpoint, by its config and its keys."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

from ..projectors.index import upstream_entry, upstream_index
from ..projectors.upstream import Upstream

__all__ = ["Candidate", "Config", "inner_config", "recognise"]

Config: TypeAlias = Mapping[str, Any]


class Candidate(NamedTuple):
    """An upstream entry that fits a checkpoint.

    Attributes:
        family: The registered name of the entry's family.
        entry: The entry.
        root: What stands before the keys: empty, or ends with a dot.
    """

    family: str
    entry: Upstream
    root: str


def recognise(config: Config, keys: Iterable[str]) -> list[Candidate]:
    """Return the entries that fit, each with the root it fits at; the most specific ones first.

    The config's model type decides which entries are tried; those without one always are. Only
    families of which an entry fits are imported.
    """
    keys = list(keys)
    known = set(keys)
    model_type = config.get("model_type")
    found: list[Candidate] = []
    for family, entries in upstream_index().items():
        for index, entry in enumerate(entries):
            if entry.tensors and _is_tried(entry, model_type):
                found += [
                    Candidate(family, upstream_entry(family, index), root)
                    for root in _roots(entry, keys, known)
                ]
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

    Retrievers, robots and models that also speak keep it whole, model type and all.
    """
    for part in ("vlm_config", "thinker_config"):
        inner = config.get(part)
        if isinstance(inner, Mapping):
            return inner
    return config
