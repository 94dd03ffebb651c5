"""Names to things: registrations, built-in tables and entry points. Standard library only."""

from .discovery import Problem
from .errors import (
    AmbiguousName,
    BrokenPlugin,
    MobileVLMError,
    NameTaken,
    RegistryError,
    UnknownName,
)
from .names import did_you_mean, quote
from .registry import DISABLE_VARIABLE, Entry, Registry

__all__ = [
    "DISABLE_VARIABLE",
    "AmbiguousName",
    "BrokenPlugin",
    "Entry",
    "MobileVLMError",
    "NameTaken",
    "Problem",
    "Registry",
    "RegistryError",
    "UnknownName",
    "did_you_mean",
    "quote",
]
