"""What the kit says: one finding per property that does not hold, and all of them as a review."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import safetensors
import torch

from ..registry import MobileVLMError

__all__ = ["ConformanceError", "Finding", "attempt", "author_line"]

_LENGTH = 300
# What the author did not write: torch, safetensors and this kit.
_TOOLS = tuple(Path(file).parent for file in (torch.__file__, safetensors.__file__, __file__))


class Finding(MobileVLMError):
    """One property that does not hold: what happened, on what, what was expected, how to mend."""


class ConformanceError(MobileVLMError, AssertionError):
    """A block or a projector that breaks some of the properties; reads like a review.

    Attributes:
        findings: What was found, by the name of the property; where an exception was behind it,
            that is its ``__cause__``.
    """

    findings: Mapping[str, Finding]

    @classmethod
    def of(cls, title: str, findings: Mapping[str, Finding], total: int, left: int) -> Self:
        """Return the error that tells these findings.

        Args:
            title: What was examined.
            findings: What was found.
            total: How many properties there are to check.
            left: How many were left unchecked for what was found.
        """
        verb = "does" if len(findings) == 1 else "do"
        head = f"{len(findings)} of {total} properties {verb} not hold"
        parts = [head + (f"; {left} are checked once it does" if left else "")]
        for name, finding in findings.items():
            lines = [f"{name}, on {finding.where}" if finding.where else name]
            told = {
                "happened": finding.found,
                "expected": finding.expected,
                "to mend": finding.hint,
            }
            lines += [f"  {word}: {text}" for word, text in told.items() if text]
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
    """Turn whatever other people's code raises into a finding, but for errors that may pass."""
    try:
        yield
    except passing:
        raise
    except Exception as error:
        raise Finding(f"{doing} raises {_told(error)}", where, expected, hint) from error


def _told(error: Exception) -> str:
    """Name an error, the start of what it says, and the author's line that it comes from.

    Errors of ours say where by themselves.
    """
    text = " ".join(str(error).split("\n\n")[0].split())
    text = text if len(text) <= _LENGTH else text[: _LENGTH - 3] + "..."
    told = f"{type(error).__name__}: {text}"
    if isinstance(error, MobileVLMError):
        return told
    return told + author_line(traceback.extract_tb(error.__traceback__))


def author_line(frames: Iterable[traceback.FrameSummary] | None = None) -> str:
    """Name the author's line among some frames, or among those that call this; "" if none is."""
    own = [
        f" ({file.name}:{frame.lineno})"
        for frame in (traceback.extract_stack() if frames is None else frames)
        if (file := Path(frame.filename)).is_file()
        and not any(file.is_relative_to(tool) for tool in _TOOLS)
    ]
    return own[-1] if own else ""
