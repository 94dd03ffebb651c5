"""Find the entry points of installed distributions; one broken distribution breaks only itself.

`importlib.metadata.entry_points()` raises for everyone when any installed package has a malformed
`entry_points.txt`, so distributions are walked one by one here, each under guard.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, MetadataPathFinder, distributions

from .entry import Entry
from .names import DISTRIBUTION, RULE, normalize, normalize_distribution, quote

__all__ = ["LOCK", "Discovery", "Installed", "Offer", "Problem", "discover", "tell", "update"]

UNNAMED = "?"  # stands for a name that cannot be read, or not be written in a document
OWN = "mobilevlm"  # our own entry points mirror the built-in table for other tools to read
GROUP = re.compile(r"^\s*\[\s*mobilevlm\.", re.MULTILINE)

# One for all registries, so that a fork can wait for it: a child must not find it taken for good.
LOCK = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=LOCK.release
    )


@dataclass(frozen=True)
class Offer:
    """One usable entry point: `distribution` `version` offers `name`."""

    name: str
    distribution: str
    version: str
    group: str
    point: EntryPoint

    @property
    def qualified(self) -> str:
        """The name that it always answers to."""
        return f"{self.distribution}/{self.name}"

    def entry(self, name: str) -> Entry:
        """Return its entry, under the name to write."""
        return Entry(name, self.distribution, self.version, self.point.value)

    @property
    def package(self) -> str:
        """The top-level package that it lives in."""
        return self.point.module.partition(".")[0]

    @property
    def location(self) -> str:
        """The folder or zip file that it is installed in."""
        return _location(self.point.dist)

    @property
    def is_gone(self) -> bool:
        """Whether it was uninstalled since it was found."""
        try:
            return not (self.point.dist and self.point.dist.read_text("entry_points.txt"))
        except Exception:  # metadata of strangers
            return False


@dataclass(frozen=True)
class Problem:
    """Something wrong with an installed distribution, and how to mend it.

    Attributes:
        distribution: Whose it is.
        text: What is wrong.
        hint: One thing to try, as a sentence.
        name: The short name that it keeps from working, if it is a name's.
    """

    distribution: str
    text: str
    hint: str = ""
    name: str = ""

    def __str__(self) -> str:
        return f"{self.distribution}: {self.text}" + (f". {self.hint}" if self.hint else "")


@dataclass(frozen=True)
class Discovery:
    """What one walk over the installed distributions found."""

    offers: tuple[Offer, ...]
    problems: tuple[Problem, ...]


class Installed:
    """What is installed here: looked at once, until asked to forget it."""

    def __init__(self) -> None:
        self._found: Discovery | None = None

    def scan(self) -> Discovery:
        """Return what there is, walking the distributions the first time."""
        found = self._found
        if found is None:
            with LOCK:
                found = self._found = self._found or discover()
        return found

    def forget(self) -> None:
        """Look again next time."""
        importlib.invalidate_caches()
        MetadataPathFinder().invalidate_caches()  # the line above does it from Python 3.12 on
        with LOCK:
            self._found = None


def discover() -> Discovery:
    """Walk the installed distributions once. Imports nothing; the first on the path wins."""
    offers: list[Offer] = []
    problems: list[Problem] = []
    seen: dict[str, tuple[str, Distribution]] = {}
    found = iter(distributions())
    while True:
        try:
            dist = next(found)
        except StopIteration:
            break
        except Exception as error:  # a finder that some package put on sys.meta_path
            text = f"a finder of distributions failed: {error!r}"
            problems.append(Problem("unknown", text, "Some package put it on sys.meta_path."))
            break
        name, version = _identity(dist)
        if name == OWN:
            continue
        try:
            if name in seen:
                problems += _copies(name, seen[name], (version, dist))
                continue
            if name != UNNAMED:
                seen[name] = version, dist
            offers += _offers(dist, name, version, problems)
        except Exception as error:  # metadata of strangers: anything may come out of it
            text = f"its entry points cannot be read: {error!r}"
            problems.append(Problem(name, text, update(name)))
    # In order: a folder lists its distributions in any.
    problems.sort(key=lambda problem: (problem.distribution, problem.text))
    return Discovery(tuple(dict.fromkeys(offers)), tuple(dict.fromkeys(problems)))


def update(distribution: str) -> str:
    """Return what a user can do about a plugin that does not work."""
    return f"The fault is in {distribution}: update or uninstall it."


def tell(distribution: str) -> str:
    """Return what a user can do about a plugin that was never right."""
    return f"The fault is in {distribution}: tell its authors."


def _copies(
    name: str, first: tuple[str, Distribution], second: tuple[str, Distribution]
) -> Iterator[Problem]:
    """Say so if a distribution hides another copy of itself that offers something else."""
    texts = []
    for _, dist in (first, second):
        with contextlib.suppress(Exception):  # what cannot be read was told of, or is not used
            texts.append(dist.read_text("entry_points.txt") or "")
    # The same twice is most likely a source tree on the path.
    differ = first[0] != second[0] or len(set(texts)) > 1
    if differ and any(map(GROUP.search, texts)):
        used, hidden = (f"{version} in {_place(dist)}" for version, dist in (first, second))
        hint = f"Uninstall the one you do not want: pip uninstall {name}"
        yield Problem(name, f"{used} hides {hidden}", hint)


def _location(dist: Distribution | None) -> str:
    return str(dist.locate_file("")) if dist else UNNAMED


def _place(dist: Distribution) -> str:
    return quote(_location(dist), 200)


def _offers(
    dist: Distribution, name: str, version: str, problems: list[Problem]
) -> Iterator[Offer]:
    if not GROUP.search(dist.read_text("entry_points.txt") or ""):
        return
    if name == UNNAMED:
        text = f"its metadata has no usable name; it is in {_place(dist)}"
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
        yield Offer(short, name, version, point.group, point)


def _unusable(point: EntryPoint, short: str | None, distribution: str) -> Problem:
    lower = normalize(point.name.lower())
    if short is not None:
        what, expected = "target", f"{short} = package.module:Class"
    else:
        what, expected = "name", f"{lower!r}, in lower case" if lower else RULE
    written = quote(f"{point.name} = {point.value}")
    text = f"entry point {written} in [{point.group}] has no usable {what}; expected {expected}"
    return Problem(distribution, text, tell(distribution), short or lower or "")


def _identity(dist: Distribution) -> tuple[str, str]:
    """Read name and version off the metadata's headers; parsing all of it costs ten times more."""
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
    usable = DISTRIBUTION.fullmatch(name)
    return normalize_distribution(name) if usable else UNNAMED, found.get("Version", "?")
