"""The registry: names for local registrations, built-ins and plugins."""

from __future__ import annotations

import contextlib
import pkgutil
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, Generic, TypeAlias, TypeVar, overload

from .discovery import Installed, PluginEntryPoint, Problem
from .entry import Entry
from .errors import NameTaken, RegistryError, UnknownName
from .names import RULE, did_you_mean, normalize, parse, quote
from .plugins import Plugin, Plugins
from .switches import DISABLE_VARIABLE

__all__ = ["Registry"]

BUILT_IN = "built-in"
LOCAL = "local"

_MISSING = object()

Aliases: TypeAlias = Mapping[str, tuple[str, Mapping[str, object]]]

T = TypeVar("T")
D = TypeVar("D")


class Registry(Generic[T]):
    """Names for things of one kind.

    A short name is looked up in this process's own registrations, then among the built-ins, then
    among plugins. A plugin's entry always answers to ``distribution/name`` too. Listing imports
    none of the things listed; `get` imports exactly what was asked for.

    Args:
        kind: The singular noun for messages, such as ``block``.
        group: The entry-point group that plugins use.
        builtins: Short name to ``module:attribute``. These names cannot be taken over.
        more_builtins: ``module:attribute`` of further such tables, imported at the first look-up.
        aliases: Other names of built-ins: alias to the short name it stands for and its options;
            or a function that returns them, called at the first look-up. They are looked up, but
            not listed.
        specialise: Applies an alias's options: called with the thing its short name stands for,
            and the options.
        accepts: Whether a loaded object is of this kind.
        expected: What `accepts` wants, in words.
        installed: The installed distributions, which registries may share.
        other: ``module:attribute`` of the registry that this one is confused with: an unknown
            name is looked up there, for a hint.
        advise: Returns a hint for an unknown name, or an empty string.
    """

    def __init__(
        self,
        kind: str,
        *,
        group: str,
        builtins: Mapping[str, str],
        more_builtins: tuple[str, ...] = (),
        aliases: Aliases | Callable[[], Aliases] | None = None,
        specialise: Callable[[T, Mapping[str, object]], T] | None = None,
        accepts: Callable[[object], bool],
        expected: str,
        installed: Installed | None = None,
        other: str = "",
        advise: Callable[[str], str] | None = None,
    ) -> None:
        self.kind = kind
        self.group = group
        self._rows = builtins
        self._tables = more_builtins
        self._given_aliases = aliases or {}
        self._specialise = specialise
        self._specialised: dict[str, T] = {}  # by alias; kept for good, so that each is one object
        self._accepts = accepts
        self._expected = expected
        self._other = other
        self._advise = advise
        self._plugins = Plugins(kind, group, accepts, expected, installed or Installed())
        self._lock = threading.RLock()  # held to change the two below
        self._local: dict[str, T] = {}
        self._names: dict[int, str] = {}  # of local registrations, by the thing's id

    @cached_property
    def _aliases(self) -> Aliases:
        given = self._given_aliases
        return dict(given() if callable(given) else given)

    @cached_property
    def _names_of_builtins(self) -> dict[str, str]:
        """Every built-in name with its ``module:attribute``, without aliases; sorted."""
        found = dict(self._rows)
        for table in self._tables:
            found |= pkgutil.resolve_name(table)
        return dict(sorted(found.items()))

    @cached_property
    def _builtins(self) -> dict[str, str]:
        """Every built-in name and alias, with its ``module:attribute``."""
        found = self._names_of_builtins
        return found | {alias: found[name] for alias, (name, _) in self._aliases.items()}

    @cached_property
    def _short(self) -> dict[str, str]:
        """The built-in names and aliases by their short names, so that ``_`` reads as ``-``."""
        aliases = {short: alias for alias in self._aliases if (short := normalize(alias))}
        return aliases | {name: name for name in self._names_of_builtins}

    def __repr__(self) -> str:
        return f"<Registry of {self.kind}s, entry-point group {self.group!r}>"

    def __contains__(self, name: object) -> bool:
        """Return whether `get` finds the name: a registered one, or an alias."""
        match = self._match(name)
        return match is not None and len(match[1]) <= 1

    def __len__(self) -> int:
        """Return how many names are registered, aliases not counted."""
        return len(self.entries())

    def __iter__(self) -> Iterator[str]:
        """Iterate over the registered names, as `names` returns them."""
        return iter(self.names())

    # ------------------------------------------------------------------ list

    def names(self) -> list[str]:
        """Return every registered name, without aliases, sorted. Imports none of them."""
        return [entry.name for entry in self.entries()]

    def entries(self) -> list[Entry]:
        """Return the entry of every registered name, sorted by name. Imports none of them.

        A plugin's entry is listed under its short name where that is enough to find it, else
        under its qualified name.

        Raises:
            BrokenPlugin: In strict mode, something is wrong with an installed plugin.
        """
        self._plugins.check_strict(self._short)
        ours = self._names_of_builtins.items()
        found = {name: Entry(name, BUILT_IN, "", to) for name, to in ours}
        local = self._local.copy().items()
        found |= {name: Entry(name, LOCAL, "", target_of(thing)) for name, thing in local}
        found |= {entry.name: entry for _, entry in self._listed()}
        return [found[name] for name in sorted(found)]

    def aliases(self) -> Aliases:
        """Return each alias with the short name it stands for and its options."""
        return dict(self._aliases)

    def plugins(self, *, check: bool = False) -> list[Plugin]:
        """Return every entry of every plugin, also those switched off, sorted by name.

        Args:
            check: Import them, to find those that are broken.
        """
        ours = self._plugins
        found = [ours.status(point, entry, check=check) for point, entry in self._listed()]
        found += [
            Plugin(self.kind, point.entry(point.qualified), point.location, "off")
            for point in ours.entry_points(switched_off=True)
        ]
        return sorted(found, key=lambda plugin: plugin.entry.name)

    def problems(self, *, switched_off: bool = False) -> list[Problem]:
        """Return what is wrong with the metadata of plugins: in use, or switched off."""
        return self._plugins.problems(switched_off=switched_off)

    def conflicts(self) -> list[Problem]:
        """Return the short names that plugins offer but do not get."""
        return list(self._plugins.conflicts(self._short))

    def refresh(self) -> None:
        """Look at the installed distributions again, as after an install in a running notebook.

        This holds for every registry that shares them.
        """
        self._plugins.installed.refresh()

    # ------------------------------------------------------------------ look up

    def find(self, name: object) -> Entry:
        """Return the entry of a name, without importing it.

        Raises:
            UnknownName: Nothing is registered under it.
            AmbiguousName: Two distributions offer it.
            BrokenPlugin: In strict mode, something is wrong with an installed plugin.
        """
        key, point = self._resolve(name)
        if point is not None:
            return point.entry(key)
        if key in self._builtins:
            return Entry(key, BUILT_IN, "", self._builtins[key])
        return Entry(key, LOCAL, "", target_of(self._own(key)))

    def get(self, name: str) -> T:
        """Return the registered thing, importing it if this is the first time.

        Raises:
            UnknownName: Nothing is registered under the name.
            AmbiguousName: Two distributions offer it; the message names both.
            BrokenPlugin: It cannot be imported or is not of this kind; the cause is chained. In
                strict mode, something is wrong with an installed plugin.
        """
        key, point = self._resolve(name)
        if point is not None:
            thing: T = self._plugins.load(point)
            return thing
        return self._load_builtin(key) if key in self._builtins else self._own(key)

    def name_of(self, thing: object) -> str:
        """Return the name to write in a document: qualified for a plugin's, short for others.

        A thing with several names is written as the one that most readers can look up.

        Raises:
            UnknownName: It is not registered.
        """
        # A class may have been imported directly; its module is loaded then.
        for name, builtin in self._names_of_builtins.items():
            if _peek(builtin) is thing:
                return name
        for name, candidate in (self._specialised.copy() | self._plugins.loaded()).items():
            if candidate is thing:
                return name
        points = self._plugins.entry_points()
        for point in points:
            if _peek(point.target) is thing:
                return point.qualified
        own = self._names.get(id(thing))
        if own is not None:
            return own
        target = target_of(thing)
        for point in points:
            # A module that re-exports it may not be loaded yet, though its package is.
            if point.package == target.partition(":")[0].partition(".")[0]:
                with contextlib.suppress(RegistryError):
                    if self.get(point.qualified) is thing:
                        return point.qualified
        hint = f"Register it with @{self.kind.upper()}S.register(...)."
        stale = [name for name, other in self._local.copy().items() if target_of(other) == target]
        if stale:
            hint = f"{stale[0]!r} now means a newer {target}: build it again from that one."
        raise UnknownName(f"{target} is not a registered {self.kind}", hint=hint)

    # ------------------------------------------------------------------ register

    @overload
    def register(self, name: str, *, replace: bool = ...) -> Callable[[D], D]: ...
    @overload
    def register(self, name: str, thing: D, *, replace: bool = ...) -> D: ...
    def register(self, name: str, thing: Any = None, *, replace: bool = False) -> Any:
        """Register under a short name in this process: a decorator, or a call with the thing.

        Registering the same thing again, or a re-run notebook cell's new class of the same
        module and name, is allowed.

        Args:
            name: The short name.
            thing: What to register; leave it out to decorate.
            replace: Take the name over from another local registration.

        Raises:
            RegistryError: The name is not usable, or the thing is not of this kind.
            NameTaken: The name is a built-in's or another thing's, or the thing has a name.
        """
        key = normalize(name)
        if key is None:
            raise RegistryError(f"{quote(name)} is not a usable {self.kind} name", expected=RULE)
        if thing is None:
            return lambda decorated: self.register(name, decorated, replace=replace)
        if not self._accepts(thing):
            found = f"{quote(thing)} cannot be a {self.kind}"
            raise RegistryError(found, f"register({key!r})", self._expected)
        if key in self._short:
            found = f"{self.kind} {self._short[key]!r} is built in and cannot be replaced"
            raise NameTaken(found, hint="Choose another name.")
        with self._lock:
            other = self._names.get(id(thing), key)
            if other != key:
                hint = "A thing has one name, so that documents can be written back."
                raise NameTaken(f"{target_of(thing)} is already registered as {other!r}", hint=hint)
            held = self._local.get(key)
            # A re-run cell makes a new class of the same name; an instance must be the same.
            rerun = target_of(held) == target_of(thing) and (
                isinstance(thing, type) or held == thing
            )
            if held is not None and not replace and not rerun:
                found = f"{self.kind} {key!r} is already registered, by {target_of(held)}"
                raise NameTaken(found, hint="Choose another name, or pass replace=True.")
            self._local[key] = thing
            if held is not None:
                del self._names[id(held)]
            self._names[id(thing)] = key
        return thing

    def unregister(self, name: str) -> None:
        """Remove a local registration.

        Raises:
            UnknownName: The name is not registered in this process.
        """
        key = normalize(name)
        with self._lock:
            if key not in self._local:
                raise UnknownName(f"{self.kind} {quote(name)} is not registered in this process")
            del self._names[id(self._local.pop(key))]

    # ------------------------------------------------------------------ inside

    def _match(self, name: object) -> tuple[str, list[PluginEntryPoint]] | None:
        """Return the canonical key and the plugins that offer it (none if it is ours), or None."""
        self._plugins.check_strict(self._short)
        if isinstance(name, str) and name in self._aliases:  # as written: it may be no short name
            return name, []
        parsed = parse(name)
        if parsed is None:
            return None
        distribution, short = parsed
        if distribution is None and self._is_ours(short):
            return self._short.get(short, short), []
        points = [
            point
            for point in self._plugins.entry_points()
            if point.name == short and distribution in (None, point.distribution)
        ]
        return (points[0].qualified, points) if points else None

    def _is_ours(self, short: str) -> bool:
        return short in self._local or short in self._short

    def _resolve(self, name: object) -> tuple[str, PluginEntryPoint | None]:
        """Return the canonical key, and the entry point if it is a plugin's."""
        match = self._match(name)
        if match is None:
            raise self._unknown(name)
        key, points = match
        if len(points) > 1:
            raise self._plugins.ambiguous(points)
        return key, points[0] if points else None

    def _own(self, key: str) -> T:
        """Return a local registration, which another thread may just have removed."""
        try:
            return self._local[key]
        except KeyError:
            raise self._unknown(key) from None

    def _load_builtin(self, key: str) -> T:
        if key in self._specialised:
            return self._specialised[key]
        thing: T = pkgutil.resolve_name(self._builtins[key])
        if key not in self._aliases:
            return thing
        if self._specialise is not None:
            thing = self._specialise(thing, self._aliases[key][1])
        return self._specialised.setdefault(key, thing)  # of two threads, the first one's

    def _listed(self) -> Iterator[tuple[PluginEntryPoint, Entry]]:
        """Yield the plugins in use, each with its entry under the shortest name that finds it."""
        points = self._plugins.entry_points()
        count = Counter(point.name for point in points)
        for point in points:
            is_unique = count[point.name] == 1 and not self._is_ours(point.name)
            yield point, point.entry(point.name if is_unique else point.qualified)

    def _unknown(self, name: object) -> RegistryError:
        return UnknownName(f"unknown {self.kind} {quote(name)}", hint=lambda: self._advice(name))

    def _advice(self, name: object) -> str:
        """Return a hint for a name that nothing is registered under."""
        distribution, short = parse(name) or (None, "")
        for point in self._plugins.entry_points(switched_off=True):
            if short == point.name and distribution in (None, point.distribution):
                by = f"It is offered by {point.distribution}"
                return f"{by}, which {DISABLE_VARIABLE} switches off."
        if isinstance(name, str) and self._advise and (advice := self._advise(name)):
            return advice
        other: Registry[Any] | None = pkgutil.resolve_name(self._other) if self._other else None
        if other is not None and other._match(name):
            return f"{quote(name)} is a {other.kind}, not a {self.kind}."
        lower = normalize(name.rpartition("/")[2].lower()) if isinstance(name, str) else None
        for problem in self.problems():
            its = problem.distribution == distribution and problem.name in ("", short)
            if its or (distribution is None and problem.name == lower):
                return f"{problem.distribution} is installed, but {problem.text}."
        names = self.names()
        if distribution:
            names = [
                point.qualified
                for point in self._plugins.entry_points()
                if point.distribution == distribution
            ]
            if not names:
                absent = "which is not installed or offers no such thing"
                return f"It comes from {distribution!r}, {absent}."
        few = ", ".join(sorted(names)[:12]) + (", and others" if len(names) > 12 else "")
        alike = did_you_mean(name, names if distribution else [*names, *self._aliases])
        return alike or _worker_hint() or f"Known: {few}."


def target_of(thing: object) -> str:
    """Return ``module:qualname`` of a class, or of an instance's class.

    >>> target_of(dict), target_of({})
    ('builtins:dict', 'builtins:dict')
    """
    cls = thing if isinstance(thing, type) else type(thing)
    return f"{cls.__module__}:{cls.__qualname__}"


def _peek(target: str) -> object:
    """Return the object at ``module:attribute`` if the module is loaded, else `_MISSING`."""
    module, _, attribute = target.partition(":")
    thing: object = sys.modules.get(module)
    try:
        for part in attribute.split("."):
            thing = getattr(thing, part)
    except Exception:  # a module's own __getattr__ may raise anything
        return _MISSING
    return thing


def _worker_hint() -> str:
    """In a worker process, return why a registration may be missing."""
    process = sys.modules.get("multiprocessing.process")
    if process is None or process.parent_process() is None:
        return ""
    return (
        "This is a worker process: what is registered under if __name__ == '__main__' is not "
        "known here. Register it in a module that the worker imports."
    )
