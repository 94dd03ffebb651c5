"""Read and write stacks as JSON documents."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic_core import PydanticSerializationError

from ..blocks.core.errors import SpecError
from ..blocks.core.spec import MAX_DEPTH
from ..registry import MobileVLMError, RegistryError, first_line, printable, quote
from .files import check_target, replace_file
from .json_file import JsonReader
from .stack import Stack

__all__ = ["MAX_BYTES", "dump_spec", "is_document", "load_spec", "parse_spec"]

MAX_BYTES = 16_000_000
_LINE = 120  # containers that fit on a line stay on one


def load_spec(source: str | os.PathLike[str] | Mapping[str, Any]) -> Stack:
    """Read a specification from a file, from JSON text or from a mapping.

    Args:
        source: A string whose first non-blank character is ``{`` is text; any other is a path.

    Raises:
        SpecError: It cannot be read, is not JSON, or does not fit; the message says where.
        GridError: A block leaves less of a fixed grid than the next one needs.
    """
    if isinstance(source, Mapping):
        return Stack.parse(source)
    if source == "":
        raise SpecError("empty", "source", "a path, JSON text or a mapping")
    if isinstance(source, str) and source.lstrip("\ufeff \t\r\n")[:1] == "{":
        return parse_spec(source, "document")
    if not isinstance(source, str | os.PathLike):
        raise SpecError(quote(source), "source", "a path, JSON text or a mapping")
    path = Path(source)
    hint = ""
    if not path.suffix:
        name = str(source)
        hint = f"A registered name is built with build_projector({quote(name)}, ...) or shown "
        hint += f"with: mobilevlm show {printable(name)}"
    if path.suffix.lower() == ".safetensors" and os.path.isfile(path):
        hint = f"Look into it with load_projector({str(path)!r})."
        raise SpecError("a checkpoint", str(path), "a JSON document", hint)
    if path.suffix.lower() in (".gguf", ".onnx") and os.path.isfile(path):
        hint = f"Read its document: inspect_checkpoint({str(path)!r}).spec"
        raise SpecError("an exported file", str(path), "a JSON document", hint)
    return Stack.parse(_READER.read(path, missing=hint))


def parse_spec(data: bytes | str, where: str) -> Stack:
    """Read a specification from JSON text; `where` is its name in messages.

    Raises:
        SpecError: It is not JSON, or does not fit.
        GridError: A block leaves less of a fixed grid than the next one needs.
    """
    return Stack.parse(_READER.parse(data, where))


def dump_spec(
    stack: Stack, path: str | os.PathLike[str] | None = None, *, replace: bool = False
) -> str:
    """Write a specification as JSON, with every default written out.

    Args:
        stack: The specification.
        path: A file to write too; it is replaced atomically. A file that is not a document, or a
            link, is replaced only with `replace`.
        replace: Whether to replace whatever exists at `path`.

    Returns:
        The text.

    Raises:
        RegistryError: A block is not registered and so has no name.
        SpecError: It is not a stack, a block holds what is not JSON, or the file cannot be written
            or is not a document.
    """
    if not isinstance(stack, Stack):
        hint = "A projector's is projector.spec; load_spec makes one of a mapping."
        raise SpecError(quote(stack), "stack", "a Stack", hint)
    try:
        document = stack.model_dump(mode="json")
    except PydanticSerializationError as error:
        if isinstance(error.__cause__, RegistryError):  # a block that is not registered
            raise error.__cause__ from None
        raise SpecError(f"cannot be written as JSON: {first_line(error)}", "stack") from error
    text = _format_json(document, "") + "\n"
    if path is not None:
        target = Path(path)
        check_target(target, ".json", is_document, SpecError, replace=replace, devices=True)
        try:
            replace_file(target, text.encode())
        except OSError as error:
            raise SpecError(f"cannot be written: {error.strerror}", str(path)) from error
    return text


def is_document(path: Path) -> bool:
    """Return whether a file is a JSON object with the fields that `dump_spec` writes."""
    try:
        document = _READER.read(path)
    except MobileVLMError:
        return False
    return {"schema", "in", "out", "blocks"} <= document.keys()


_READER = JsonReader(
    SpecError,
    MAX_BYTES,
    "a JSON document",
    depth=f"at most {MAX_DEPTH} levels",
    marks_duplicates=True,
)


def _format_json(value: Any, indent: str) -> str:
    """Indent by two spaces, but keep what fits on one line there, such as a block."""
    flat = json.dumps(value, allow_nan=False)
    if not isinstance(value, dict | list) or (indent and len(indent) + len(flat) <= _LINE):
        return flat
    inner = indent + "  "
    if isinstance(value, dict):
        lines = [f"{json.dumps(key)}: {_format_json(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(inner + line for line in lines) + "\n" + indent + "}"
    return "[\n" + ",\n".join(inner + _format_json(item, inner) for item in value) + f"\n{indent}]"
