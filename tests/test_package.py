"""The package as a whole: what ships, what imports what, what importing costs."""

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import mobilevlm

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PACKAGES: list[str] = PYPROJECT["tool"]["setuptools"]["packages"]
# What a room may import of ours; itself always.
ARROWS = {
    "registry": set(),
    "blocks": {"registry"},
    "projectors": {"registry", "blocks"},
    "checkpoints": {"registry", "blocks", "projectors"},
    "models": {"registry", "blocks", "projectors", "checkpoints"},
    "export": {"registry", "blocks", "projectors", "checkpoints"},
    "testing": {"registry", "blocks", "projectors", "checkpoints"},
    "compare": {"registry", "blocks", "projectors"},
    "cli": {
        *("registry", "blocks", "projectors", "checkpoints", "models", "export", "testing"),
        "compare",
    },
    "zeta": {"registry", "blocks"},
}
# What the root holds for the rooms, and imports nothing for.
DATA = {"_BLOCKS_ELSEWHERE", "_BLOCK_TABLES", "_PROJECTORS"}
# The files outside the zoo that may name its modules: the public names, and the table of families.
NAME_FAMILIES = {"__init__.py", "projectors/__init__.py"}
# Imports of a name that is computed: of a public name, a format, what a host's row names, and what
# a registry's tables name.
DYNAMIC = {
    ("__init__.py", "f'.{_HOMES[name]}'"),
    ("export/formats.py", "f'.{module}'"),
    ("models/hosts.py", "f'.{folder}.{module}'"),
    ("registry/registry.py", "table"),
    ("registry/registry.py", "self._builtins[key]"),
    ("registry/registry.py", "self._other"),
}


def modules() -> Iterator[tuple[str, Path]]:
    for package in PACKAGES:
        folder = ROOT.joinpath(*package.split(".")[1:])
        for path in sorted(folder.glob("*.py")):
            yield package.partition(".")[2], path


def imported(package: str, path: Path) -> Iterator[str]:
    """The modules that a file imports, wherever in the file; what a package holds counts as one."""
    here = package.split(".") if package else []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            if not node.level:
                if (node.module or "").startswith("mobilevlm"):
                    pytest.fail(f"{path}: imports inside the package are relative")
                continue
            target = here[: len(here) - node.level + 1]
            target += node.module.split(".") if node.module else []
            for alias in node.names:
                if target:
                    yield ".".join([*target, alias.name])
                elif alias.name not in DATA:
                    yield mobilevlm._HOMES.get(alias.name, alias.name)
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith("mobilevlm") for alias in node.names), path


def written(package: str, path: Path) -> Iterator[str]:
    """The modules that strings name, docstrings apart: ``mobilevlm.room`` or relative to import."""
    here = package.split(".") if package else []
    tree = ast.parse(path.read_text("utf-8"))
    texts = {
        node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)
    }  # docstrings, also those of attributes
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in texts:
            for name in re.findall(r"(?<![\w.])mobilevlm\.(\w+(?:\.\w+)*)", node.value):
                if name.partition(".")[0] in ARROWS:
                    yield name
        start = beginning(node)
        if start.startswith("mobilevlm."):
            match = re.match(r"mobilevlm\.(\w+)[.:]", start)
            assert match, f"{path}: {ast.unparse(node)} may name any module"
            yield match[1]
        if isinstance(node, ast.Call) and is_dynamic(node):
            start = beginning(node.args[0]) or getattr(node.args[0], "value", "")
            if isinstance(start, str) and start.startswith("."):
                level = len(start) - len(start.lstrip("."))
                names = [
                    *here[: len(here) - level + 1],
                    *filter(None, start.lstrip(".").split(".")),
                ]
                assert names or not here, f"{path}: {ast.unparse(node)} may import any room"
                yield ".".join(names)


def beginning(node: ast.AST) -> str:
    """What a string put together from parts begins with; empty for every other node."""
    first: ast.AST | None = None
    if isinstance(node, ast.JoinedStr):
        first = node.values[0] if node.values else None
    elif isinstance(node, ast.BinOp):
        first = node.left
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        first = node.func.value if node.func.attr == "format" else None
    value = first.value if isinstance(first, ast.Constant) else None
    return value if isinstance(value, str) else ""


def is_dynamic(call: ast.Call) -> bool:
    """Whether a call imports what its argument names."""
    name = ast.unparse(call.func).rpartition(".")[2]
    return name in {"import_module", "resolve_name", "__import__"}


def is_within(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


def faults(package: str, path: Path, where: str) -> list[str]:
    """What a file imports or names, in code or in strings, against the arrows."""
    found = {*imported(package, path), *written(package, path)}
    room = package.partition(".")[0]
    wrong = []
    if room:
        allowed = {*ARROWS[room], room}
        wrong += sorted(name for name in found if name.partition(".")[0] not in allowed)
    if package != "projectors.zoo" and where not in NAME_FAMILIES:
        wrong += sorted(name for name in found if is_within(name, "projectors.zoo"))
    if package == "blocks.core":  # what every block is made of names no block
        blocks = {f"blocks.{each.stem}" for each in (ROOT / "blocks").glob("*.py")}
        wrong += sorted({block for block in blocks for name in found if is_within(name, block)})
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and is_dynamic(node):
            argument = node.args[0]
            listed = (where, ast.unparse(argument)) in DYNAMIC
            if not (listed or isinstance(argument, ast.Constant)):
                wrong.append(ast.unparse(node))
    return wrong


def test_arrows_point_one_way() -> None:
    seen = set()
    for package, path in modules():
        where = path.relative_to(ROOT).as_posix()
        assert faults(package, path, where) == [], where
        seen.add(package.partition(".")[0])
    assert seen - {""} == set(ARROWS)


@pytest.mark.parametrize(
    ("where", "code", "fault"),
    [
        ("registry/x.py", "from ..blocks import BLOCKS", "blocks.BLOCKS"),
        ("registry/x.py", "from .. import build_projector", "projectors.build"),
        ("registry/x.py", "X = 'mobilevlm.cli.app'", "cli.app"),
        ("registry/x.py", "X = f'mobilevlm.cli.{X}'", "cli"),
        ("registry/x.py", "X = 'mobilevlm.cli.' + X", "cli"),
        ("registry/x.py", "import_module('..cli', __package__)", "cli"),
        ("registry/x.py", "importlib.import_module(name)", "importlib.import_module(name)"),
        ("registry/x.py", "pkgutil.resolve_name(name)", "pkgutil.resolve_name(name)"),
        ("registry/x.py", "__import__(name)", "__import__(name)"),
        ("projectors/x.py", "from .zoo.mlp import Mlp", "projectors.zoo.mlp.Mlp"),
        ("projectors/x.py", "from .zoo import mlp", "projectors.zoo.mlp"),
        ("projectors/x.py", "from . import zoo", "projectors.zoo"),
        ("checkpoints/x.py", "from .. import LDP", "projectors.zoo.ldp"),
        ("export/x.py", "X = 'mobilevlm.projectors.zoo.mlp:Mlp'", "projectors.zoo.mlp"),
        ("blocks/core/x.py", "from ..pool import Pool", "blocks.pool"),
        ("blocks/core/x.py", "from .. import pool", "blocks.pool"),
    ],
)
def test_what_goes_against_the_arrows_is_found(
    tmp_path: Path, where: str, code: str, fault: str
) -> None:
    path = tmp_path / "x.py"
    path.write_text(code, "utf-8")
    package = where.rpartition("/")[0].replace("/", ".")
    assert set(faults(package, path, where)) == {fault}


@pytest.mark.parametrize("code", ["X = f'mobilevlm.{X}'", "X = 'mobilevlm.' + X"])
def test_a_name_that_may_be_of_any_module_is_found(tmp_path: Path, code: str) -> None:
    path = tmp_path / "x.py"
    path.write_text(code, "utf-8")
    with pytest.raises(AssertionError, match="may name any module"):
        faults("registry", path, "registry/x.py")


def test_the_registry_uses_the_standard_library_only() -> None:
    for path in (ROOT / "registry").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            for name in names:
                assert name.partition(".")[0] in sys.stdlib_module_names, f"{path}: {name}"


def test_library_code_asserts_nothing() -> None:
    for _, path in modules():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            assert not isinstance(node, ast.Assert), path


def fresh(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return result.stdout


def test_importing_and_listing_load_neither_torch_nor_pydantic() -> None:
    loaded = json.loads(
        fresh(
            "import json, sys, mobilevlm\n"
            "mobilevlm.BLOCKS.names(); mobilevlm.PROJECTORS.entries()\n"
            "mobilevlm.PROJECTORS.find('ldp')\n"
            "try: mobilevlm.PROJECTORS.get('lpd')\n"
            "except mobilevlm.RegistryError: pass\n"
            "print(json.dumps(sorted(sys.modules)))"
        )
    )
    heavy = {"torch", "pydantic", "numpy", "einops", "safetensors", "typer", "rich"}
    assert not heavy & set(loaded)
    alone = json.loads(fresh("import json, sys, mobilevlm; print(json.dumps(sorted(sys.modules)))"))
    assert [name for name in alone if name.startswith("mobilevlm")] == ["mobilevlm"]


def test_type_checkers_see_the_public_names() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text("utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    declared = {
        alias.asname: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert declared == mobilevlm._HOMES
    assert sorted(mobilevlm.__all__) == sorted([*declared, "__version__"])
    for name in mobilevlm.__all__:
        assert getattr(mobilevlm, name) is not None
        assert name in dir(mobilevlm)
    with pytest.raises(AttributeError, match="module 'mobilevlm' has no attribute 'nope'"):
        _ = mobilevlm.nope


def test_every_module_says_what_it_is_and_what_it_offers() -> None:
    for room, path in modules():
        if path.stem == "__main__":
            continue
        name = ".".join(["mobilevlm", *([room] if room else []), path.stem])
        module = importlib.import_module(name.removesuffix(".__init__"))
        assert module.__doc__, name
        for public in module.__all__:
            assert hasattr(module, public), f"{name}.{public}"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the sdist that is built from a copy of the tree."""
    import shutil

    copy = tmp_path_factory.mktemp("tree") / "my-clone"
    made = (".git", ".venv*", ".*_cache", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*made))
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", str(copy)],
        check=True,
        capture_output=True,
    )
    [built] = (copy / "dist").glob("*.whl")
    return built


def test_the_wheel_holds_the_tree_and_nothing_else(wheel: Path) -> None:
    version = PYPROJECT["project"]["version"]
    expected = {
        "/".join(["mobilevlm", *room.split("."), path.name]) if room else f"mobilevlm/{path.name}"
        for room, path in modules()
    } | {
        "mobilevlm/py.typed",
        "mobilevlm/compare/defaults.json",
        "mobilevlm/projectors/zoo/index.json",
        "mobilevlm/zeta/table.json",
    }
    template = ROOT / "cli" / "template"
    expected |= {
        f"mobilevlm/cli/template/{path.relative_to(template).as_posix()}"
        for path in template.rglob("*")
        if path.is_file()
    }
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = archive.read(f"mobilevlm-{version}.dist-info/METADATA").decode()
    assert names == expected
    assert "License-Expression: MIT" in metadata


def test_every_folder_of_code_is_a_listed_package() -> None:
    """A forgotten sub-package would be missing from the wheel and from the tests above."""
    elsewhere = {"build", "tests", "tools", "examples", "benchmarks", "docs"}
    found = set()
    for path in ROOT.rglob("__init__.py"):
        parts = path.parent.relative_to(ROOT).parts
        if not parts or not (parts[0] in elsewhere or parts[0].startswith(".")):
            found.add(".".join(["mobilevlm", *parts]))
    assert found == set(PACKAGES)
    assert sorted(path.name for path in ROOT.glob("*.py")) == ["__init__.py", "__main__.py"]


def test_the_package_runs_as_a_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mobilevlm", "version"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert (result.stdout, result.stderr) == (f"{mobilevlm.__version__}\n", "")
