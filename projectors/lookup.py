"""Turn what a user passes as `spec`, a name, a mapping or a stack, into a stack."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..blocks.core.errors import SpecError
from ..registry import UnknownName, quote
from . import PROJECTORS
from .preset import Preset
from .stack import Stack

__all__ = ["instantiate", "name_of", "refuse_path", "to_stack"]


def instantiate(name: str, options: Mapping[str, Any]) -> Preset:
    """Return the preset registered under a name, with these options.

    Raises:
        RegistryError: There is no such preset.
        SpecError: An option does not fit, or is fixed by the name.
    """
    entry = PROJECTORS.get(name)
    if isinstance(entry, type):
        return _make_preset(entry, name, options)
    fixed = sorted(entry.model_fields_set & options.keys())
    if fixed:
        raise SpecError(
            f"option {fixed[0]!r} is part of the name",
            name,
            hint=f"{name} means {fixed[0]}={getattr(entry, fixed[0])!r}: choose another name.",
        )
    given = {key: getattr(entry, key) for key in entry.model_fields_set}
    return _make_preset(type(entry), name, {**given, **options})


def name_of(spec: object) -> str:
    """Return the name that a projector is asked for by; empty if it is by a document."""
    return spec if isinstance(spec, str) else ""


def _make_preset(cls: type[Preset], name: str, options: Mapping[str, Any]) -> Preset:
    try:
        return cls(**options)
    except SpecError as error:  # with the name that the user wrote, not the class's
        where = name + error.where.removeprefix(cls.__name__)
        raise SpecError(error.found, where, error.expected, error.hint) from error.__cause__


def to_stack(spec: object, in_: int | None, out: int | None, options: dict[str, Any]) -> Stack:
    """Return the stack of a name, a mapping or a stack, with the widths of the call.

    Raises:
        RegistryError: There is no such name.
        SpecError: Widths are missing or disagree, or the document or an option does not fit.
    """
    options = dict(options)
    if "in" in options:  # a Python keyword: passed as **{"in": 1024}
        if in_ is not None:
            raise SpecError("the input width is given twice", "in")
        in_ = options.pop("in")
    if isinstance(spec, str):
        if spec.lstrip().startswith("{"):
            raise SpecError(
                "the text of a document", "spec", "a name or a mapping", "Read it with load_spec."
            )
        try:
            preset = instantiate(spec, options)
        except UnknownName:
            refuse_path(spec)
            raise
        if in_ is None or out is None:
            missing = "input" if in_ is None else "output"
            raise SpecError(
                f"the {missing} width is missing",
                spec,
                hint=f'Write build_projector("{spec}", 1024, 2048).',
            )
        _check_width(in_, "in")
        _check_width(out, "out")
        return preset.stack(in_, out)
    if options:
        raise SpecError(
            f"unknown option {quote(next(iter(options)))}",
            hint="Options belong to a registered name; a document says everything itself.",
        )
    widths = {"in": in_, "out": out}
    given = {key: width for key, width in widths.items() if width is not None}
    if isinstance(spec, Stack):
        stack = spec
    elif isinstance(spec, Mapping):
        keys = {"in" if key == "in_" else key for key in spec}
        stack = Stack.parse({**spec, **{k: v for k, v in given.items() if k not in keys}})
    else:
        raise SpecError(
            quote(spec),
            "spec",
            "a registered name, a mapping or a Stack",
            "Read a file with load_spec(path).",
        )
    for key, width in given.items():
        own = stack.in_ if key == "in" else stack.out
        if own != width or type(width) is not int:
            raise SpecError(f"the document says {own}, the call says {quote(width)}", key)
    return stack


def refuse_path(name: str) -> None:
    """Refuse an unknown name that is the path of a file or a folder, with what reads it.

    Raises:
        UnknownName: It is such a path.
    """
    try:
        path = Path(name)
        if path.exists():
            kind = "a folder" if path.is_dir() else "a file"
        elif path.suffix == ".json":
            kind = "a file that is not there"
        else:
            return
    except (OSError, ValueError):  # too long for a path, or with a NUL
        return
    call = "load_spec" if path.suffix == ".json" else "load_projector"
    hint = f"It is {kind}: write {call}({quote(name, 200)})."
    raise UnknownName(f"unknown projector {quote(name)}", expected="a registered name", hint=hint)


def _check_width(width: object, where: str) -> None:
    """Refuse what a stack would refuse, before a preset computes with it."""
    Stack.parse({"in": 1, "out": 1, "blocks": ["pointwise"], where: width})
