"""Describe a registered projector: what its class and its docstring say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..registry import Entry, MobileVLMError
from . import PROJECTORS
from .docstrings import attributes, paragraph, paragraphs
from .index import aliases, find_model, read_index
from .lookup import instantiate
from .plan import Plan
from .preset import Preset

__all__ = ["CASE", "Description", "describe"]

CASE = {"in": 1024, "out": 2048, "grid": [24, 24]}


@dataclass(frozen=True)
class Description:
    """What is known of a projector.

    Attributes:
        name: The name that was asked for, as it is written.
        family: The registered name that it belongs to.
        entry: The family's entry.
        options: The options that the name fixes.
        summary: What it computes.
        chain: The types of its blocks.
        fields: The value and the meaning of each option.
        case: The widths and the grid that the next two are for.
        tokens: The tokens that come out; None where the case does not fit.
        parameters: The number of parameters; None where the case does not fit.
        models: The models that use it, each with the options that it means.
        tokens_by: The options that ``tokens=n`` sets.
        aliases: Its other names, each with the options that it means.
        note: What it is easily taken for, or what its authors count otherwise.
        traps: In what a reimplementation falls.
        source: Where it comes from.
    """

    name: str
    family: str
    entry: Entry
    options: Mapping[str, Any]
    summary: str
    chain: tuple[str, ...]
    fields: Mapping[str, tuple[Any, str]]
    case: Mapping[str, Any]
    tokens: int | None
    parameters: int | None
    models: Mapping[str, Mapping[str, Any]]
    aliases: Mapping[str, Mapping[str, Any]]
    tokens_by: tuple[str, ...]
    note: str
    traps: str
    source: str


def describe(name: str) -> Description:
    """Describe the projector of a registered name, an alias or a model.

    Raises:
        RegistryError: Nothing is known under the name, or its plugin is broken.
        SpecError: Its preset does not take its own defaults.
    """
    model = None if name in PROJECTORS else find_model(name)
    if model is not None:
        name, family, options = model
        preset = instantiate(family, options)
    else:
        entry = PROJECTORS.find(name)
        preset = instantiate(name, {})
        family, options = aliases().get(entry.name, (entry.name, _fixed(preset)))
        name = entry.name
    cls = type(preset)
    entry = PROJECTORS.find(family)
    row = read_index().get(family, {}) if entry.source == "built-in" else {}
    case = row.get("case", CASE)
    plan = _plan(preset, case)
    said = attributes(Preset) | attributes(cls)
    return Description(
        name=name,
        family=family,
        entry=entry,
        options=options,
        summary=paragraphs(cls)[0] if cls.__doc__ else "",
        chain=tuple(block["type"] for block in plan.stack.model_dump()["blocks"]) if plan else (),
        fields={field: (getattr(preset, field), said.get(field, "")) for field in cls.model_fields},
        case=case,
        tokens=plan.tokens_out if plan else None,
        parameters=plan.parameters if plan else None,
        models=cls.models,
        aliases=cls.aliases,
        tokens_by=tuple(cls.tokens_by),
        note=paragraph(cls, "Note"),
        traps=paragraph(cls, "Traps"),
        source=paragraph(cls, "Source"),
    )


def _fixed(preset: Preset) -> dict[str, Any]:
    return {field: getattr(preset, field) for field in preset.model_fields_set}


def _plan(preset: Preset, case: Mapping[str, Any]) -> Plan | None:
    h, w = case["grid"]
    try:
        return Plan(preset.stack(case["in"], case["out"]), (h, w))
    except MobileVLMError:  # a plugin's may need other widths
        return None
