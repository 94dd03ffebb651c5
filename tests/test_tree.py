"""The tree: how long its files are, and what tests, tools and benchmarks may import."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = [
    path
    for path in ROOT.iterdir()
    if path.is_dir() and path.name[0] != "." and path.name not in ("build", "dist")
]
FILES = sorted(path.relative_to(ROOT) for each in FOLDERS for path in each.rglob("*.py"))
TESTS = [path for path in FILES if path.parts[0] == "tests"]
# What is copied whole into each pack of test vectors cannot be shared among files.
COPIED = {Path("testing/vectors/check.py"): 690}
TEST_MODULES = Counter(path.stem for path in TESTS if path.name.startswith("test_"))


def imports(path: Path) -> Iterator[str]:
    """Yield each part of each name that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
        for name in names:
            yield from name.split(".")


def test_no_file_is_too_long() -> None:
    for path in FILES:
        lines = len((ROOT / path).read_text("utf-8").splitlines())
        limit = COPIED.get(path, 1000 if path in TESTS else 500)
        assert lines <= limit, f"{path} has {lines:,} lines"


def test_test_modules_have_names_of_their_own() -> None:
    """Their folders are no packages, so two of one name would be one module."""
    assert TEST_MODULES.most_common(1)[0][1] == 1, TEST_MODULES.most_common(1)
    assert {path.parent.name for path in TESTS if path.name == "__init__.py"} == {
        "helpers",
        "reference",
    }


def test_nothing_imports_a_test_module() -> None:
    """What two of them need is in tests/helpers, and what upstream computes in tests/reference."""
    for path in FILES:
        if path.parts[0] in ("tests", "tools", "benchmarks"):
            assert not TEST_MODULES.keys() & set(imports(path)), path
