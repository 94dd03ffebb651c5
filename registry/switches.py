"""The environment variables that switch plugins off, or make their problems errors."""

from __future__ import annotations

import os

from .names import normalize_distribution

__all__ = [
    "ALL",
    "DISABLE_VARIABLE",
    "STRICT_VARIABLE",
    "disabled",
    "is_disabled",
    "is_strict",
]

DISABLE_VARIABLE = "MOBILEVLM_DISABLE_PLUGINS"
"""The variable that switches plugins off: all, or those that it names."""

STRICT_VARIABLE = "MOBILEVLM_STRICT_PLUGINS"
"""The variable that makes problems of plugins errors."""

_NO = ("", "0", "false", "no", "off")


def _plain(name: str) -> str:
    """Return a distribution's name, qualified or not, in the form that is compared."""
    return normalize_distribution(name.strip())


ALL = frozenset(map(_plain, ("1", "true", "all", "__all__")))
"""The values that switch every plugin off."""


def disabled() -> frozenset[str]:
    """Return the names that the variable switches off: distributions, qualified names or all."""
    return frozenset(map(_plain, os.environ.get(DISABLE_VARIABLE, "").split(","))) - {""}


def is_disabled(names: frozenset[str], distribution: str, name: str = "") -> bool:
    """Return whether a distribution, or one name of it, is among the names switched off."""
    return not names.isdisjoint({*ALL, distribution, f"{distribution}/{name}"})


def is_strict() -> bool:
    """Return whether anything wrong with a plugin's metadata is an error."""
    return os.environ.get(STRICT_VARIABLE, "").strip().lower() not in _NO
