"""What a package needs according to its metadata, what of it is installed, and how to get it."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

__all__ = ["Requirement", "fits", "install_command", "requirements"]

OWN = "mobilevlm"

_REQUIREMENT = re.compile(r"([\w.-]+)\s*(?:\[[^]]*\])?\s*\(?([^;)]*)\)?\s*(?:;(.*))?", re.ASCII)
_EXTRA = re.compile(r"""\bextra\s*==\s*["']([^"']+)""")
_CLAUSE = re.compile(r"(~=|==|!=|<=|>=|<|>)\s*v?(\d+(?:\.\d+)*)(\.\*)?")
_COMPARE = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True)
class Requirement:
    """One package that is needed, always or for an extra.

    Attributes:
        name: The package.
        extra: The extra that needs it; empty if the library always does.
        wanted: The versions that will do, such as ``>=2.6``; empty for any.
        found: The version that is installed; empty if none is.
    """

    name: str
    extra: str
    wanted: str
    found: str

    @property
    def state(self) -> str:
        """One of ``ok``, ``not installed`` and ``does not fit``."""
        if not self.found:
            return "not installed"
        return "ok" if fits(self.found, self.wanted) else "does not fit"


def requirements(distribution: str = OWN) -> list[Requirement]:
    """Return what a distribution needs: first what it always needs, then extra by extra.

    Raises:
        PackageNotFoundError: It is not installed.
    """
    found = []
    for line in requires(distribution) or ():
        match = _REQUIREMENT.match(line)
        if match is None or match[1] == distribution:  # an extra made of other extras
            continue
        name, wanted, marker = match[1], match[2].strip(), match[3] or ""
        extra = _EXTRA.search(marker)
        found.append(Requirement(name, extra[1] if extra else "", wanted, _installed(name)))
    return sorted(found, key=lambda each: (each.extra, each.name))


def install_command(extra: str) -> str:
    """Return the command that installs what an extra of this package needs.

    It names the packages themselves, so it works wherever this package came from: a package index
    may hold another one of the same name.
    """
    try:
        lines = requires(OWN) or ()
    except PackageNotFoundError:
        lines = ()
    needed = []
    for line in lines:
        package, _, marker = line.partition(";")
        found = _EXTRA.search(marker)
        if found and found[1] == extra:
            needed.append('"' + re.sub(r"[\s()]", "", package) + '"')
    if not needed:  # without metadata there is no installation, so this is a clone
        needed = [f'".[{extra}]"']
    return f"pip install {' '.join(needed)}"


def fits(found: str, wanted: str) -> bool:
    """Return whether a version is among those wanted; pre-releases count as the release.

    >>> fits("2.13.0+cpu", ">=2.6,<3"), fits("0.9", ">=0.10"), fits("1.4.2", "~=1.4.0")
    (True, False, True)
    """
    return all(_fits(_release(found), clause) for clause in filter(None, wanted.split(",")))


def _fits(release: tuple[int, ...], clause: str) -> bool:
    match = _CLAUSE.match(clause.strip())
    if match is None:  # of a form that is not read here
        return True
    relation, bound, star = match[1], _release(match[2]), match[3]
    if relation == "~=":
        return release >= bound and _cut(release, len(bound) - 1) == bound[:-1]
    length = len(bound) if star else max(len(release), len(bound))
    return bool(_COMPARE[relation](_cut(release, length), _cut(bound, length)))


def _release(text: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(map(int, match[0].split("."))) if match else ()


def _cut(release: tuple[int, ...], length: int) -> tuple[int, ...]:
    return (*release, *[0] * length)[:length]


def _installed(name: str) -> str:
    try:
        return version(name) or "?"
    except PackageNotFoundError:
        return ""
