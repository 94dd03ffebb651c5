"""The packages that the metadata of this package requires, and whether the installed ones match."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

from ..registry.requirements import extra_of

__all__ = ["Requirement", "matches", "requirements"]


@dataclass(frozen=True)
class Requirement:
    """A package that is required, always or for an extra.

    Attributes:
        name: The package.
        extra: The extra that requires it; empty if the library always does.
        wanted: The versions that match, such as ``>=2.6``; empty for any.
        found: The installed version; empty if it is not installed.
        state: One of ``ok``, ``not installed`` and ``does not fit``.
    """

    name: str
    extra: str
    wanted: str
    found: str
    state: str


def requirements(distribution: str) -> list[Requirement]:
    """Return what a distribution requires: first what it always requires, then extra by extra.

    Raises:
        PackageNotFoundError: It is not installed.
        ModuleNotFoundError: `packaging` is not installed.
    """
    from packaging import requirements as metadata  # doctor reports it if it is missing

    found = []
    for line in requires(distribution) or ():
        need, extra = metadata.Requirement(line), extra_of(line)
        if need.name == distribution:  # an extra made of other extras
            continue
        if need.marker is None or need.marker.evaluate({"extra": extra}):
            wanted, installed = str(need.specifier), _installed(need.name)
            state = "ok" if matches(installed, wanted) else "does not fit"
            state = state if installed else "not installed"
            found.append(Requirement(need.name, extra, wanted, installed, state))
    return sorted(found, key=lambda each: (each.extra, each.name))


def matches(found: str, wanted: str) -> bool:
    """Return whether a version is among those wanted; a pre-release counts as its release.

    >>> matches("2.13.0+cpu", ">=2.6,<3"), matches("0.9", ">=0.10"), matches("1.4.2", "~=1.4.0")
    (True, False, True)
    """
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion, Version

    try:
        release = Version(found).base_version
    except InvalidVersion:
        return not wanted
    return SpecifierSet(wanted).contains(release)


def _installed(name: str) -> str:
    try:
        return version(name) or "?"
    except PackageNotFoundError:
        return ""
