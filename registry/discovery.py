"""Find the entry points of installed distributions; one broken distribution breaks only itself.

`importlib.metadata.entry_points()` raises for everyone when any installed package has a malformed
`entry_points.txt`, so distributions are walked one by one here, each under guard.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, distributions

from .names import DISTRIBUTION, normalize, normalize_distribution, quote

__all__ = ["Discovery", "Offer", "Problem", "discover"]

UNNAMED = "?"  # stands for a name that cannot be read, or not be written in a document
OWN = "mobilevlm"  # our own entry points mirror the built-in table for other tools to read
GROUP = re.compile(r"^\s*\[\s*mobilevlm\.", re.MULTILINE)


@dataclass(frozen=True)
class Offer:
    """One usable entry point: `distribution` `version` offers `name`."""

    name: str
    distribution: str
    version: str
    group: str
    point: EntryPoint


@dataclass(frozen=True)
class Problem:
    """Something in an installed distribution that could not be used, and why."""

    distribution: str
    text: str


@dataclass(frozen=True)
class Discovery:
    """What one walk over the installed distributions found."""

    offers: tuple[Offer, ...]
    problems: tuple[Problem, ...]


def discover() -> Discovery:
    """Walk the installed distributions once. Imports nothing; the first on the path wins."""
    offers: list[Offer] = []
    problems: list[Problem] = []
    seen: set[str] = set()
    found = iter(distributions())
    while True:
        try:
            dist = next(found)
        except StopIteration:
            break
        except Exception as error:  # a finder that some package put on sys.meta_path
            problems.append(Problem("unknown", f"a finder of distributions failed: {error!r}"))
            break
        name, version = _identity(dist)
        if name == OWN or name in seen:
            continue
        if name != UNNAMED:
            seen.add(name)
        try:
            offers += _offers(dist, name, version, problems)
        except Exception as error:  # metadata of strangers: anything may come out of it
            problems.append(Problem(name, f"its entry points cannot be read: {error!r}"))
    return Discovery(tuple(dict.fromkeys(offers)), tuple(problems))


def _offers(
    dist: Distribution, name: str, version: str, problems: list[Problem]
) -> Iterator[Offer]:
    if not GROUP.search(dist.read_text("entry_points.txt") or ""):
        return
    if name == UNNAMED:
        text = f"its metadata has no usable name; it is in {quote(str(dist.locate_file('')), 200)}"
        problems.append(Problem(name, text))
        return
    for point in dict.fromkeys(dist.entry_points):
        if not point.group.startswith("mobilevlm."):
            continue
        short = normalize(point.name)
        target = EntryPoint.pattern.match(point.value)
        if short is None or not target or not target["attr"]:
            what = "name" if short is None else "target"
            written = quote(f"{point.name} = {point.value}")
            text = f"entry point {written} in [{point.group}] has no usable {what}"
            problems.append(Problem(name, text))
            continue
        yield Offer(short, name, version, point.group, point)


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
