"""What the docstrings of blocks and presets say, for people and for schemas."""

from __future__ import annotations

import inspect
import re

__all__ = ["attributes", "paragraph", "paragraphs"]


def paragraphs(cls: type) -> list[str]:
    """Return a docstring's paragraphs, each on one line, without the attributes."""
    doc = inspect.cleandoc(cls.__doc__ or "").split("\nAttributes:")[0]
    return [" ".join(part.split()) for part in doc.split("\n\n") if part.strip()]


def paragraph(cls: type, title: str) -> str:
    """Return the paragraph of a docstring that begins with a title, without it; may be empty."""
    for part in paragraphs(cls):
        if part.startswith(f"{title}: "):
            return part.removeprefix(f"{title}: ")
    return ""


def attributes(cls: type) -> dict[str, str]:
    """Return what a docstring says of each attribute, by the name that documents have.

    >>> from mobilevlm.projectors.nested import NestedPreset
    >>> attributes(NestedPreset)
    {'name': "The preset's registered name.", 'out': 'Its output width.'}
    """
    doc = inspect.getdoc(cls) or ""
    section = re.search(r"^Attributes:\n((?:    .*(?:\n|$)|\n)+)", doc, re.MULTILINE)
    entries = re.split(r"^    (?=\w)", section[1], flags=re.MULTILINE)[1:] if section else []
    pairs = (entry.partition(":") for entry in entries)
    return {name.removesuffix("_"): " ".join(text.split()) for name, _, text in pairs}
