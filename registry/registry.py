"""The registry: one name, one thing; built-ins, entry points and local registrations."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import MetadataPathFinder
from typing import Any, Generic, TypeVar, overload

from .discovery import Discovery, Offer, Problem, discover
from .errors import AmbiguousName, BrokenPlugin, NameTaken, RegistryError, UnknownName
from .names import RULE, did_you_mean, normalize, normalize_distribution, parse, quote

__all__ = ["DISABLE_VARIABLE", "Entry", "Registry"]

DISABLE_VARIABLE = "MOBILEVLM_DISABLE_PLUGINS"
BUILT_IN = "built-in"
LOCAL = "local"

_MISSING = object()

T = TypeVar("T")
D = TypeVar("D")


@dataclass(frozen=True)
class Entry:
    """What is known of a registered thing without importing it.

    Attributes:
        name: What to write to get it: short, or ``distribution/name``.
        source: The distribution it comes from; ``built-in`` or ``local`` for ours and the user's.
        version: The distribution's version; empty for ``built-in`` and ``local``.
        target: Where it lives, as ``module:qualname``.
    """

    name: str
    source: str
    version: str
    target: str

    def __str__(self) -> str:
        return f"{self.source} {self.version}".rstrip() + f" ({self.target})"


class Registry(Generic[T]):
    """Names for things of one kind.

    A short name is looked up in this process's own registrations, then among the built-ins, then
    among plugins. A plugin's entry always answers to ``distribution/name`` too. Listing imports
    nothing; getting imports exactly what was asked for.

    Args:
        kind: The singular noun for messages, such as ``block``.
        group: The entry-point group that plugins use.
        builtins: Short name to ``module:attribute``. These names cannot be taken over.
        renamed: Old short name to new: keeps working, with a warning.
        accepts: Whether a loaded object is of this kind.
        expected: What `accepts` wants, in words.
        sibling: The registry people confuse this one with; a miss here looks there for a hint.
    """

    def __init__(
        self,
        kind: str,
        *,
        group: str,
        builtins: Mapping[str, str],
        accepts: Callable[[object], bool],
        expected: str,
        renamed: Mapping[str, str] | None = None,
        sibling: Registry[Any] | None = None,
    ) -> None:
        self.kind = kind
        self.group = group
        self._builtins = dict(builtins)
        self._renamed = dict(renamed or {})
        self._accepts = accepts
        self._expected = expected
        self._sibling = sibling
        if sibling is not None:
            sibling._sibling = self
        self._lock = threading.RLock()
        # Both dicts are replaced, never changed, so that readers need no lock.
        self._local: dict[str, T] = {}
        self._loaded: dict[str, T] = {}
        self._discovery: Discovery | None = None

    def __repr__(self) -> str:
        return f"<Registry of {self.kind}s, entry-point group {self.group!r}>"

    def __contains__(self, name: object) -> bool:
        match = self._match(name)
        return match is not None and len(match[1]) <= 1

    # ------------------------------------------------------------------ what is there

    def names(self) -> list[str]:
        """Return every name as `get` takes it, sorted. Imports nothing."""
        return [entry.name for entry in self.entries()]

    def entries(self) -> list[Entry]:
        """Return every entry, sorted by name. Imports nothing.

        A plugin's entry is listed under its short name where that is enough to find it, else
        under its qualified name.
        """
        found = {
            name: Entry(name, LOCAL, "", target_of(thing)) for name, thing in self._local.items()
        }
        for name, target in self._builtins.items():
            found.setdefault(name, Entry(name, BUILT_IN, "", target))
        offers = self._offers()
        rivals = Counter(offer.name for offer in offers)
        for offer in offers:
            alone = offer.name not in found and rivals[offer.name] == 1
            name = offer.name if alone else _qualified(offer)
            found[name] = _entry(offer, name)
        return [found[name] for name in sorted(found)]

    def problems(self) -> tuple[Problem, ...]:
        """Return what could not be read in the installed distributions' metadata."""
        return self._scan().problems

    def refresh(self) -> None:
        """Look at the installed distributions again, as after an install in a running notebook."""
        importlib.invalidate_caches()
        MetadataPathFinder().invalidate_caches()  # the line above does it from Python 3.12 on
        with self._lock:
            self._discovery = None
            self._loaded = {}

    # ------------------------------------------------------------------ look up

    def find(self, name: object) -> Entry:
        """Say where a name leads, without importing it.

        Raises:
            UnknownName: Nothing answers to it.
            AmbiguousName: Two distributions offer it.
        """
        key, offer = self._resolve(name)
        if offer is not None:
            return _entry(offer, key)
        if key in self._builtins:
            return Entry(key, BUILT_IN, "", self._builtins[key])
        return Entry(key, LOCAL, "", target_of(self._own(key)))

    def get(self, name: str) -> T:
        """Return the registered thing, importing it if this is the first time.

        Raises:
            UnknownName: Nothing answers to the name.
            AmbiguousName: Two distributions offer it; the message names both.
            BrokenPlugin: It cannot be imported or is not of this kind; the cause is chained.
        """
        key, offer = self._resolve(name)
        if offer is None and key not in self._builtins:
            return self._own(key)
        loaded = self._loaded
        if key in loaded:
            return loaded[key]
        thing = self._load_builtin(key) if offer is None else self._load_plugin(key, offer)
        with self._lock:
            self._loaded = {**self._loaded, key: thing}
        return thing

    def name_of(self, thing: object) -> str:
        """Return the name to write in a document: qualified for a plugin's, short for others.

        What is known under several names is written as the one that most readers can look up.

        Raises:
            UnknownName: It is not registered.
        """
        # A class may have been imported directly; its module is loaded then.
        for name, builtin in self._builtins.items():
            if _peek(*_split(builtin)) is thing:
                return name
        for name, candidate in self._loaded.items():
            if candidate is thing:
                return name
        offers = self._offers()
        for offer in offers:
            if _peek(offer.point.module, offer.point.attr) is thing:
                return _qualified(offer)
        for name, candidate in self._local.items():
            if candidate is thing:
                return name
        target = target_of(thing)
        for offer in offers:
            # A module that re-exports it may not be loaded yet, though its package is.
            if offer.point.module.partition(".")[0] == _split(target)[0].partition(".")[0]:
                with contextlib.suppress(RegistryError):
                    if self.get(_qualified(offer)) is thing:
                        return _qualified(offer)
        hint = f"Register it with @{self.kind.upper()}S.register(...)."
        stale = [name for name, other in self._local.items() if target_of(other) == target]
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
        if thing is None and isinstance(name, type):  # a decorator without its parentheses
            hint = f'Write @{self.kind.upper()}S.register("name").'
            raise RegistryError(f"{quote(name)} is not a name", "register", hint=hint)
        if thing is None:
            return lambda decorated: self.register(name, decorated, replace=replace)
        key = normalize(name)
        if key is None:
            raise RegistryError(f"{quote(name)} is not a usable {self.kind} name", expected=RULE)
        if not self._accepts(thing):
            raise RegistryError(
                f"{quote(thing)} cannot be a {self.kind}",
                f"register({key!r})",
                self._expected,
            )
        if key in self._builtins or key in self._renamed:
            raise NameTaken(
                f"{self.kind} {key!r} is built in and cannot be replaced",
                hint="Choose another name.",
            )
        with self._lock:
            for other, holder in self._local.items():
                if holder is thing and other != key:
                    raise NameTaken(
                        f"{target_of(thing)} is already registered as {other!r}",
                        hint="A thing has one name, so that documents can be written back.",
                    )
            held = self._local.get(key)
            # A re-run cell makes a new class of the same name; an instance must be the same.
            rerun = target_of(held) == target_of(thing) and (
                isinstance(thing, type) or held == thing
            )
            if held is not None and not replace and not rerun:
                raise NameTaken(
                    f"{self.kind} {key!r} is already registered, by {target_of(held)}",
                    hint="Choose another name, or pass replace=True.",
                )
            self._local = {**self._local, key: thing}
        return thing

    def unregister(self, name: str) -> None:
        """Forget a local registration.

        Raises:
            UnknownName: The name is not registered in this process.
        """
        key = normalize(name)
        with self._lock:
            if key not in self._local:
                raise UnknownName(f"{self.kind} {quote(name)} is not registered in this process")
            self._local = {other: thing for other, thing in self._local.items() if other != key}

    # ------------------------------------------------------------------ inside

    def _match(self, name: object) -> tuple[str, list[Offer]] | None:
        """Return the canonical key and the plugins that answer (none: ours), or None."""
        parsed = parse(name)
        if parsed is None:
            return None
        distribution, short = parsed
        if distribution is None:
            if short in self._local or short in self._builtins:
                return short, []
            if short in self._renamed:
                return self._renamed[short], []
        offers = [
            offer
            for offer in self._offers()
            if offer.name == short and distribution in (None, offer.distribution)
        ]
        return (_qualified(offers[0]), offers) if offers else None

    def _resolve(self, name: object) -> tuple[str, Offer | None]:
        """Return the canonical key, and the plugin's offer if it is a plugin's."""
        match = self._match(name)
        if match is None:
            raise self._unknown(name)
        key, offers = match
        if len(offers) > 1:
            raise self._ambiguous(offers)
        if not offers and normalize(name) in self._renamed:
            text = f"{self.kind} {quote(name)} is now called {key!r}"
            warnings.warn(text, FutureWarning, stacklevel=3)
        return key, offers[0] if offers else None

    def _own(self, key: str) -> T:
        """Return a local registration, which another thread may have forgotten by now."""
        try:
            return self._local[key]
        except KeyError:
            raise self._unknown(key) from None

    def _load_builtin(self, key: str) -> T:
        module, attribute = _split(self._builtins[key])
        thing: T = getattr(importlib.import_module(module), attribute)
        return thing

    def _load_plugin(self, key: str, offer: Offer) -> T:
        where = f"{self.kind} {key!r} from {_entry(offer, key)}"
        try:
            thing = offer.point.load()
        except (
            Exception,
            SystemExit,
        ) as error:  # a real Ctrl-C still stops the program
            raise BrokenPlugin(
                f"{type(error).__name__} on import: {error}",
                where,
                hint=f"The fault is in {offer.distribution}: update or uninstall it.",
            ) from error
        if not self._accepts(thing):
            raise BrokenPlugin(
                f"it leads to {quote(thing)}",
                where,
                self._expected,
                f"The fault is in {offer.distribution}: tell its authors.",
            )
        loaded: T = thing
        return loaded

    def _scan(self) -> Discovery:
        found = self._discovery
        if found is None:
            with self._lock:
                found = self._discovery = self._discovery or discover()
        return found

    def _offers(self, *, switched_off: bool = False) -> list[Offer]:
        """Return what plugins offer this registry: those in use, or those switched off."""
        off = _disabled()
        found = (offer for offer in self._scan().offers if offer.group == self.group)
        return [offer for offer in found if _is_off(offer, off) == switched_off]

    def _unknown(self, name: object) -> RegistryError:
        found = f"unknown {self.kind} {quote(name)}"
        distribution, short = parse(name) or (None, "")
        for offer in self._offers(switched_off=True):
            if short == offer.name and distribution in (None, offer.distribution):
                by = f"It is offered by {offer.distribution}"
                return UnknownName(found, hint=f"{by}, which {DISABLE_VARIABLE} switches off.")
        sibling = self._sibling
        if sibling is not None and sibling._match(name):
            return UnknownName(found, hint=f"{quote(name)} is a {sibling.kind}, not a {self.kind}.")
        for problem in self.problems():
            if distribution == problem.distribution:
                return UnknownName(found, hint=f"{distribution} is installed, but {problem.text}.")
        if distribution and distribution not in {offer.distribution for offer in self._offers()}:
            hint = (
                f"It comes from {distribution!r}, which is not installed or offers no such thing."
            )
            return UnknownName(found, hint=hint)
        names = self.names()
        few = ", ".join(names[:12]) + (", and others" if len(names) > 12 else "")
        return UnknownName(found, hint=did_you_mean(name, names) or f"Known: {few}.")

    def _ambiguous(self, offers: list[Offer]) -> RegistryError:
        # In order of name: a folder lists its distributions in any.
        offers = sorted(offers, key=lambda offer: offer.distribution)
        short, names = offers[0].name, list(dict.fromkeys(map(_qualified, offers)))
        offered = " and ".join(str(_entry(offer, short)) for offer in offers)
        if len(names) == 1:
            return BrokenPlugin(
                f"{self.kind} {names[0]!r} is offered more than once: {offered}",
                hint=f"The fault is in {offers[0].distribution}: tell its authors.",
            )
        return AmbiguousName(
            f"{self.kind} {short!r} is offered by {offered}",
            hint=f"Write {' or '.join(map(repr, names))}.",
        )


def target_of(thing: object) -> str:
    """Return ``module:qualname`` of a class, or of an instance's class.

    >>> target_of(dict), target_of({})
    ('builtins:dict', 'builtins:dict')
    """
    cls = thing if isinstance(thing, type) else type(thing)
    return f"{cls.__module__}:{cls.__qualname__}"


def _qualified(offer: Offer) -> str:
    return f"{offer.distribution}/{offer.name}"


def _entry(offer: Offer, name: str) -> Entry:
    return Entry(name, offer.distribution, offer.version, offer.point.value)


def _split(target: str) -> tuple[str, str]:
    module, _, attribute = target.partition(":")
    return module, attribute


def _peek(module: str, attribute: str) -> object:
    """Return what a target leads to if its module is loaded already, else `_MISSING`."""
    thing: object = sys.modules.get(module)
    try:
        for part in attribute.split("."):
            thing = getattr(thing, part)
    except Exception:  # a module's own __getattr__ may raise anything
        return _MISSING
    return thing


def _disabled() -> frozenset[str]:
    value = os.environ.get(DISABLE_VARIABLE, "")
    return frozenset(map(_plain, value.split(","))) - {""}


def _plain(name: str) -> str:
    """Return a distribution's name, qualified or not, as the variable's readers compare it."""
    return normalize_distribution(name.strip())


def _is_off(offer: Offer, off: frozenset[str]) -> bool:
    names = ("1", "true", "all", "__all__", offer.distribution, _qualified(offer))
    return bool(off) and not off.isdisjoint(map(_plain, names))
