"""The plugins of one registry: their entry points, status and import."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from .discovery import Installed, PluginEntryPoint, Problem, report_hint, update_hint
from .entry import Entry
from .errors import AmbiguousName, BrokenPlugin, RegistryError
from .names import first_line, quote
from .switches import DISABLE_VARIABLE, STRICT_VARIABLE, disabled, is_disabled, is_strict

__all__ = ["Plugin", "Plugins"]


@dataclass(frozen=True)
class Plugin:
    """The status of one entry point of an installed distribution.

    Attributes:
        kind: What it offers: ``block`` or ``projector``.
        entry: Its entry, under the name to write.
        location: The folder or zip file that its distribution is installed in.
        state: ``off`` if it is switched off, ``broken`` if it cannot be used, ``works`` once it is
            imported, else ``ready``.
        text: Why it is broken.
        hint: One thing to try, as a sentence.
        seconds: How long its first import took, if it was imported.
    """

    kind: str
    entry: Entry
    location: str
    state: Literal["ready", "off", "broken", "works"]
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
        installed: The installed distributions, which groups may share.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        accepts: Callable[[object], bool],
        expected: str,
        installed: Installed,
    ) -> None:
        self.kind = kind
        self.group = group
        self.installed = installed
        self._accepts = accepts
        self._expected = expected
        # By qualified name: the module, and how long importing it took the first time.
        self._seconds: dict[str, tuple[object, float]] = {}

    def entry_points(self, *, switched_off: bool = False) -> list[PluginEntryPoint]:
        """Return the entry points in use, or those that are switched off."""
        names = disabled()
        return [
            each
            for each in self.installed.scan().entry_points
            if each.point.group == self.group
            and is_disabled(names, each.distribution, each.name) == switched_off
        ]

    def load(self, point: PluginEntryPoint) -> Any:
        """Return the object that an entry point points to, importing it the first time.

        Raises:
            BrokenPlugin: It cannot be imported or is not of this kind; the cause is chained.
        """
        loaded = self.installed.scan().loaded
        if point in loaded:
            return loaded[point]
        where = f"{self.kind} {point.qualified!r} from {point.entry(point.qualified)}"
        start = time.perf_counter()
        try:
            thing = point.point.load()
        except KeyboardInterrupt:  # a real Ctrl-C still stops the program
            raise
        except BaseException as error:  # also what a cancelled task or a Rust panic raises
            found = f"{type(error).__name__} on import: {first_line(error)}"
            raise BrokenPlugin(found, where, hint=self._import_hint(point, error)) from error
        seconds = time.perf_counter() - start
        if not self._accepts(thing):
            found, hint = f"it leads to {quote(thing)}", report_hint(point.distribution)
            raise BrokenPlugin(found, where, self._expected, hint)
        module = sys.modules.get(point.point.module)
        if self._seconds.get(point.qualified, (None, 0.0))[0] is not module:
            self._seconds[point.qualified] = module, seconds
        return loaded.setdefault(point, thing)

    def loaded(self) -> dict[str, object]:
        """Return the objects loaded so far, by qualified name."""
        found = self.installed.scan().loaded.copy().items()
        return {each.qualified: thing for each, thing in found if each.point.group == self.group}

    def status(self, point: PluginEntryPoint, entry: Entry, *, check: bool) -> Plugin:
        """Return the status of an entry point in use; imported only to check it."""
        plugin = Plugin(self.kind, entry, point.location, "ready")
        duplicates = [each for each in self.entry_points() if each.qualified == point.qualified]
        try:
            if len(duplicates) > 1:
                raise self.ambiguous(duplicates)
            if not check:
                return plugin
            self.load(point)
        except RegistryError as error:
            return replace(plugin, state="broken", text=error.found, hint=error.hint)
        _, seconds = self._seconds.get(point.qualified, (None, None))
        return replace(plugin, state="works", seconds=seconds)

    def problems(self, *, switched_off: bool = False) -> list[Problem]:
        """Return what is wrong with the metadata of plugins in use, or of those switched off."""
        names = disabled()
        found = self.installed.scan().problems
        return [each for each in found if is_disabled(names, each.distribution) == switched_off]

    def conflicts(self, builtins: Container[str]) -> Iterator[Problem]:
        """Yield the short names that do not lead to the plugin that offers them."""
        by_name: dict[str, list[PluginEntryPoint]] = {}
        for point in self.entry_points():
            by_name.setdefault(point.name, []).append(point)
        for name, points in sorted(by_name.items()):
            points.sort(key=lambda point: point.distribution)
            if name in builtins:
                for point in points:
                    text = f"its {self.kind} {name!r} has the name of a built-in, which keeps it"
                    hint = f"Write {point.qualified!r}, or set {DISABLE_VARIABLE}={point.qualified}"
                    yield Problem(point.distribution, text, hint, name)
            elif len(points) > 1:
                error = self.ambiguous(points)
                yield Problem(points[0].distribution, error.found, error.hint, name)

    def check_strict(self, builtins: Container[str]) -> None:
        """In strict mode, refuse to go on while anything is wrong with a plugin's metadata."""
        found = (*self.problems(), *self.conflicts(builtins)) if is_strict() else ()
        if found:
            text = f"{found[0].distribution}: {found[0].text}"
            text += f" (and {len(found) - 1} more)" if found[1:] else ""
            hint = f"{found[0].hint.rstrip('.')}. 'mobilevlm doctor' shows every problem."
            raise BrokenPlugin(text, STRICT_VARIABLE, hint=hint)

    def ambiguous(self, points: Sequence[PluginEntryPoint]) -> RegistryError:
        """Return the error that one name is offered more than once."""
        # Sorted: the order of distributions within a folder is arbitrary.
        points = sorted(points, key=lambda point: point.distribution)
        short, names = points[0].name, list(dict.fromkeys(point.qualified for point in points))
        offered = " and ".join(str(point.entry(short)) for point in points)
        if len(names) == 1:
            found = f"{self.kind} {names[0]!r} is offered more than once: {offered}"
            return BrokenPlugin(found, hint=report_hint(points[0].distribution))
        return AmbiguousName(
            f"{self.kind} {short!r} is offered by {offered}",
            hint=f"Write {' or '.join(map(repr, names))}, or switch one off by {DISABLE_VARIABLE}.",
        )

    def _import_hint(self, point: PluginEntryPoint, error: BaseException) -> str:
        """Return what to try when an import fails."""
        who = point.distribution
        if point.is_gone:
            return f"{who} was uninstalled meanwhile: call {self.kind.upper()}S.refresh()."
        missing = (isinstance(error, ModuleNotFoundError) and error.name) or ""
        if missing and missing.partition(".")[0] != point.package:
            return f"{who} needs {missing!r}: install that, or uninstall {who}."
        return update_hint(who)
