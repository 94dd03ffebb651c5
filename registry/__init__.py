"""Names to things: registrations, built-in tables and entry points. Standard library only."""

from .discovery import Problem
from .entry import Entry
from .errors import (
    AmbiguousName,
    BrokenPlugin,
    MobileVLMError,
    NameTaken,
    PluginWarning,
    RegistryError,
    UnknownName,
)
from .names import did_you_mean, first_line, printable, quote, told
from .plugins import Plugin
from .registry import Registry
from .switches import ALL, DISABLE_VARIABLE, STRICT_VARIABLE, disabled
from .watch import Load, Probe

__all__ = [
    "ALL",
    "DISABLE_VARIABLE",
    "STRICT_VARIABLE",
    "AmbiguousName",
    "BrokenPlugin",
    "Entry",
    "Load",
    "MobileVLMError",
    "NameTaken",
    "Plugin",
    "PluginWarning",
    "Probe",
    "Problem",
    "Registry",
    "RegistryError",
    "UnknownName",
    "did_you_mean",
    "disabled",
    "first_line",
    "printable",
    "quote",
    "told",
]
