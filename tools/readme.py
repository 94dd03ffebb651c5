"""Run the code blocks of a Markdown page, and compare or rewrite what they print.

``python tools/readme.py`` writes the outputs and tables of the README and of docs/ anew.
"""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers import torchvision_operators
from zoo_page import document_rows, first_line, zoo_page, zoo_rows

from mobilevlm import BLOCKS
from mobilevlm.testing.kit import BLOCK_CHECKS

README = Path(__file__).parent.parent / "README.md"
ZOO = README.parent / "docs" / "zoo.md"
DOCS = sorted((README.parent / "docs").glob("*.md"))
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def render(page: Path) -> str:
    """Return the page with every output and table as the code gives it now."""
    if page == ZOO:
        return zoo_page()
    with tempfile.TemporaryDirectory() as folder, SURROUNDINGS.get(page.name, nowhere)():
        Path(folder, "examples").symlink_to(README.parent / "examples")
        text = run(page, Path(folder))
    for header, rows in TABLES.items():
        if header in text:
            text = table(text, header, rows())
    return text


@contextlib.contextmanager
def small_hub() -> Iterator[None]:
    """Let ``hf://org/model`` be a small model, on a hub of this machine."""
    from helpers.hub_models import published

    with published():
        yield


nowhere = contextlib.nullcontext
SURROUNDINGS = {"hub.md": small_hub}


def run(page: Path, folder: Path) -> str:
    """Run a page's code and its commands in a folder; each block of the README's by itself."""
    text = page.read_text("utf-8")
    namespace: dict[str, object] = {"__name__": "__main__"}
    parts: list[str] = []
    position = 0
    printed: str | None = None
    for match in FENCE.finditer(text):
        language, body = match.groups()
        if language == "python":
            above = text.count("\n", 0, match.start(2))  # tracebacks name the page's own lines
            if page == README:
                namespace = {"__name__": "__main__"}
            with contextlib.chdir(folder):
                printed = run_python("\n" * above + body, namespace, page)
        elif language == "console":
            body = "".join(run_console(body, folder))
        elif language == "text":
            assert printed is not None, "an output without code before it"
            body, printed = printed, None
        parts += [text[position : match.start()], f"```{language}\n{body}```"]
        position = match.end()
    return "".join([*parts, text[position:]])


def run_python(code: str, namespace: dict[str, object], page: Path) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, str(page), "exec", dont_inherit=True), namespace)
    return out.getvalue()


def run_console(body: str, folder: Path) -> Iterator[str]:
    """Run each ``$ command`` line; what follows it up to the next is its output."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    commands = [line for line in body.splitlines() if line.startswith("$ ")]
    for index, line in enumerate(commands):
        result = subprocess.run(
            line[2:],
            shell=True,
            capture_output=True,
            text=True,
            check=True,
            env=environment,
            cwd=folder,
        )
        yield ("\n" if index else "") + f"{line}\n{result.stdout.rstrip()}\n"


def table(page: str, header: str, rows: list[str]) -> str:
    """Replace the rows under a table's header and rule."""
    start = page.index(header)
    first = page.index("\n", page.index("\n", start) + 1) + 1
    end = first
    while page.startswith("|", end):
        end = page.index("\n", end) + 1
    return page[:first] + "".join(f"{row}\n" for row in rows) + page[end:]


def fields_of(cls: Any) -> str:
    """The fields of a class with their defaults, as they are written."""
    return (
        ", ".join(
            f"`{name}`" if field.is_required() else f"`{name}={json.dumps(field.default)}`"
            for name, field in cls.model_fields.items()
        )
        or "-"
    )


def block_rows() -> list[str]:
    rows = []
    for name in BLOCKS.names():
        cls = BLOCKS.get(name)
        if BLOCKS.find(name).source != "built-in" or name.startswith("zeta-"):
            continue
        rows.append(f"| `{name}` | {first_line(cls)} | {fields_of(cls)} |")
    zeta = sum(name.startswith("zeta-") for name in BLOCKS.names())
    what = f"A module of zetascale's, each with a name of its own: {zeta} of them"
    return [*rows, f"| `zeta-...` | {what} | [docs/zeta.md](docs/zeta.md) |"]


def property_rows() -> list[str]:
    """What the kit checks of a block, in its order, as the checks' docstrings say it."""
    return [f"| `{name}` | {first_line(check)} |" for name, check in BLOCK_CHECKS.items()]


TABLES = {
    "| name | models | tokens in -> out |": zoo_rows,
    "| document | family | in -> out |": document_rows,
    "| block | what it does | fields |": block_rows,
    "| property | what must hold |": property_rows,
}


if __name__ == "__main__":
    torchvision_operators.declare()
    for page in (README, *DOCS):
        page.write_text(render(page), "utf-8")
