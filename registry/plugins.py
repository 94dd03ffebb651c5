"""Plugins: what installed distributions offer one registry, imported under guard and watched."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from .discovery import LOCK, Installed, Offer, Problem, tell, update
from .entry import Entry
from .errors import AmbiguousName, BrokenPlugin, PluginWarning, RegistryError
from .names import first_line, quote
from .switches import DISABLE_VARIABLE, STRICT_VARIABLE, disabled, is_off, is_strict
from .watch import Load, Probe, watch

__all__ = ["Plugin", "Plugins"]


@dataclass(frozen=True)
class Plugin:
    """How one entry point of an installed distribution fares here.

    Attributes:
        kind: What it offers: ``block`` or ``projector``.
        entry: Its entry, under the name to write.
        location: The folder or zip file that its distribution is installed in.
        state: ``off`` if it is switched off, ``broken`` if it cannot be used, else ``ready``; once
            imported, ``works``, or ``untidy`` if its import printed or changed global state.
        text: Why it is broken or untidy.
        hint: One thing to try, as a sentence.
        seconds: How long its import took, if it was imported.
    """

    kind: str
    entry: Entry
    location: str
    state: Literal["ready", "off", "broken", "works", "untidy"]
    text: str = ""
    hint: str = ""
    seconds: float | None = None


class Plugins:
    """The entry points of one group.

    Args:
        kind: The singular noun for messages, such as ``block``.
        group: The entry-point group.
        accepts: Whether a loaded object is of this kind.
        expected: What `accepts` wants, in words.
        installed: The look at the installed distributions, which groups may share.
        probes: Returns the global state to watch while a plugin is imported.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        accepts: Callable[[object], bool],
        expected: str,
        installed: Installed,
        probes: Callable[[], Sequence[Probe]],
    ) -> None:
        self.kind = kind
        self.group = group
        self.installed = installed
        self.probes = probes
        self._accepts = accepts
        self._expected = expected
        # What the first import did, with the module it made. Replaced, never changed.
        self._loads: dict[str, tuple[object, Load]] = {}

    def offers(self, *, switched_off: bool = False) -> list[Offer]:
        """Return what is offered: what is in use, or what is switched off."""
        off = disabled()
        found = (offer for offer in self.installed.scan().offers if offer.group == self.group)
        return [each for each in found if is_off(off, each.distribution, each.name) == switched_off]

    def load(self, offer: Offer) -> Any:
        """Return what an offer leads to.

        Raises:
            BrokenPlugin: It cannot be imported or is not of this kind; the cause is chained. In
                strict mode, its import had effects.
        """
        thing, load = self._import(offer)
        effects = self._loads[offer.qualified][1].effects
        if effects and is_strict():
            raise BrokenPlugin(f"its import {effects}", self._where(offer), "", _tell(offer))
        if load.effects:
            text = f"{self._where(offer)}: its import {load.effects}. {_tell(offer)}"
            warnings.warn(text, PluginWarning, stacklevel=3)
        return thing

    def report(self, offer: Offer, entry: Entry, *, check: bool) -> Plugin:
        """Say how an offer in use fares; imported only to check it."""
        plugin = Plugin(self.kind, entry, offer.location, "ready")
        twins = [each for each in self.offers() if each.qualified == offer.qualified]
        try:
            if len(twins) > 1:
                raise self.ambiguous(twins)
            if not check:
                return plugin
            self._import(offer)
        except RegistryError as error:
            return replace(plugin, state="broken", text=error.found, hint=error.hint)
        load = self._loads[offer.qualified][1]
        if not load.effects:
            return replace(plugin, state="works", seconds=load.seconds)
        text = f"its import {load.effects}"
        return replace(plugin, state="untidy", text=text, hint=_tell(offer), seconds=load.seconds)

    def problems(self, *, switched_off: bool = False) -> list[Problem]:
        """Return what is wrong with the metadata of what is in use, or of what is switched off."""
        off = disabled()
        found = self.installed.scan().problems
        return [each for each in found if is_off(off, each.distribution) == switched_off]

    def conflicts(self, is_built_in: Callable[[str], bool]) -> Iterator[Problem]:
        """Yield the short names that do not lead to the plugin that offers them."""
        rivals: dict[str, list[Offer]] = {}
        for offer in self.offers():
            rivals.setdefault(offer.name, []).append(offer)
        for name, offers in sorted(rivals.items()):
            offers.sort(key=lambda offer: offer.distribution)
            if is_built_in(name):
                for offer in offers:
                    text = f"its {self.kind} {name!r} has the name of a built-in, which keeps it"
                    hint = f"Write {offer.qualified!r}, or set {DISABLE_VARIABLE}={offer.qualified}"
                    yield Problem(offer.distribution, text, hint, name)
            elif len(offers) > 1:
                error = self.ambiguous(offers)
                yield Problem(offers[0].distribution, error.found, error.hint, name)

    def insist(self, is_built_in: Callable[[str], bool]) -> None:
        """In strict mode, refuse to go on while anything is wrong with a plugin's metadata."""
        found = (*self.problems(), *self.conflicts(is_built_in)) if is_strict() else ()
        if found:
            text = f"{found[0].distribution}: {found[0].text}"
            text += f" (and {len(found) - 1} more)" if found[1:] else ""
            hint = f"{found[0].hint.rstrip('.')}. 'mobilevlm doctor' shows every problem."
            raise BrokenPlugin(text, STRICT_VARIABLE, hint=hint)

    def ambiguous(self, offers: Sequence[Offer]) -> RegistryError:
        """Return the error that one name is offered more than once."""
        # In order of name: a folder lists its distributions in any.
        offers = sorted(offers, key=lambda offer: offer.distribution)
        short, names = offers[0].name, list(dict.fromkeys(offer.qualified for offer in offers))
        offered = " and ".join(str(offer.entry(short)) for offer in offers)
        if len(names) == 1:
            found = f"{self.kind} {names[0]!r} is offered more than once: {offered}"
            return BrokenPlugin(found, hint=_tell(offers[0]))
        return AmbiguousName(
            f"{self.kind} {short!r} is offered by {offered}",
            hint=f"Write {' or '.join(map(repr, names))}, or switch one off by {DISABLE_VARIABLE}.",
        )

    def _where(self, offer: Offer) -> str:
        return f"{self.kind} {offer.qualified!r} from {offer.entry(offer.qualified)}"

    def _import(self, offer: Offer) -> tuple[Any, Load]:
        """Return what an offer leads to and what importing it did; remember the latter."""
        fault: BaseException | None = None
        with watch(self.probes()) as load:
            try:
                thing = offer.point.load()
            except KeyboardInterrupt:  # a real Ctrl-C still stops the program
                raise
            except BaseException as error:  # also what a cancelled task or a Rust panic raises
                fault = error
        if fault is not None:
            found = f"{type(fault).__name__} on import: {first_line(fault)}"
            found += f"; it {load.effects}" if load.effects else ""
            hint = self._remedy(offer, fault)
            raise BrokenPlugin(found, self._where(offer), hint=hint) from fault
        if not self._accepts(thing):
            found = f"it leads to {quote(thing)}"
            raise BrokenPlugin(found, self._where(offer), self._expected, _tell(offer))
        module = sys.modules.get(offer.point.module)
        with LOCK:
            # Of several threads one imports it; the others wait for it, and see no effects.
            known = self._loads.get(offer.qualified)
            if known is None or known[0] is not module or load.effects:
                self._loads = {**self._loads, offer.qualified: (module, load)}
        return thing, load

    def _remedy(self, offer: Offer, fault: BaseException) -> str:
        who = offer.distribution
        if offer.is_gone:
            return f"{who} was uninstalled meanwhile: call {self.kind.upper()}S.refresh()."
        missing = (isinstance(fault, ModuleNotFoundError) and fault.name) or ""
        if missing and missing.partition(".")[0] != offer.package:
            return f"{who} needs {missing!r}: install that, or uninstall {who}."
        return update(who)


def _tell(offer: Offer) -> str:
    return tell(offer.distribution)
