"""The errors of the whole library start here: one family, one shape of message."""

from __future__ import annotations

__all__ = [
    "AmbiguousName",
    "BrokenPlugin",
    "MobileVLMError",
    "NameTaken",
    "PluginWarning",
    "RegistryError",
    "UnknownName",
]


class MobileVLMError(Exception):
    """Base of every error this library raises on purpose.

    The message reads ``where: found; expected ... . hint``, and each part is an attribute, so that
    a program can use it without parsing text.

    Args:
        found: What is wrong, as it was met.
        where: The path in the document, the tensor or the argument.
        expected: What would have been right.
        hint: One thing to try, as a sentence.
    """

    def __init__(self, found: str, where: str = "", expected: str = "", hint: str = "") -> None:
        # All four are positional args, so that the default pickling of exceptions keeps them.
        super().__init__(found, where, expected, hint)
        self.found = found
        self.where = where
        self.expected = expected
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.found}" if self.where else self.found
        if self.expected:
            text += f"; expected {self.expected}"
        return f"{text}. {self.hint}" if self.hint else text


class RegistryError(MobileVLMError, LookupError):
    """A name that cannot be looked up or registered.

    A `LookupError`, never a `KeyError`: callers catch `KeyError` for reasons of their own.
    """


class UnknownName(RegistryError):
    """Nothing is registered under that name."""


class AmbiguousName(RegistryError):
    """Two installed distributions offer the same short name."""


class NameTaken(RegistryError):
    """The name to register belongs to somebody else."""


class BrokenPlugin(RegistryError):
    """An entry point was found but what it points to cannot be used."""


class PluginWarning(UserWarning):
    """A plugin works, but its import printed something or changed global state."""
