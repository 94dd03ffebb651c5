"""The side effects of using and importing a block."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache

import torch

from .cases import Subject
from .global_state import DRAWS, changes, snapshot
from .report import Finding

__all__ = ["globals_", "import_"]

_SEED = 1234


def globals_(subject: Subject) -> None:
    """Building and running it do not change global state: dtype, device, threads, random numbers.

    Building may draw torch's random numbers, to initialise.
    """
    for variant in subject.variants:
        torch.manual_seed(_SEED)
        before = snapshot()
        module = variant.builder.build(variant.grid)
        changed = [name for name in changes(before) if name != DRAWS.name]
        if torch.initial_seed() != _SEED:
            changed.append("the seed")
        _check(changed, "building it", variant.where)
        module.eval()
        before = snapshot()
        for case in variant.cases:
            case.run(module, case.input())
            _check(changes(before), "running it in evaluation", case.where)


def _check(changed: list[str], doing: str, where: str) -> None:
    hint = (
        "Pass dtype, device or generator to the calls that need them; leave settings and "
        "environment variables to the user."
    )
    if changed:
        found = f"{doing} changes {', '.join(changed)}"
        raise Finding(found, where, "unchanged global state", hint)


_IMPORT = """\
import contextlib, importlib, io, json, sys
sys.path[:] = json.loads(sys.argv[2])
from mobilevlm.testing.global_state import changes, snapshot
before, out = snapshot(), io.StringIO()
missing = False
with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
    try:
        importlib.import_module(sys.argv[1])
    except ModuleNotFoundError as error:
        if error.name != sys.argv[1].partition(".")[0]:
            raise
        missing = True
print(json.dumps([missing, changes(before), out.getvalue()]))
"""


def import_(subject: Subject) -> None:
    """Importing its module in a new interpreter prints nothing and changes no global state."""
    if subject.home is None:  # nothing to import it from
        return
    missing, changed, printed = _import(subject.home)
    if missing:  # a test module that only pytest can find
        return
    doing = f"importing {subject.home}"
    _check(changed, doing, "")
    if printed:
        found = f"{doing} prints {printed.splitlines()[0]!r}"
        raise Finding(found, expected="no output", hint="Use logging, and only in calls.")


@cache
def _import(name: str) -> tuple[bool, list[str], str]:
    path = json.dumps(list(sys.path))
    result = subprocess.run(
        [sys.executable, "-c", _IMPORT, name, path], capture_output=True, text=True, check=False
    )
    if result.returncode:
        last = result.stderr.strip().splitlines()[-1:] or ["no reason given"]
        found = f"importing {name} in a new interpreter fails: {last[0]}"
        raise Finding(found, expected="an import that works on its own")
    missing, changed, printed = json.loads(result.stdout.splitlines()[-1])
    return missing, changed, printed
