"""The verbs that describe projectors: list, show, tokens, spec, check, schema."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from ..blocks import BLOCKS
from ..projectors import PROJECTORS
from ..projectors.index import models
from ..projectors.search import Found, find_in, find_projectors, with_options
from ..registry import MobileVLMError, did_you_mean, printable
from .arguments import call, document
from .options import Debug, Json, NameOrFile, Words, names
from .output import (
    FAILED,
    columns,
    echo,
    echo_drawing,
    echo_json,
    echo_prose,
    explain,
    reporting,
    results,
)
from .table import Cell, echo_table
from .wording import reworded

__all__ = ["check", "list_", "schema", "show", "spec", "tokens"]


def list_(
    pattern: Annotated[
        str,
        typer.Argument(
            help="Part of a name, an alias, a model, a class or a package, or a pattern with *.",
            autocompletion=names,
        ),
    ] = "",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List what is registered: projectors, then blocks. Imports none of them.

    Case, -, _ and . do not matter. Tokens and parameters are those of the defaults, at
    1024 -> 2048 on 24x24.

    Example: mobilevlm list smolvlm
    """
    with reporting(debug, as_json):
        glob = pattern if re.search(r"[*?\[]", pattern) else f"*{pattern}*"
        projectors, blocks = find_projectors(glob), find_in(BLOCKS, glob)
        found = projectors + blocks
        if as_json:
            echo_json([_as_dict(each) for each in found])
        elif found:
            if projectors:
                _echo_projectors(projectors)
            if projectors and blocks:
                echo()
            if blocks:
                rows = [[each.entry.name, _source(each)] for each in blocks]
                echo_table(["block", "from"], rows)
        else:
            explain(f"nothing matches {pattern!r}. {_advice(pattern)}".rstrip(". "), "note")
        for problem in PROJECTORS.problems():
            explain(str(problem), "note")
        if not found:
            raise typer.Exit(FAILED)


def _as_dict(found: Found) -> dict[str, Any]:
    facts = dataclasses.asdict(found)
    return {"kind": found.kind, **facts.pop("entry"), **facts}


def _echo_projectors(found: Sequence[Found]) -> None:
    """Print projectors with their models, first of all what they were found by."""
    others = any(each.by.keys() - each.models.keys() for each in found)
    header = ["projector", "tokens", "parameters", "models, other names" if others else "models"]
    rows: list[list[Cell]] = []
    for each in found:
        sizes = ["" if size is None else f"{size:,}" for size in (each.tokens, each.parameters)]
        by = [with_options(name, options) for name, options in each.by.items()]
        models = [name for name in each.models if name not in each.by]
        rows.append([each.entry.name, *sizes, by + models])
    if any(each.entry.source != "built-in" for each in found):
        header.insert(3, "from")
        for row, each in zip(rows, found, strict=True):
            row.insert(3, _source(each))
    echo_table(header, rows, right=(1, 2))
    changed = [name for each in found for name, options in each.by.items() if options]
    if changed:
        echo_prose(
            "Tokens and parameters are those of the defaults; "
            f"mobilevlm info {quote(changed[0])} has those of {changed[0]}."
        )
    for each in found:
        if each.note:
            echo_prose(f"{each.entry.name}: {each.note}", 2)


def _source(found: Found) -> str:
    return f"{found.entry.source} {found.entry.version}".rstrip()


def _advice(pattern: str) -> str:
    """Return what to do where nothing matches; a hub's ORG/MODEL has a name that may be known."""
    known = [*PROJECTORS, *PROJECTORS.aliases(), *models(), *BLOCKS]
    hub = re.fullmatch(r"(?:hf://)?([\w.-]+/([\w.-]+))", pattern)
    if hub is None:
        return did_you_mean(pattern, known)
    words = hub[2].split("-")
    for count in range(len(words), 0, -1):
        name = "-".join(words[:count])
        if find_projectors(name):
            return f"Write mobilevlm list {name}."
    return did_you_mean(pattern, known) or f"Write mobilevlm inspect hf://{hub[1]}."


def show(
    target: NameOrFile, words: Words = None, as_json: Json = False, debug: Debug = False
) -> None:
    """Show a projector's plan: features, parameters and MACs block by block, and its chain.

    Example: mobilevlm show ldp in=1024 out=2048 grid=24x24
    """
    with reporting(debug, as_json):
        from ..projectors.build import plan_projector
        from ..projectors.plan import RIGHT

        plan = plan_projector(**call(target, words or (), "show"))
        if as_json:
            echo_json(plan.to_dict())
        else:
            header, rows = plan.table()
            path, *others = (max(map(len, column)) for column in zip(header, *rows, strict=True))
            if results().isatty() and path + 2 + max(others) > columns():
                header, rows = plan.table(full=False)
            echo_table(header, rows, right=RIGHT, total=True)
            for line in plan.remarks:
                echo(line)
            echo()
            echo_drawing(plan.chain(columns()))


def tokens(
    target: NameOrFile, words: Words = None, as_json: Json = False, debug: Debug = False
) -> None:
    """Print how many tokens a projector makes of a grid.

    Example: mobilevlm tokens ldp grid=24x18
    """
    with reporting(debug, as_json):
        from ..projectors.build import plan_projector

        # Token counts never depend on the widths, so a name does not need any.
        widths = {"in": 1024, "out": 1024}
        keywords = call(target, words or (), "tokens", widths=widths, needs_grid=True)
        plan = plan_projector(**keywords)
        if as_json:
            echo_json({"grid": plan.grid, "tokens": plan.tokens_out})
        else:
            echo(plan.tokens_out)


def spec(
    target: NameOrFile, words: Words = None, as_json: Json = False, debug: Debug = False
) -> None:
    """Print the document that a projector expands to, ready to edit. It is JSON either way.

    Example: mobilevlm spec ldp in=1024 out=2048 kernel=5 > mine.json
    """
    with reporting(debug, as_json):
        from ..projectors.build import plan_projector
        from ..projectors.document import dump_spec

        plan = plan_projector(**call(target, words or (), "spec"))
        echo(dump_spec(plan.stack), nl=False)


def schema(as_json: Json = False, debug: Debug = False) -> None:
    """Print a JSON Schema of documents, for editors. It is JSON either way.

    Example: mobilevlm schema > projector.schema.json
    """
    with reporting(debug, as_json):
        from ..projectors.schema import document_schema

        echo_json(document_schema())


def check(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Documents; - is standard input.")
    ],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Check documents: syntax, fields, names, widths and size. Nothing is allocated."""
    from ..projectors.plan import Plan

    with reporting(debug, as_json):
        results: list[dict[str, Any]] = []
        for file in files:
            name = printable(file)
            try:
                plan = Plan(document(str(file)))
                parameters = plan.parameters
            except MobileVLMError as error:
                if debug:
                    raise
                message = str(reworded(error))
                results.append({"file": str(file), "ok": False, "error": message})
                if not as_json:
                    explain(message if message.startswith(name) else f"{name}: {message}")
                continue
            stack = plan.stack
            facts = {"in": stack.in_, "out": stack.out, "parameters": parameters}
            results.append({"file": str(file), "ok": True, **facts})
            if not as_json:
                echo(f"{name}: ok, {stack.in_} -> {stack.out}, {parameters:,} parameters")
        if as_json:
            echo_json(results)
        if not all(result["ok"] for result in results):
            raise typer.Exit(FAILED)
