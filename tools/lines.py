"""Count lines of code per room, at a commit and in the working tree.

``python tools/lines.py BASE`` prints one table: lines without blanks, comments and docstrings, at
the commit BASE and now, and the difference in percent. Run it anywhere in the repository.

What is new since BASE as a thing, such as a family or a tool, would hide how much the rest shrank.
Such paths are shown apart and are not part of any sum: those in `NEW`, or of ``--new PATH ...``. A
path is a file or a folder, and counts as new only where BASE does not have it.
"""

import argparse
import ast
import io
import subprocess
import tarfile
import tokenize
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

# Families, features and tools that did not exist before this tree was restructured.
NEW = (
    "projectors/zoo/fuyu.py",
    "tests/docs/test_architecture.py",
    "tests/projectors/zoo/test_fuyu.py",
    "tests/test_repository_files.py",
    "tests/tools/test_lines.py",
    "tools/lines.py",
)
# Generators move between tests/ and tools/, so the two are one sum.
TESTS = ("tests", "tools")
OTHERS = ("benchmarks", "docs", "examples")
IGNORED = {
    tokenize.COMMENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
    tokenize.INDENT,
    tokenize.NEWLINE,
    tokenize.NL,
}


def count(source: str) -> int:
    """Return how many lines hold code: no blanks, no comments, no strings that are statements."""
    docstrings = {
        (node.lineno, node.col_offset)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in IGNORED and token.start not in docstrings:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines)


def git(folder: Path, *arguments: str) -> bytes:
    """Return what a git command prints."""
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout


def at_commit(root: Path, commit: str) -> dict[str, int]:
    """Count every Python file of a commit; nothing is checked out."""
    with tarfile.open(fileobj=io.BytesIO(git(root, "archive", commit))) as archive:
        files = {m.name: archive.extractfile(m) for m in archive if m.name.endswith(".py")}
        return {name: count(file.read().decode()) for name, file in files.items() if file}


def in_tree(root: Path) -> dict[str, int]:
    """Count every Python file that git tracks or would track."""
    listed = git(root, "ls-files", "-z", "-co", "--exclude-standard", "--", "*.py").decode()
    paths = [name for name in listed.split("\0") if (root / name).is_file()]
    return {name: count((root / name).read_text("utf-8")) for name in paths}


def room(name: str) -> str:
    """Return the top-level folder of a path, or ``root``."""
    return name.partition("/")[0] if "/" in name else "root"


def table(before: dict[str, int], now: dict[str, int], new: Iterable[str], base: str) -> str:
    """Return the table: rooms of the product with their sum, tests, the rest, all; then the new."""
    known = {str(parent) for name in before for parent in (name, *PurePosixPath(name).parents)}
    new = [path.rstrip("/") for path in new if path.rstrip("/") not in known]
    apart = {name for name in now if any(name == p or name.startswith(f"{p}/") for p in new)}
    old, current = Counter[str](), Counter[str]()
    for name, lines in before.items():
        old[room(name)] += lines
    for name in now.keys() - apart:
        current[room(name)] += now[name]
    rooms = sorted(old.keys() | current.keys())
    product = [each for each in rooms if each not in (*TESTS, *OTHERS)]
    rows: list[tuple[str, int | None, int]] = [(r, old[r], current[r]) for r in product]
    for title, members in (
        ("product", product),
        ("tests and tools", TESTS),
        *((name, (name,)) for name in OTHERS if name in rooms),
        ("all", rooms),
    ):
        rows.append((title, sum(old[r] for r in members), sum(current[r] for r in members)))
    rows += [(f"new: {name}", None, now[name]) for name in sorted(apart)]
    width = max(len(title) for title, _, _ in rows)
    lines = [f"{'lines of code':{width}}  {base[:10]:>10}  {'now':>10}  {'change':>8}"]
    for title, a, b in rows:
        change = f"{100 * (b - a) / a:+.1f} %" if a else "-"
        lines.append(f"{title:{width}}  {a if a is not None else '-':>10}  {b:>10}  {change:>8}")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Count lines of code at a commit and now.")
    parser.add_argument("base", metavar="BASE", help="the commit to compare with")
    parser.add_argument("--new", nargs="+", metavar="PATH", default=NEW, help="what is shown apart")
    options = parser.parse_args()
    root = Path(git(Path.cwd(), "rev-parse", "--show-toplevel").decode().strip())
    print(table(at_commit(root, options.base), in_tree(root), options.new, options.base))
