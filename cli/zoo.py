"""The verbs that describe projectors: list, show, tokens, spec, check, schema."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from ..blocks import BLOCKS
from ..projectors import PROJECTORS
from ..projectors.index import models
from ..projectors.search import Found, find_in, find_projectors, with_options
from ..registry import MobileVLMError, did_you_mean, printable
from .arguments import call, document
from .options import Debug, Json, NameOrFile, Words, names
from .output import FAILED, echo, echo_json, echo_table, explain, reporting
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

    Case, -, _ and . do not matter. Tokens and parameters are those at 1024 -> 2048 on 24x24.

    Example: mobilevlm list smolvlm
    """
    with reporting(debug, as_json):
        glob = pattern if re.search(r"[*?\[]", pattern) else f"*{pattern}*"
        found = [*find_projectors(glob), *find_in(BLOCKS, glob)]
        if as_json:
            echo_json([_as_dict(each) for each in found])
        elif found:
            header = ["name", "kind", "from", "tokens", "parameters", "found by"]
            echo_table(header, [*map(_row, found)], right=(3, 4))
            for each in found:
                if each.note:
                    echo(f"{each.entry.name}: {each.note}")
        else:
            explain(f"nothing matches {pattern!r}. {_advice(pattern)}".rstrip(". "), "note")
        for problem in PROJECTORS.problems():
            explain(str(problem), "note")
        if not found:
            raise typer.Exit(FAILED)


def _as_dict(found: Found) -> dict[str, Any]:
    facts = dataclasses.asdict(found)
    return {"kind": found.kind, **facts.pop("entry"), **facts}


def _row(found: Found) -> list[str]:
    sizes = ["" if size is None else f"{size:,}" for size in (found.tokens, found.parameters)]
    source = f"{found.entry.source} {found.entry.version}".rstrip()
    by = ", ".join(with_options(name, options) for name, options in found.by.items())
    return [found.entry.name, found.kind, source, *sizes, by]


def _advice(pattern: str) -> str:
    known = [*PROJECTORS, *PROJECTORS.aliases(), *models(), *BLOCKS]
    return did_you_mean(pattern, known)


def show(
    target: NameOrFile, words: Words = None, as_json: Json = False, debug: Debug = False
) -> None:
    """Show a projector's plan: features, parameters and MACs block by block.

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
            echo_table(header, rows, right=RIGHT, total=True)
            for line in plan.remarks:
                echo(line)


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
