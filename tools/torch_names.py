"""List the names of torch that the package uses, and the release that each is in from.

``python tools/torch_names.py`` prints the names that need the newest releases, and where they are
used. A name counts as guarded where the code goes on without it: inside ``try`` with a handler of
AttributeError or ImportError, or below ``hasattr``. Names that are only there for type checkers do
not count.

``python tools/torch_names.py --write FOLDER ...`` writes the table `torch_names.json` anew. Each
folder is called as a release of torch, such as ``2.6``, and holds its wheel, unpacked: sources and
stubs are read, nothing is run. The oldest release stands for itself and all before it.
"""

import argparse
import ast
import builtins
import functools
import json
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "tools" / "torch_names.json"
METHODS_OF = ("torch.Tensor", "torch.nn.Module")  # what a variable may be
# An attribute that Python's own types have too says nothing about torch.
PLAIN = {name for kind in vars(builtins).values() if isinstance(kind, type) for name in dir(kind)}
GUARDS = {"AttributeError", "Exception", "ImportError", "ModuleNotFoundError"}


@dataclass(frozen=True, order=True)
class Use:
    """A name that a file uses; ``method`` where only the name of an attribute is known."""

    name: str
    where: str
    guarded: bool
    method: bool = False


class Reader(ast.NodeVisitor):
    """Collect the names of torch in one file."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.uses: list[Use] = []
        self._bound: dict[str, str] = {}  # what a name of this file stands for
        self._others: set[str] = set()  # modules that are not torch's
        self._handled = 0  # how many `try` with a handler for missing names are around
        self._asked: list[str] = []  # what `hasattr` has asked for around

    def add(self, name: str, line: int, method: bool = False) -> None:
        last = name.rpartition(".")[2]
        asked = any(name == each or name.startswith(f"{each}.") for each in self._asked)
        asked |= method and any(each.rpartition(".")[2] == last for each in self._asked)
        guarded = asked or self._handled > 0
        self.uses.append(Use(name, f"{self.where}:{line}", guarded, method))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if alias.name.partition(".")[0] == "torch":
                self.add(alias.name, node.lineno)
                self._bound[alias.asname or "torch"] = alias.name if alias.asname else "torch"
            else:
                self._others.add(alias.asname or alias.name.partition(".")[0])

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if not node.level and (node.module or "").partition(".")[0] == "torch":
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                self.add(name, node.lineno)
                self._bound[alias.asname or alias.name] = name

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if name := self._resolved(node):
            self.add(name, node.lineno)
            return
        others = isinstance(node.value, ast.Name) and node.value.id in self._others
        if node.attr not in PLAIN and not others:
            self.add(node.attr, node.lineno, method=True)
        self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        """Read ``getattr`` of a written name as the attribute; with a default, as a guarded one."""
        if asked := self._asked_for(node, "getattr"):
            self._asked += [asked] * (len(node.args) > 2)
            self.add(asked, node.lineno)
            del self._asked[len(self._asked) - (len(node.args) > 2) :]
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test).rpartition(".")[2] == "TYPE_CHECKING":
            node.body = []
        self._with_test(node.test, node.body, node.orelse)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._with_test(node.test, [node.body], [node.orelse])

    def visit_DictComp(self, node: ast.DictComp) -> None:
        tests = [test for each in node.generators for test in each.ifs]
        whole = ast.BoolOp(ast.And(), tests) if tests else ast.Constant(True)
        self._with_test(whole, [node.key, node.value, *(g.iter for g in node.generators)], [])

    def visit_Try(self, node: ast.Try) -> None:
        caught = {
            name.id
            for handler in node.handlers
            for name in ast.walk(handler.type or ast.Name("Exception"))
            if isinstance(name, ast.Name)
        }
        self._handled += bool(caught & GUARDS)
        for each in node.body:
            self.visit(each)
        self._handled -= bool(caught & GUARDS)
        for other in (*node.handlers, *node.orelse, *node.finalbody):
            self.visit(other)

    def _with_test(
        self, test: ast.expr, body: Iterable[ast.AST], orelse: Iterable[ast.AST]
    ) -> None:
        self.visit(test)
        asked = [
            name
            for each in ast.walk(test)
            if isinstance(each, ast.Call) and (name := self._asked_for(each, "hasattr"))
        ]
        self._asked += asked
        for each in body:
            self.visit(each)
        del self._asked[len(self._asked) - len(asked) :]
        for each in orelse:
            self.visit(each)

    def _asked_for(self, call: ast.Call, function: str) -> str:
        """Return the name of torch that a ``hasattr`` or ``getattr`` spells out; else nothing."""
        if ast.unparse(call.func) != function or len(call.args) < 2:
            return ""
        home, attribute = call.args[:2]
        if not (isinstance(attribute, ast.Constant) and isinstance(attribute.value, str)):
            return ""
        name = self._resolved(home)
        return f"{name}.{attribute.value}" if name else ""

    def _resolved(self, node: ast.expr) -> str:
        """Return the whole name of an expression such as ``F.pad``; empty if it is not torch's."""
        if isinstance(node, ast.Attribute):
            home = self._resolved(node.value)
            return f"{home}.{node.attr}" if home else ""
        return self._bound.get(node.id, "") if isinstance(node, ast.Name) else ""


def uses(root: Path = ROOT) -> list[Use]:
    """Return every use of a name of torch in the package, in order."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    found: list[Use] = []
    for package in settings["packages"]:
        for path in sorted(root.joinpath(*package.split(".")[1:]).glob("*.py")):
            found += read(path.read_text("utf-8"), path.relative_to(root).as_posix())
    return sorted(found)


def read(source: str, where: str) -> list[Use]:
    """Return the uses of names of torch in a file's text."""
    reader = Reader(where)
    reader.visit(ast.parse(source))
    return reader.uses


class Release:
    """What a release of torch defines, read from its sources and stubs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name

    def has(self, name: str) -> bool:
        """Whether a dotted name is there: a module, or what one holds, or a member of a class."""
        return self._look("", name.split("."))

    def _look(self, module: str, rest: list[str], seen: frozenset[str] = frozenset()) -> bool:
        """Look for names, one in the other, in a module; each place is looked at once."""
        place = f"{module}:{'.'.join(rest)}"
        if not rest:
            return True
        if place in seen:
            return False
        seen |= {place}
        first, after = rest[0], rest[1:]
        if first == "__file__" and self._files(module):
            return True
        inner = f"{module}.{first}".lstrip(".")
        if self._files(inner) and self._look(inner, after, seen):
            return True
        for kind, value in self._names(module).get(first, ()):
            if kind == "value" and (not after or value == ""):
                return True
            if kind == "class" and (not after or self._member(module, value, after, seen)):
                return True
            if kind == "name" and self._look("", [*value.split("."), *after], seen):
                return True
        return any(
            kind == "star" and self._files(home) and self._look(home, rest, seen)
            for kind, home in self._names(module).get("*", ())
        )

    def _member(self, module: str, name: str, rest: list[str], seen: frozenset[str]) -> bool:
        return any(
            rest[0] in members or any(self._base(module, base, rest, seen) for base in bases)
            for members, bases in self._classes(module)[name]
        )

    def _base(self, module: str, base: str, rest: list[str], seen: frozenset[str]) -> bool:
        if base.startswith("torch."):
            return self._look("", [*base.split("."), *rest], seen)
        return self._look(module, [*base.split("."), *rest], seen)

    @functools.cache  # noqa: B019 - releases live as long as the program
    def _files(self, module: str) -> list[Path]:
        base = self.folder.joinpath(*module.split("."))
        places = [base.with_suffix(s) for s in (".py", ".pyi")]
        places += [base / "__init__.py", base / "__init__.pyi"]
        found = [path for path in places if path.is_file()]
        return found or ([base] if module and base.is_dir() else [])

    @functools.cache  # noqa: B019
    def _trees(self, module: str) -> list[tuple[ast.Module, bool]]:
        return [
            (ast.parse(path.read_text("utf-8")), path.stem == "__init__")
            for path in self._files(module)
            if path.is_file()
        ]

    @functools.cache  # noqa: B019
    def _names(self, module: str) -> dict[str, list[tuple[str, str]]]:
        """Return what a module's files define: values, classes, other names and star imports."""
        found: dict[str, list[tuple[str, str]]] = {}
        for tree, is_package in self._trees(module):
            for node in statements(tree.body):
                for name, kind, value in self._defined(module, node, is_package):
                    found.setdefault(name, []).append((kind, value))
        return found

    def _defined(
        self, module: str, node: ast.stmt, is_package: bool
    ) -> Iterator[tuple[str, str, str]]:
        match node:
            case ast.ClassDef():
                yield node.name, "class", node.name
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.name, "value", "function"
            case ast.ImportFrom():
                here = module.split(".")
                up = node.level - is_package
                home = here[: len(here) - up] if node.level else []
                home += node.module.split(".") if node.module else []
                for alias in node.names:
                    if alias.name == "*":
                        yield "*", "star", ".".join(home)
                    else:
                        yield alias.asname or alias.name, "name", ".".join([*home, alias.name])
            case ast.Import():
                for alias in node.names:
                    if alias.asname:
                        yield alias.asname, "name", alias.name
            case ast.Assign() | ast.AnnAssign():
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    for each in ast.walk(target):
                        if isinstance(each, ast.Name):
                            yield each.id, "value", ""
            case _:
                return

    @functools.cache  # noqa: B019
    def _classes(self, module: str) -> dict[str, list[tuple[set[str], list[str]]]]:
        """Return the members and bases of a module's classes."""
        found: dict[str, list[tuple[set[str], list[str]]]] = {}
        for tree, is_package in self._trees(module):
            for node in statements(tree.body):
                if not isinstance(node, ast.ClassDef):
                    continue
                members = {
                    name
                    for each in statements(node.body)
                    for name, _, _ in self._defined(module, each, is_package)
                }
                members |= {  # what __init__ sets
                    each.attr
                    for each in ast.walk(node)
                    if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store)
                }
                bases = [ast.unparse(base) for base in node.bases]
                found.setdefault(node.name, []).append((members, bases))
        return found


def statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a module or class, also those below ``if``, ``try`` and ``with``."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With):
            yield from statements(node.body)
            yield from statements(getattr(node, "orelse", []))
            for handler in getattr(node, "handlers", []):
                yield from statements(handler.body)


def numbers(release: str) -> tuple[int, ...]:
    """Return a release's name as numbers, to be compared.

    >>> numbers("2.10") > numbers("2.9")
    True
    """
    return tuple(int(part) for part in release.split("."))


def names_of(use: Use) -> list[str]:
    """Return the names that a use may be of: a method may be a tensor's or a module's."""
    return [f"{home}.{use.name}" for home in METHODS_OF] if use.method else [use.name]


def first_releases(found: Iterable[Use], releases: Iterable[Release]) -> dict[str, str]:
    """Return, for each name, the release from which on all have it.

    Raises:
        SystemExit: The newest release has no such name.
    """
    ordered = sorted(releases, key=lambda release: numbers(release.name), reverse=True)
    table: dict[str, str] = {}
    for use in found:
        for name in names_of(use):
            if name in table:
                continue
            lacks = [not release.has(name) for release in ordered]
            having = ordered[: lacks.index(True)] if True in lacks else ordered
            if having:
                table[name] = having[-1].name
            elif not use.method:
                raise SystemExit(f"{use.where}: torch {ordered[0].name} has no {name}")
    return dict(sorted(table.items()))


def needed(found: Iterable[Use], table: dict[str, str]) -> list[tuple[str, Use]]:
    """Return each use without a guard and the release that it needs, newest first.

    Raises:
        KeyError: The table lacks a name.
    """
    rows = []
    for use in found:
        known = names_of(use)
        if use.method:  # of a tensor, of a module, or of anything else
            known = [name for name in known if name in table]
        if known and not use.guarded:
            rows.append((max((table[name] for name in known), key=numbers), use))
    return sorted(rows, key=lambda row: numbers(row[0]), reverse=True)


def read_table() -> dict[str, str]:
    """Return the committed table: the release from which on torch has each name."""
    table: dict[str, str] = json.loads(TABLE.read_text("utf-8"))
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="List the names of torch that the package uses.")
    parser.add_argument("--write", nargs="+", type=Path, metavar="FOLDER", help="unpacked wheels")
    options = parser.parse_args()
    if options.write:
        written = first_releases(uses(), map(Release, options.write))
        TABLE.write_text(json.dumps(written, indent=0) + "\n", "utf-8")
    for release, use in needed(uses(), read_table()):
        if numbers(release) >= (2, 5):
            print(f"{release:5} {use.name:40} {use.where}")
