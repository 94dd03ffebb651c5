"""Write what is generated from the families' files: their index, and pyproject's entry points.

python tools/index.py [--check]
"""

import argparse
import dataclasses
import inspect
import json
import pkgutil
import re
from pathlib import Path
from typing import Any

from mobilevlm import BLOCKS, PROJECTORS, Plan, Preset
from mobilevlm.projectors import FAMILIES
from mobilevlm.projectors.describe import CASE
from mobilevlm.projectors.docstrings import paragraph
from mobilevlm.projectors.index import folded
from mobilevlm.projectors.upstream import Upstream

ROOT = Path(__file__).parents[1]
INDEX = ROOT / "projectors" / "zoo" / "index.json"
PYPROJECT = ROOT / "pyproject.toml"
NOT_DATA = {"names", "read"}  # functions, or names of no use before the family is imported
# Where a family needs another case than that of the tables in docs/zoo.md.
SPECIAL: dict[str, dict[str, Any]] = {
    "identity": {"in": 2048},
    "token-packer": {"in": 4096},
    "voxtral": {"grid": [1, 576]},
}


def families() -> dict[str, type[Preset]]:
    """Return the built-in families by name; not by the registry, which reads the index."""
    return {name: pkgutil.resolve_name(target) for name, target in FAMILIES.items()}


def models(cls: type[Preset]) -> str:
    """Return the docstring's sentence about the models that use a family, without "Used by"."""
    doc = " ".join(inspect.cleandoc(cls.__doc__ or "").split())
    match = re.search(r"Used by (.*?)(?:; |\. [A-Z]|\.$)", doc)
    return match[1] if match else ""


def upstream_row(entry: Upstream) -> dict[str, Any]:
    """Return an entry's data, without defaults and functions."""
    return {
        field.name: value
        for field in dataclasses.fields(entry)
        if field.name not in NOT_DATA and (value := getattr(entry, field.name)) != field.default
    }


def standard_plan(name: str) -> Plan:
    """Return the plan of a family for the case of docs/zoo.md, its options at defaults."""
    case: dict[str, Any] = CASE | SPECIAL.get(name, {})
    h, w = case["grid"]
    return Plan(families()[name]().stack(case["in"], case["out"]), (h, w))


def family_row(name: str, cls: type[Preset]) -> dict[str, Any]:
    """Return what the index says of a family. An alias in capitals is a class of upstream's."""
    plan, note = standard_plan(name), paragraph(cls, "Note")
    classes = {alias for alias in cls.aliases if alias[0].isupper()}
    return {
        **({"note": note} if note else {}),
        "models": cls.models,
        "aliases": {k: v for k, v in cls.aliases.items() if k not in classes},
        "classes": {k: v for k, v in cls.aliases.items() if k in classes},
        "case": CASE | SPECIAL.get(name, {}),
        "tokens": plan.tokens_out,
        "parameters": plan.parameters,
        "upstream": [upstream_row(entry) for entry in cls.upstream],
    }


def index() -> str:
    """Return the text of the index.

    Raises:
        SystemExit: A name means two things.
    """
    names: dict[str, str] = {folded(name): name for name in FAMILIES}
    for name, cls in families().items():
        for other in {folded(each) for each in (*cls.aliases, *cls.models)}:
            if names.setdefault(other, name) != name:
                raise SystemExit(f"{other!r} is a name of {names[other]} and of {name}")
    rows = {name: family_row(name, cls) for name, cls in families().items()}
    return json.dumps(rows, indent=1) + "\n"


def pyproject() -> str:
    """Return pyproject.toml with the built-in families of blocks and projectors as entry points."""
    text = PYPROJECT.read_text(encoding="utf-8")
    blocks = {
        entry.name: entry.target
        for entry in BLOCKS.entries()
        if entry.source == "built-in" and not entry.name.startswith("zeta-")
    }
    for group, rows in ((BLOCKS.group, blocks), (PROJECTORS.group, FAMILIES)):
        header = f'[project.entry-points."{group}"]\n'
        before, _, after = text.partition(header)
        _, _, after = after.partition("\n\n")
        lines = "\n".join(f'{name} = "{target}"' for name, target in rows.items())
        text = f"{before}{header}{lines}\n\n{after}"
    return text


def main() -> None:
    """Write the files, or say which are out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if stale")
    check = parser.parse_args().check
    for path, text in ((INDEX, index()), (PYPROJECT, pyproject())):
        if path.is_file() and path.read_bytes() == text.encode():
            continue
        if check:
            parser.exit(1, f"{path.relative_to(ROOT)} is stale: run python tools/index.py\n")
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
