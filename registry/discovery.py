"""Find the entry points of installed distributions; one broken distribution breaks only itself.

`importlib.metadata.entry_points()` raises for everyone when any installed package has a malformed
`entry_points.txt`, so distributions are read one by one here, each under guard.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import Distribution, EntryPoint, MetadataPathFinder, distributions

from .entry import Entry
from .names import DISTRIBUTION_NAME, RULE, normalize, normalize_distribution, quote
from .requirements import installed_as

__all__ = [
    "INSTALLED",
    "Discovery",
    "Installed",
    "PluginEntryPoint",
    "Problem",
    "discover",
    "report_hint",
    "update_hint",
]

UNNAMED = "?"  # stands for a name that cannot be read, or cannot be written in a document
GROUP = re.compile(r"^\s*\[\s*mobilevlm\.", re.MULTILINE)


@dataclass(frozen=True)
class PluginEntryPoint:
    """One usable entry point: `distribution` `version` offers `name`."""

    name: str
    distribution: str
    version: str
    location: str  # the folder or zip file that it is installed in
    point: EntryPoint

    @property
    def qualified(self) -> str:
        """The name that it always answers to."""
        return f"{self.distribution}/{self.name}"

    @property
    def target(self) -> str:
        """Its target, ``module:attribute``, without any extras."""
        return f"{self.point.module}:{self.point.attr}"

    def entry(self, name: str) -> Entry:
        """Return its entry, under the name to write."""
        return Entry(name, self.distribution, self.version, self.point.value)

    @property
    def package(self) -> str:
        """The top-level package that it lives in."""
        return self.point.module.partition(".")[0]

    @property
    def is_gone(self) -> bool:
        """Whether its distribution was uninstalled since it was found."""
        try:
            return not (self.point.dist and self.point.dist.read_text("entry_points.txt"))
        except Exception:  # another package's metadata may raise anything
            return False


@dataclass(frozen=True)
class Problem:
    """Something wrong with an installed distribution, and how to fix it.

    Attributes:
        distribution: The distribution's name.
        text: What is wrong.
        hint: One thing to try, as a sentence.
        name: The short name that does not work because of it, if there is one.
    """

    distribution: str
    text: str
    hint: str = ""
    name: str = ""

    def __str__(self) -> str:
        return f"{self.distribution}: {self.text}" + (f". {self.hint}" if self.hint else "")


@dataclass(frozen=True)
class Discovery:
    """What one walk over the installed distributions found.

    Attributes:
        entry_points: The usable ones.
        problems: What is wrong with the rest.
        loaded: The objects that usable ones point to, as far as they were loaded.
    """

    entry_points: tuple[PluginEntryPoint, ...]
    problems: tuple[Problem, ...]
    loaded: dict[PluginEntryPoint, object] = field(default_factory=dict)


class Installed:
    """The installed distributions: read once, and again after `refresh`."""

    def __init__(self) -> None:
        self._found: Discovery | None = None

    def scan(self) -> Discovery:
        """Return what is installed, reading the metadata the first time."""
        found = self._found or discover()  # another thread may forget it at any time
        self._found = found
        return found

    def refresh(self) -> None:
        """Read the metadata again next time, and load the entry points again."""
        importlib.invalidate_caches()
        MetadataPathFinder().invalidate_caches()  # the line above does it from Python 3.12 on
        self._found = None


INSTALLED = Installed()
"""The installed distributions of this process, which its two registries share."""


def discover() -> Discovery:
    """Walk the installed distributions once. Imports nothing; the first on the path wins."""
    entry_points: list[PluginEntryPoint] = []
    problems: list[Problem] = []
    seen: dict[str, tuple[str, Distribution]] = {}
    own = normalize_distribution(installed_as())
    try:
        for dist in distributions():
            name, version = _identity(dist)
            if name == own:  # our entry points mirror the built-in tables, for other tools
                continue
            if name in seen:
                problems += _hidden_copies(name, seen[name], (version, dist))
                continue
            if name != UNNAMED:
                seen[name] = version, dist
            try:
                entry_points += _entry_points(dist, name, version, problems)
            except Exception as error:  # third-party metadata may raise anything
                text = f"its entry points cannot be read: {error!r}"
                problems.append(Problem(name, text, update_hint(name)))
    except Exception as error:
        text = f"a finder of distributions failed: {error!r}"
        problems.append(Problem("unknown", text, "Some package put it on sys.meta_path."))
    # Sorted: the order of distributions within a folder is arbitrary.
    problems.sort(key=lambda problem: (problem.distribution, problem.text))
    return Discovery(tuple(dict.fromkeys(entry_points)), tuple(dict.fromkeys(problems)))


def update_hint(distribution: str) -> str:
    """Return what a user can do about a plugin that does not work."""
    return f"The fault is in {distribution}: update or uninstall it."


def report_hint(distribution: str) -> str:
    """Return what a user can do about a plugin that cannot have worked anywhere."""
    return f"The fault is in {distribution}: tell its authors."


def _hidden_copies(
    name: str, first: tuple[str, Distribution], second: tuple[str, Distribution]
) -> Iterator[Problem]:
    """Yield a problem if a distribution hides a copy of itself with other entry points."""
    texts = []
    for _, dist in (first, second):
        with contextlib.suppress(Exception):  # reported already, or not used
            texts.append(dist.read_text("entry_points.txt") or "")
    # Two equal copies are most likely a source tree on the path.
    differ = first[0] != second[0] or len(set(texts)) > 1
    if differ and any(map(GROUP.search, texts)):
        used, hidden = (
            f"{version} in {_quoted_location(dist)}" for version, dist in (first, second)
        )
        hint = f"Uninstall the one you do not want: pip uninstall {name}"
        yield Problem(name, f"{used} hides {hidden}", hint)


def _quoted_location(dist: Distribution) -> str:
    return quote(str(dist.locate_file("")), 200)


def _entry_points(
    dist: Distribution, name: str, version: str, problems: list[Problem]
) -> Iterator[PluginEntryPoint]:
    if not GROUP.search(dist.read_text("entry_points.txt") or ""):
        return
    if name == UNNAMED:
        text = f"its metadata has no usable name; it is in {_quoted_location(dist)}"
        problems.append(Problem(name, text, "Install what is there again, or remove it."))
        return
    for point in dict.fromkeys(dist.entry_points):
        if not point.group.startswith("mobilevlm."):
            continue
        short = normalize(point.name)
        target = EntryPoint.pattern.match(point.value)
        if short is None or not target or not target["attr"]:
            problems.append(_unusable(point, short, name))
            continue
        yield PluginEntryPoint(short, name, version, str(dist.locate_file("")), point)


def _unusable(point: EntryPoint, short: str | None, distribution: str) -> Problem:
    lower = normalize(point.name.lower())
    if short is not None:
        what, expected = "target", f"{short} = package.module:Class"
    else:
        what, expected = "name", f"{lower!r}, in lower case" if lower else RULE
    written = quote(f"{point.name} = {point.value}")
    text = f"entry point {written} in [{point.group}] has no usable {what}; expected {expected}"
    return Problem(distribution, text, report_hint(distribution), short or lower or "")


def _identity(dist: Distribution) -> tuple[str, str]:
    """Read name and version from the metadata's headers; parsing all takes ten times longer."""
    try:
        text = dist.read_text("METADATA") or dist.read_text("PKG-INFO") or ""
    except Exception:
        text = ""
    headers = text.partition("\n\n")[0]
    found = {
        key: match[1].strip()
        for key in ("Name", "Version")
        if (match := re.search(rf"^{key}:[ \t]*(.+)$", headers, re.MULTILINE))
    }
    name = found.get("Name", "")
    usable = DISTRIBUTION_NAME.fullmatch(name)
    return normalize_distribution(name) if usable else UNNAMED, found.get("Version", "?")
