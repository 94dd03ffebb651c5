"""How to install what an extra of this package needs."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires

__all__ = ["OWN", "extra_of", "install_command", "install_from_clone"]

OWN = "mobilevlm"

_EXTRA = re.compile(r""";.*\bextra\s*==\s*["']([^"']+)""")


def extra_of(requirement: str) -> str:
    """Return the extra that a line of a package's metadata belongs to; empty if to none.

    >>> extra_of('pillow>=10; extra == "demo"'), extra_of("torch>=2.6")
    ('demo', '')
    """
    match = _EXTRA.search(requirement)
    return match[1] if match else ""


def install_command(extra: str) -> str:
    """Return the command that installs what an extra of this package needs.

    It names the required packages rather than ``mobilevlm[extra]``: a package index may hold
    another package of this name.
    """
    try:
        lines = requires(OWN) or []
    except PackageNotFoundError:
        lines = []
    packages = [line.partition(";")[0] for line in lines if extra_of(line) == extra]
    if not packages:  # without metadata there is no installation, so this is a clone
        return install_from_clone(extra)
    quoted = ['"' + re.sub(r"[\s()]", "", package) + '"' for package in packages]
    return f"pip install {' '.join(quoted)}"


def install_from_clone(extra: str = "") -> str:
    """Return the command that installs this package, with an extra or without, in a clone of it.

    >>> install_from_clone("models"), install_from_clone()
    ('pip install ".[models]"', 'pip install .')
    """
    return f'pip install ".[{extra}]"' if extra else "pip install ."
