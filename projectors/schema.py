"""A JSON Schema of documents, for editors, from whatever is registered."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from ..blocks import BLOCKS
from ..blocks.core.spec import Spec
from ..registry import Registry, RegistryError
from . import PROJECTORS
from .nested import NestedPreset
from .stack import Stack

__all__ = ["document_schema"]

_BLOCK = {"$ref": "#/$defs/block"}


def document_schema() -> dict[str, Any]:
    """Return a JSON Schema (2020-12) that every document fits; imports the plugins there are.

    It knows the blocks, their fields and the presets' options. What takes arithmetic, such as
    widths that meet, only `load_spec` can tell. Broken plugins are left out.
    """
    classes = _loaded(BLOCKS)
    blocks: dict[str, Any] = {}
    short: list[str] = []
    for name, cls in classes.items():
        if cls is NestedPreset:
            continue
        blocks[name] = schema = _object(cls, {"type": _named([name])}, ["type"])
        if schema["required"] == ["type"]:
            short.append(name)
    presets: dict[tuple[type[Spec], frozenset[str]], list[str]] = {}
    for name, preset in _loaded(PROJECTORS).items():
        # What a name stands for with options set, it fixes.
        fixed = frozenset() if isinstance(preset, type) else preset.model_fields_set
        cls = preset if isinstance(preset, type) else type(preset)
        presets.setdefault((cls, frozenset(fixed)), []).append(name)
    out = _object(NestedPreset, {}, [])["properties"]["out"]
    for (cls, taken), names in presets.items():
        first = {"type": {"const": "preset"}, "name": _named(names), "out": out}
        schema = _object(cls, first, ["type", "name"])
        for option in {"prefix_tokens", *taken}:
            del schema["properties"][option]
        blocks[f"preset {names[0]}"] = schema
    root = _object(Stack, {}, [])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A projector of mobilevlm",
        **root,
        "$defs": {
            "block": {
                "anyOf": [
                    _named(short),
                    *({"$ref": f"#/$defs/{_pointer(name)}"} for name in blocks),
                ]
            },
            **blocks,
        },
    }


def _loaded(registry: Registry[Any]) -> dict[str, Any]:
    """Return everything registered that can be imported, by its name."""
    found: dict[str, Any] = {}
    for name in registry.names():
        try:
            found[name] = registry.get(name)
        except RegistryError:
            continue
    return found


def _named(names: list[str]) -> dict[str, Any]:
    """Return a schema for names: as they are listed, or with ``_`` for ``-``."""
    patterns = [re.escape(name).replace(r"\-", "-").replace("-", "[-_]") for name in names]
    dashed = any("-" in name for name in names)
    listed: dict[str, Any] = {"enum": names}
    if not dashed:
        return listed
    return {"anyOf": [listed, {"type": "string", "pattern": f"^({'|'.join(patterns)})$"}]}


def _object(cls: type[Spec], first: Mapping[str, Any], required: list[str]) -> dict[str, Any]:
    """Return the schema of a class's fields, described as its docstring does."""
    schema = cls.model_json_schema(mode="validation")
    told = _attributes(inspect.getdoc(cls) or "")
    properties = {
        name: {**_tidy(field), **({"description": told[name]} if name in told else {})}
        for name, field in schema.get("properties", {}).items()
    }
    return {
        "description": " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split()),
        "type": "object",
        "properties": {**first, **properties},
        "required": [*required, *schema.get("required", [])],
        "additionalProperties": False,
    }


def _attributes(doc: str) -> dict[str, str]:
    """Return what a docstring's section "Attributes" says of each field.

    >>> _attributes(inspect.getdoc(NestedPreset) or "")
    {'name': "The preset's registered name.", 'out': 'Its output width.'}
    """
    section = re.search(r"^Attributes:\n((?:    .*(?:\n|$)|\n)+)", doc, re.MULTILINE)
    entries = re.split(r"^    (?=\w)", section[1], flags=re.MULTILINE)[1:] if section else []
    pairs = (entry.partition(":") for entry in entries)
    return {name.removesuffix("_"): " ".join(text.split()) for name, _, text in pairs}


def _tidy(schema: Any) -> Any:
    """Leave pydantic's titles out, and put a reference where a block stands."""
    if isinstance(schema, list):
        return [_tidy(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("$comment") == "block":
        return dict(_BLOCK)
    return {key: _tidy(value) for key, value in schema.items() if key != "title"}


def _pointer(name: str) -> str:
    """Write a name as a part of a JSON pointer in a URI."""
    return name.replace("/", "~1").replace(" ", "%20")
