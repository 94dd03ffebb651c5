"""The report: one finding for each property that does not hold."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import safetensors
import torch

from ..registry import MobileVLMError, describe_error

__all__ = ["ConformanceError", "Finding", "attempt", "author_line"]

# Code that the author of a block did not write: torch, safetensors and this kit.
_TOOLS = tuple(Path(file).parent for file in (torch.__file__, safetensors.__file__, __file__))


class Finding(MobileVLMError):
    """A property that does not hold: what was found, where, what was expected, and a hint."""


class ConformanceError(MobileVLMError, AssertionError):
    """Some properties of a block or a projector do not hold.

    Attributes:
        findings: The finding of each such property, by name. If an exception caused it, that is
            its ``__cause__``.
    """

    findings: Mapping[str, Finding]

    @classmethod
    def of(cls, title: str, findings: Mapping[str, Finding], total: int, left: int) -> Self:
        """Return the error that reports these findings.

        Args:
            title: The name of the block or projector.
            findings: The findings, by property.
            total: The number of properties to check.
            left: The number of properties not checked because of these findings.
        """
        verb = "does" if len(findings) == 1 else "do"
        head = f"{len(findings)} of {total} properties {verb} not hold"
        parts = [head + (f"; {left} are checked once it does" if left else "")]
        for name, finding in findings.items():
            lines = [f"{name}, on {finding.where}" if finding.where else name]
            facts = {"found": finding.found, "expected": finding.expected, "hint": finding.hint}
            lines += [f"  {word}: {text}" for word, text in facts.items() if text]
            parts.append("\n".join(lines))
        error = cls("\n\n".join(parts), title)
        error.findings = dict(findings)
        return error


@contextmanager
def attempt(
    doing: str,
    where: str = "",
    expected: str = "",
    hint: str = "",
    passing: type[MobileVLMError] = Finding,
) -> Iterator[None]:
    """Turn any exception of the author's code into a finding, except errors that may pass."""
    try:
        yield
    except passing:
        raise
    except Exception as error:
        # Errors of this library name the place themselves.
        ours = isinstance(error, MobileVLMError)
        line = "" if ours else author_line(traceback.extract_tb(error.__traceback__))
        found = f"{doing} raises {describe_error(error)}{line}"
        raise Finding(found, where, expected, hint) from error


def author_line(frames: Iterable[traceback.FrameSummary] | None = None) -> str:
    """Return the author's line among these frames, by default the callers'; "" if there is none."""
    own = [
        f" ({file.name}:{frame.lineno})"
        for frame in (traceback.extract_stack() if frames is None else frames)
        if (file := Path(frame.filename)).is_file()
        and not any(file.is_relative_to(tool) for tool in _TOOLS)
    ]
    return own[-1] if own else ""
