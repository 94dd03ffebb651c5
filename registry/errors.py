"""The errors of the whole library start here: one family, one shape of message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .names import printable

__all__ = [
    "AmbiguousName",
    "BrokenPlugin",
    "MobileVLMError",
    "NameTaken",
    "RegistryError",
    "UnknownName",
]


class MobileVLMError(Exception):
    """Base of every error this library raises on purpose.

    The message reads ``where: found; expected ... . hint``, and each part is an attribute, so that
    a program can use it without parsing text.

    Args:
        found: What is wrong.
        where: The path in the document, the tensor's key or the argument.
        expected: What would have been right.
        hint: One thing to try, as a sentence; or, where that takes a search, a function that
            returns it. It is called when the hint is first read, so that an error that is caught
            and dropped costs nothing.
    """

    def __init__(
        self, found: str, where: str = "", expected: str = "", hint: str | Callable[[], str] = ""
    ) -> None:
        super().__init__(found, where, expected, hint if isinstance(hint, str) else "")
        self.found = found
        self.where = printable(where)  # with paths in it, which may hold anything
        self.expected = expected
        self._hint = hint

    @property
    def hint(self) -> str:
        """One thing to try, as a sentence; may be empty."""
        if not isinstance(self._hint, str):
            self._hint = self._hint()
        return self._hint

    @hint.setter
    def hint(self, hint: str | Callable[[], str]) -> None:
        self._hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        four = (self.found, self.where, self.expected, self.hint)
        return type(self), four, self.__dict__

    def __str__(self) -> str:
        text = f"{self.where}: {self.found}" if self.where else self.found
        if self.expected:
            text += f"; expected {self.expected}"
        return printable(f"{text}. {self.hint}" if self.hint else text, keep="\n")


class RegistryError(MobileVLMError, LookupError):
    """A name that cannot be looked up or registered.

    A `LookupError`, never a `KeyError`: callers catch `KeyError` for reasons of their own.
    """


class UnknownName(RegistryError):
    """Nothing is registered under that name."""


class AmbiguousName(RegistryError):
    """Two installed distributions offer the same short name."""


class NameTaken(RegistryError):
    """The name to register is already taken."""


class BrokenPlugin(RegistryError):
    """An entry point was found, but its target cannot be imported or is of the wrong kind."""
