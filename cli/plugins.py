"""The verbs that check plugins and the installation: plugins, doctor."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from ..blocks import BLOCKS
from ..projectors import PROJECTORS
from ..registry import Plugin
from .options import Debug, Json
from .output import FAILED, echo, echo_json, explain, reporting
from .table import echo_table

__all__ = ["doctor", "plugins"]


def plugins(
    check: Annotated[bool, typer.Option("--check", help="Import and time them.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the installed plugins: version, source and state. Imports them only with --check."""
    with reporting(debug, as_json):
        found = [*PROJECTORS.plugins(check=check), *BLOCKS.plugins(check=check)]
        reported = {plugin.text for plugin in found}
        problems = [*PROJECTORS.problems(), *PROJECTORS.conflicts(), *BLOCKS.conflicts()]
        problems = [problem for problem in problems if problem.text not in reported]
        if as_json:
            faults = [*map(dataclasses.asdict, problems)]
            echo_json({"plugins": [*map(_plugin_facts, found)], "problems": faults})
        else:
            if found:
                _echo_plugins(found)
            else:
                explain("no plugin is installed", "note")
            for plugin in found:
                if plugin.text:
                    kind = "error" if plugin.state == "broken" else "note"
                    explain(f"{plugin.entry.name}: {plugin.text}. {plugin.hint}", kind)
            for problem in problems:
                explain(str(problem), "note")
        if check and any(plugin.text for plugin in found):
            raise typer.Exit(FAILED)


def doctor(as_json: Json = False, debug: Debug = False) -> None:
    """Find what is wrong with this installation and say how to fix it. Imports every plugin."""
    with reporting(debug, as_json):
        from .diagnosis import diagnose

        diagnosis = diagnose()
        if as_json:
            facts = {"ok": diagnosis.ok, **dataclasses.asdict(diagnosis)}
            echo_json({**facts, "plugins": [*map(_plugin_facts, diagnosis.plugins)]})
        else:
            echo(f"mobilevlm {diagnosis.version}, Python {diagnosis.python}\n")
            if found := diagnosis.processor:
                echo(
                    f"processor: {found['name']}, {found['architecture']}, torch uses "
                    f"{found['vectors']}, threads: {found['threads']}"
                )
                echo(f"it has: {', '.join(found['flags']) or 'not known'}")
                linear = (f"{dtype} {product}" for dtype, product in found["linear"].items())
                echo(f"large linear layers in inference: {', '.join(linear)}\n")
            rows = [dataclasses.astuple(each) for each in diagnosis.requirements]
            header = ["package", "for", "wanted", "found", "state"]
            echo_table(header, [[cell or "-" for cell in row] for row in rows])
            if diagnosis.plugins:
                echo()
                _echo_plugins(diagnosis.plugins)
            echo()
            for finding in diagnosis.findings:
                echo(f"{finding.level}: {finding}")
            bad = sum(finding.level == "problem" for finding in diagnosis.findings)
            unused = {each.extra for each in diagnosis.requirements if not each.found} - {""}
            if unused:
                extras = f"extra{'s' * (len(unused) > 1)} {', '.join(sorted(unused))}"
                echo(f"Not in use: the {extras}.")
            echo(f"{bad or 'No'} problem{'s' * (bad != 1)}.")
        if not diagnosis.ok:
            raise typer.Exit(FAILED)


def _echo_plugins(found: Sequence[Plugin]) -> None:
    echo_table(
        ["name", "kind", "from", "target", "state", "import"],
        [
            [
                plugin.entry.name,
                plugin.kind,
                f"{plugin.entry.source} {plugin.entry.version}",
                plugin.entry.target,
                plugin.state,
                "-" if plugin.seconds is None else f"{1000 * plugin.seconds:.0f} ms",
            ]
            for plugin in found
        ],
        right={5},
    )


def _plugin_facts(plugin: Plugin) -> dict[str, Any]:
    facts = dataclasses.asdict(plugin)
    return {**facts.pop("entry"), **facts}
