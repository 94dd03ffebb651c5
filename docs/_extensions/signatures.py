"""Signatures as readers need them: with every type linked, and without what checks the values."""

from __future__ import annotations

import ast
import sys
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from sphinx.util.typing import stringify_annotation

import mobilevlm

if TYPE_CHECKING:
    from sphinx.application import Sphinx

__all__ = ["setup"]


def complete(app: Sphinx) -> None:
    """Import what modules import for type checkers only, so that all annotations can be read."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] != "mobilevlm":
            continue
        path = Path(module.__file__ or "")
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                exec(compile(ast.Module(node.body, []), path, "exec"), vars(module))
        # It is a string inside an alias, and is looked up where the alias is used.
        vars(module).setdefault("Stack", mobilevlm.Stack)


def signature(
    app: Sphinx,
    kind: str,
    name: str,
    thing: Any,
    options: Any,
    text: str | None,
    result: str | None,
) -> tuple[str | None, str | None]:
    """Show a specification by its fields, and a dataclass without the names of its factories."""
    if kind != "class" or not issubclass(thing, BaseModel):
        return text and text.replace("<factory>", "..."), result
    types = typing.get_type_hints(thing)
    fields = []
    for field, about in thing.model_fields.items():
        fields.append(f"{field}: {stringify_annotation(types[field], 'smart')}")
        if not about.is_required():
            fields[-1] += f" = {about.get_default(call_default_factory=True)!r}"
    return f"({', '.join(['*', *fields] if fields else [])})", None


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.connect("builder-inited", complete, priority=900)  # the reference has imported all rooms
    app.connect("autodoc-process-signature", signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
