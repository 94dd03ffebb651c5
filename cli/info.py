"""The verb that says everything about one projector."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..projectors.search import with_options
from .options import Debug, Json, names
from .output import echo, echo_json, echo_prose, reporting
from .table import echo_table

if TYPE_CHECKING:
    from ..projectors.describe import Description

__all__ = ["info"]


def info(
    name: Annotated[
        str, typer.Argument(help="A projector's name, alias or model.", autocompletion=names)
    ],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what a projector is: options, chain, models, traps, source and other names.

    Example: mobilevlm info SmolVLM
    """
    with reporting(debug, as_json):
        from ..projectors.describe import describe

        found = describe(name)
        if as_json:
            facts = dataclasses.asdict(found)
            facts["fields"] = {
                option: {"default": default, "meaning": meaning}
                for option, (default, meaning) in found.fields.items()
            }
            echo_json(facts)
            return
        for title, text in _lines(found):
            echo_prose(f"{title:<12}{text}", 12)
        echo()
        rows = [
            [option, json.dumps(default), meaning.replace("``", "`")]
            for option, (default, meaning) in found.fields.items()
        ]
        echo_table(["option", "default", "meaning"], rows, prose={2})


def _lines(found: Description) -> list[tuple[str, str]]:
    """Return the lines above the table of options, those that say something."""
    h, w = found.case["grid"]
    by = f"; tokens=n sets {' or '.join(found.tokens_by)}" if found.tokens_by else ""
    widths = f"{found.case['in']} -> {found.case['out']}"
    lines = {
        "name": found.name,
        "means": with_options(found.family, found.options) if found.name != found.family else "",
        "note": found.note,
        "computes": found.summary.replace("``", "`"),
        "chain": " > ".join(found.chain),
        "tokens": f"{h * w:,} -> {found.tokens:,} on {h}x{w}{by}" if found.tokens else "",
        "parameters": "" if found.parameters is None else f"{found.parameters:,} at {widths}",
        "models": _listed(found.models),
        "aliases": _listed(found.aliases),
        "traps": found.traps.replace("``", "`"),
        "source": found.source.replace("``", "`"),
        "from": str(found.entry),
    }
    return [(title, text) for title, text in lines.items() if text]


def _listed(names: Mapping[str, Mapping[str, Any]]) -> str:
    return ", ".join(with_options(name, options) for name, options in names.items())
