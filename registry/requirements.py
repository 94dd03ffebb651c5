"""How to install this package, and what an extra of it needs."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires, version

__all__ = [
    "DISTRIBUTION",
    "OWN",
    "clone_first",
    "extra_of",
    "install_command",
    "install_own",
    "installed_as",
    "own_version",
]

OWN = "mobilevlm"

# The name of this package on an index; None while it is on none. Another library is called
# `mobilevlm` there. CONTRIBUTING.md says what to change with it.
DISTRIBUTION: str | None = None

_EXTRA = re.compile(r""";.*\bextra\s*==\s*["']([^"']+)""")


def installed_as() -> str:
    """Return the name that this package is installed under, which its metadata have."""
    return DISTRIBUTION or OWN


def own_version() -> str:
    """Return the version of this package.

    Raises:
        importlib.metadata.PackageNotFoundError: It is not installed.
    """
    return version(installed_as())


def extra_of(requirement: str) -> str:
    """Return the extra that a line of a package's metadata belongs to; empty if to none.

    >>> extra_of('pillow>=10; extra == "demo"'), extra_of("torch>=2.7")
    ('demo', '')
    """
    match = _EXTRA.search(requirement)
    return match[1] if match else ""


def install_command(extra: str) -> str:
    """Return the command that installs what an extra of this package needs.

    While no index has this package, it names the required packages: an index may hold another
    package called ``mobilevlm``.
    """
    if DISTRIBUTION is not None:
        return install_own(extra)
    try:
        lines = requires(installed_as()) or []
    except PackageNotFoundError:
        lines = []
    packages = [line.partition(";")[0] for line in lines if extra_of(line) == extra]
    if not packages:  # without metadata there is no installation, so this is a clone
        return install_own(extra)
    quoted = ['"' + re.sub(r"[\s()]", "", package) + '"' for package in packages]
    return f"pip install {' '.join(quoted)}"


def install_own(extra: str = "") -> str:
    """Return the command that installs this package, with an extra or without.

    While no index has it, the command is for a clone; see :func:`clone_first`.

    >>> install_own("models"), install_own()
    ('pip install ".[models]"', 'pip install .')
    """
    name = DISTRIBUTION or "."
    return f'pip install "{name}[{extra}]"' if extra else f"pip install {name}"


def clone_first(there: str) -> str:
    """Return words that say where :func:`install_own` is run; none once an index has the package.

    >>> clone_first(" in its clone")
    ' in its clone'
    """
    return there if DISTRIBUTION is None else ""
