"""The pages of the reference, one for each public room: which names stand on which."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sphinx.pycode import ModuleAnalyzer
from sphinx.util import logging

import mobilevlm
from mobilevlm import BLOCKS
from mobilevlm.projectors import FAMILIES

if TYPE_CHECKING:
    from sphinx.application import Sphinx

__all__ = ["setup"]

API = Path(__file__).parents[1] / "api"
# The rooms, each with what its page has beside the room's public names, because their signatures
# and texts name it.
ROOMS: dict[str, list[str]] = {
    "projectors": [
        "plan:PlanRow",
        "packed:PackedGrids",
        *(f"tower:{name}" for name in ("Tower", "read_tower", "read_width")),
        *(f"upstream:{name}" for name in ("Upstream", "Checkpoint", "Match")),
        *(f"upstream:{name}" for name in ("Name", "Fused", "Axes")),
    ],
    "blocks": ["core.block:Step", "core.chain:Chain", "core.packing:Packing"],
    "checkpoints": ["formats.http:HubMissing"],
    "models": ["upstream:TransformersMissing"],
    "compare": [
        *("around:Around", "asked:Fitted", "parts:Layer", "parts:Part", "timing:Spread"),
        *("picture:MatplotlibMissing", "suggest:NothingFits"),
    ],
    "export": [],
    "testing": [
        "report:Finding",
        *(f"vectors:{name}" for name in ("write_vectors", "Written", "VectorsError")),
    ],
    "registry": [f"discovery:{name}" for name in ("Installed", "Discovery", "PluginEntryPoint")],
    "zeta": ["load:ZetaError"],
}
# Of a front-door name, the room where it is at home.
HOMES = {name: path.partition(".")[0] for name, path in mobilevlm._HOMES.items()}
BUILT_IN = {
    "blocks": [entry.target for entry in BLOCKS.entries() if ".blocks." in entry.target],
    "projectors": list(FAMILIES.values()),
}
warn = logging.getLogger(__name__).warning


def write(app: Sphinx) -> None:
    """Write the pages that have changed, and remove those of rooms that are gone."""
    API.mkdir(exist_ok=True)
    pages = {
        "index": contents(),
        "mobilevlm": front_door(),
        **{f"mobilevlm.{room}": page(room, more) for room, more in ROOMS.items()},
    }
    for path in API.glob("*.rst"):
        if path.stem not in pages:
            path.unlink()
    for name, lines in pages.items():
        text, path = "\n".join([*lines, ""]), API / f"{name}.rst"
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")


def contents() -> Iterator[str]:
    """Yield the page that leads to the others, with the first line of each room's docstring."""
    paths = ["mobilevlm", *(f"mobilevlm.{room}" for room in ROOMS)]
    yield from heading("API reference")
    yield from [":ref:`All names <genindex>`, :ref:`all rooms <modindex>`.", ""]
    for path in paths:
        room = inspect.getdoc(importlib.import_module(path)) or ""
        yield from [f":doc:`{path}`", f"   {room.splitlines()[0]}", ""]
    yield from [".. toctree::", "   :hidden:", "", *(f"   {path}" for path in paths)]


def front_door() -> Iterator[str]:
    """Yield the page of `mobilevlm`: each room's names, then all errors."""
    yield from room_heading("mobilevlm")
    errors = [name for name in HOMES if is_error(getattr(mobilevlm, name))]
    parts = {room: [name for name in names_of(room) if name not in errors] for room in ROOMS}
    for part, names in {**parts, "errors": errors}.items():
        if names:
            yield from heading(part.capitalize(), "-")
        for name in names:
            yield from entry("mobilevlm", name, f"mobilevlm.{mobilevlm._HOMES[name]}")


def page(room: str, more: Iterable[str]) -> Iterator[str]:
    """Yield a room's page: links to its front-door names, its others, and what is built in."""
    path = f"mobilevlm.{room}"
    yield from room_heading(path)
    if names_of(room):
        yield from ["From the front door, :py:mod:`mobilevlm`:", ""]
        yield from [*(f"- :py:obj:`mobilevlm.{name}`" for name in names_of(room)), ""]
    for name in importlib.import_module(path).__all__:
        if name not in HOMES:
            yield from entry(path, name, path)
    if room in BUILT_IN:
        yield from heading(f"Built-in {room}", "-")
    for module, _, name in (target.partition(":") for target in BUILT_IN.get(room, ())):
        yield from entry(module, name, module, members=False)
    if more:
        yield from heading("Besides", "-")
    for module, _, name in (target.partition(":") for target in more):
        yield from entry(f"{path}.{module}", name, f"{path}.{module}")


def names_of(room: str) -> list[str]:
    """Return a room's front-door names, functions first."""
    names = [name for name, home in HOMES.items() if home == room]
    return sorted(names, key=lambda name: not inspect.isfunction(getattr(mobilevlm, name)))


def heading(text: str, line: str = "=") -> list[str]:
    """Return the lines of a heading."""
    return [text, line * len(text), ""]


def room_heading(path: str) -> list[str]:
    """Return the heading and the docstring of a room."""
    return [*heading(path), f".. automodule:: {path}", "   :no-members:", ""]


def entry(module: str, name: str, home: str, *, members: bool = True) -> list[str]:
    """Return the directive for a name, which is read from a module and made in its home."""
    thing = getattr(importlib.import_module(home), name)
    if inspect.isfunction(thing):
        return [f".. autofunction:: {module}.{name}", ""]
    if inspect.isclass(thing):
        kind = "autoexception" if is_error(thing) else "autoclass"
        # Of a named tuple, autodoc knows the fields a second time, as members.
        shown = ["   :members:"] if members and not issubclass(thing, tuple) else []
        return [f".. {kind}:: {module}.{name}", *shown, ""]
    text = [f"   {line}" for line in data_docstring(name, home)]
    return [f".. py:data:: {name}", f"   :module: {module}", "", *text, ""]


def is_error(thing: object) -> bool:
    """Return whether a thing is a class of errors."""
    return isinstance(thing, type) and issubclass(thing, BaseException)


def data_docstring(name: str, module: str) -> list[str]:
    """Return the docstring below an assignment, in the module or where it takes the name from."""
    source = inspect.getsource(importlib.import_module(module))
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
            return data_docstring(name, f"{module}.{node.module}")
    docstrings = ModuleAnalyzer.for_module(module).find_attr_docs()
    return docstrings.get(("", name)) or [missing(f"{module}.{name}")]


def missing(name: str) -> str:
    """Warn, which ends the build."""
    warn("%s has no docstring", name)
    return ""


def check(app: Sphinx, kind: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Warn of a name on the pages that has no docstring."""
    if not any(lines):
        missing(name)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.connect("builder-inited", write)
    app.connect("autodoc-process-docstring", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
