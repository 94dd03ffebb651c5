"""A JSON Schema of documents, for editors, generated from what is registered."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from ..blocks import BLOCKS
from ..blocks.core.spec import Spec
from ..registry import Registry, RegistryError
from . import PROJECTORS
from .docstrings import attributes
from .nested import NestedPreset
from .stack import Stack

__all__ = ["document_schema"]

_BLOCK = {"$ref": "#/$defs/block"}


def document_schema() -> dict[str, Any]:
    """Return a JSON Schema (2020-12) that every valid document fits; imports all plugins.

    It describes the blocks, their fields and the presets' options. Only `load_spec` checks what
    needs arithmetic, such as whether widths fit. Broken plugins are left out.
    """
    classes = _load_all(BLOCKS)
    blocks: dict[str, Any] = {}
    short: list[str] = []
    for name, cls in classes.items():
        if cls is NestedPreset:
            continue
        blocks[name] = schema = _object_schema(cls, {"type": _name_schema([name])}, ["type"])
        if schema["required"] == ["type"]:
            short.append(name)
    presets: dict[tuple[type[Spec], frozenset[str]], list[str]] = {}
    for name, preset in _load_all(PROJECTORS).items():
        # A name that stands for a preset with options fixes those.
        fixed = frozenset() if isinstance(preset, type) else preset.model_fields_set
        cls = preset if isinstance(preset, type) else type(preset)
        presets.setdefault((cls, frozenset(fixed)), []).append(name)
    out = _object_schema(NestedPreset, {}, [])["properties"]["out"]
    for (cls, taken), names in presets.items():
        first = {"type": {"const": "preset"}, "name": _name_schema(names), "out": out}
        schema = _object_schema(cls, first, ["type", "name"])
        for option in {"prefix_tokens", *taken}:
            del schema["properties"][option]
        blocks[f"preset {names[0]}"] = schema
    root = _object_schema(Stack, {}, [])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A projector of mobilevlm",
        **root,
        "$defs": {
            "block": {
                "anyOf": [
                    _name_schema(short),
                    *({"$ref": f"#/$defs/{_json_pointer(name)}"} for name in blocks),
                ]
            },
            **blocks,
        },
    }


def _load_all(registry: Registry[Any]) -> dict[str, Any]:
    """Return every entry that can be imported, by name."""
    found: dict[str, Any] = {}
    for name in registry.names():
        try:
            found[name] = registry.get(name)
        except RegistryError:
            continue
    return found


def _name_schema(names: list[str]) -> dict[str, Any]:
    """Return a schema for names as listed, or with ``_`` for ``-``."""
    patterns = [re.escape(name).replace(r"\-", "-").replace("-", "[-_]") for name in names]
    dashed = any("-" in name for name in names)
    listed: dict[str, Any] = {"enum": names}
    if not dashed:
        return listed
    return {"anyOf": [listed, {"type": "string", "pattern": f"^({'|'.join(patterns)})$"}]}


def _object_schema(
    cls: type[Spec], first: Mapping[str, Any], required: list[str]
) -> dict[str, Any]:
    """Return the schema of a class's fields, described as its docstring does."""
    schema = cls.model_json_schema(mode="validation")
    docs = attributes(cls)
    properties = {
        name: {**_simplify(field), **({"description": docs[name]} if name in docs else {})}
        for name, field in schema.get("properties", {}).items()
    }
    return {
        "description": " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split()),
        "type": "object",
        "properties": {**first, **properties},
        "required": [*required, *schema.get("required", [])],
        "additionalProperties": False,
    }


def _simplify(schema: Any) -> Any:
    """Drop pydantic's titles, and replace blocks by references."""
    if isinstance(schema, list):
        return [_simplify(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("$comment") == "block":
        return dict(_BLOCK)
    return {key: _simplify(value) for key, value in schema.items() if key != "title"}


def _json_pointer(name: str) -> str:
    """Escape a name for a JSON pointer in a URI."""
    return name.replace("/", "~1").replace(" ", "%20")
