"""The families that can be asked for: the built-in ones, by their index, and those of plugins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..projectors import PROJECTORS
from ..projectors.index import advising, aliases, keywords, upstream_index
from ..projectors.upstream import Upstream
from ..registry import Entry, RegistryError, describe_error, quote

__all__ = ["Family", "find_family", "plugin_families"]


@dataclass(frozen=True)
class Family:
    """A family and its entries.

    Attributes:
        name: Its registered name; a plugin's is qualified.
        entries: Its upstream entries.
        plugin: Whether it is not built in.
        alias: The name that was asked for, where it is not the family's own.
        options: The options that this name stands for.
    """

    name: str
    entries: tuple[Upstream, ...]
    plugin: bool = False
    alias: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def layout(self, entry: Upstream) -> str:
        """Return what `to_upstream` calls an entry's names: of a plugin, with its distribution."""
        distribution, slash, _ = self.name.rpartition("/")
        return distribution + slash + entry.layout


def find_family(name: str) -> Family:
    """Return the family of a registered name.

    Raises:
        RegistryError: There is none, or its plugin is broken. For a model's name it says which.
    """
    with advising(name, lambda family, given: f"family={family!r}{keywords(given)}"):
        found = PROJECTORS.find(name)
    alias = found.name if found.name in aliases() else ""
    family, options = aliases().get(alias, (found.name, {}))
    entries = _entries(PROJECTORS.get(family))
    if family in upstream_index():
        return Family(family, entries, alias=alias, options=options)
    return Family(_qualified(found), entries, plugin=True)


def _qualified(entry: Entry) -> str:
    """Return the name that an entry always answers to; a local registration's is short."""
    alone = "/" in entry.name or not entry.version
    return entry.name if alone else f"{entry.source}/{entry.name}"


def plugin_families() -> tuple[list[Family], dict[str, str]]:
    """Import every projector that is not built in, and return those that have upstream entries.

    An entry that several names share, as a class's and its instances', is the first one's.

    Returns:
        The families; and why the others cannot be asked, by their names.
    """
    found: list[Family] = []
    broken: dict[str, str] = {}
    seen: set[int] = set()
    for name in (_qualified(each) for each in PROJECTORS.entries() if each.source != "built-in"):
        try:
            entries = [entry for entry in _entries(PROJECTORS.get(name)) if id(entry) not in seen]
        except RegistryError as error:
            broken[name] = error.found
            continue
        except Exception as error:  # a plugin's own attribute may raise anything
            broken[name] = describe_error(error)
            continue
        seen |= set(map(id, entries))
        if entries:
            found.append(Family(name, tuple(entries), plugin=True))
    return found, broken


def _entries(preset: Any) -> tuple[Upstream, ...]:
    entries: Sequence[object] = tuple(preset.upstream)
    for entry in entries:
        if not isinstance(entry, Upstream):
            raise RegistryError(f"upstream holds {quote(entry)}", expected="an Upstream")
    return tuple(entry for entry in entries if isinstance(entry, Upstream))
