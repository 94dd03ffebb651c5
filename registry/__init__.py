"""Names to things: registrations, built-in tables and entry points. Standard library only."""

from .discovery import INSTALLED, Problem
from .entry import Entry
from .errors import (
    AmbiguousName,
    BrokenPlugin,
    MobileVLMError,
    NameTaken,
    RegistryError,
    UnknownName,
)
from .names import describe_error, did_you_mean, first_line, printable, quote
from .plugins import Plugin
from .registry import Registry
from .switches import ALL, DISABLE_VARIABLE, STRICT_VARIABLE, disabled

__all__ = [
    "ALL",
    "DISABLE_VARIABLE",
    "INSTALLED",
    "STRICT_VARIABLE",
    "AmbiguousName",
    "BrokenPlugin",
    "Entry",
    "MobileVLMError",
    "NameTaken",
    "Plugin",
    "Problem",
    "Registry",
    "RegistryError",
    "UnknownName",
    "describe_error",
    "did_you_mean",
    "disabled",
    "first_line",
    "printable",
    "quote",
]
