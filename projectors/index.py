"""What is known of the built-in families without importing one; ``tools/index.py`` writes it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..registry import UnknownName

if TYPE_CHECKING:
    from .upstream import Upstream

__all__ = [
    "INDEX",
    "advice",
    "advising",
    "aliases",
    "find_model",
    "folded",
    "keywords",
    "models",
    "read_index",
    "upstream_entry",
    "upstream_index",
]

INDEX = Path(__file__).parent / "zoo" / "index.json"


@cache
def read_index() -> Mapping[str, Any]:
    """Return what the file says of each family: its other names, size and upstream entries.

    Families that are not in the table are left out: the file may be out of date.
    """
    from . import FAMILIES

    found = json.loads(INDEX.read_text(encoding="utf-8"))
    return {family: row for family, row in found.items() if family in FAMILIES}


def _named(*columns: str) -> dict[str, tuple[str, Mapping[str, Any]]]:
    return {
        name: (family, options)
        for column in columns
        for family, row in read_index().items()
        for name, options in row[column].items()
    }


def aliases() -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Return each alias with its family's name and its options; upstream's classes come last."""
    return _named("aliases", "classes")


def models() -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Return each model's name with the family and the options that it means."""
    return _named("models")


def folded(text: str) -> str:
    """Return text as searches compare it: case, spaces, ``-``, ``_`` and ``.`` do not matter.

    What stands in the brackets of a pattern stays.

    >>> folded("SmolVLM-2.2B"), folded("[a-c]*_x")
    ('smolvlm22b', '[a-c]*x')
    """
    parts = re.split(r"(\[[^\[\]]*\])", text.lower())
    return "".join(part if part.startswith("[") else re.sub(r"[-_.\s]", "", part) for part in parts)


def find_model(name: str) -> tuple[str, str, Mapping[str, Any]] | None:
    """Return a model's name as it is written, its family and the options it means, or None."""
    wanted = folded(name)
    for model, (family, options) in models().items():
        if folded(model) == wanted:
            return model, family, options
    return None


def _build_call(family: str, options: Mapping[str, Any]) -> str:
    """Return a call that builds a family, for a message."""
    return f"build_projector({family!r}, 1024, 2048{keywords(options)})"


def keywords(options: Mapping[str, Any]) -> str:
    """Return options as the last arguments of a call.

    >>> keywords({"merge": 3})
    ', merge=3'
    """
    return "".join(f", {key}={value!r}" for key, value in options.items())


def advice(name: str, written: Callable[[str, Mapping[str, Any]], str] = _build_call) -> str:
    """Return what to write for a model's name; empty if it is none.

    Args:
        name: A name that no projector has.
        written: Writes a family with its options as the caller of the message would.

    >>> advice("smolvlm")
    "SmolVLM uses idefics3: write build_projector('idefics3', 1024, 2048, merge=3)."
    """
    found = find_model(name)
    if found is None:
        return ""
    model, family, options = found
    return f"{model} uses {family}: write {written(family, options)}."


@contextmanager
def advising(name: object, written: Callable[[str, Mapping[str, Any]], str]) -> Iterator[None]:
    """Let the error of an unknown name say what its caller would write, if it is a model's name."""
    try:
        yield
    except UnknownName as error:
        if isinstance(name, str):
            error.hint = advice(name, written) or error.hint
        raise


@cache
def upstream_index() -> Mapping[str, tuple[Upstream, ...]]:
    """Return each family's upstream entries as far as they are plain data: without functions."""
    from .upstream import Upstream

    def entry(row: Mapping[str, Any]) -> Upstream:
        lists = {key: tuple(value) for key, value in row.items() if isinstance(value, list)}
        return Upstream(**{**row, **lists})

    return {family: tuple(map(entry, row["upstream"])) for family, row in read_index().items()}


def upstream_entry(family: str, index: int) -> Upstream:
    """Return an entry of the index as its family's class has it: with its functions.

    Raises:
        RuntimeError: The class has another entry there, or none.
    """
    from . import PROJECTORS

    entries = PROJECTORS.get(family).upstream
    said = upstream_index()[family][index]
    entry = entries[index] if index < len(entries) else None
    if entry is None or (entry.layout, entry.prefix) != (said.layout, said.prefix):
        raise RuntimeError("projectors/zoo/index.json is out of date: run tools/index.py")
    return entry
