"""Run the code blocks of a Markdown page, and compare or rewrite what they print.

``python tools/readme.py`` writes the outputs and tables of the README and of docs/ anew.
"""

import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from family_facts import first_line
from helpers import torchvision_operators
from zoo_page import document_rows, zoo_page

from mobilevlm.testing.kit import BLOCK_CHECKS

README = Path(__file__).parent.parent / "README.md"
ZOO = README.parent / "docs" / "zoo.md"
DOCS = sorted((README.parent / "docs").glob("*.md"))
# Code with what it prints, if that is shown, right below; commands, each with its output.
EXAMPLE = re.compile(
    r"^```(?P<language>python|console)\n(?P<code>.*?)^```$(?:\n\n?```text\n(?P<output>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
# The part of an example that running it writes.
OUTPUT = {"python": "output", "console": "code"}


def render(page: Path) -> str:
    """Return the page with every output and table as the code gives it now."""
    if page == ZOO:
        return zoo_page()
    text = run_alone(page) if page == README else run_together(page)
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


def run_together(page: Path) -> str:
    """Run a page's examples one after the other, as a reader who follows it."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    with tempfile.TemporaryDirectory() as folder, SURROUNDINGS.get(page.name, nowhere)():
        Path(folder, "examples").symlink_to(README.parent / "examples")
        return replaced(page, lambda example: printed(example, page, Path(folder), namespace))


def run_alone(page: Path) -> str:
    """Run each of a page's examples in a folder of its own, as a reader who copies one."""
    return replaced(page, lambda example: printed_alone(example, page))


def replaced(page: Path, run: Callable[[re.Match[str]], str]) -> str:
    text = page.read_text("utf-8")
    parts: list[str] = []
    position = shown = 0
    for example in EXAMPLE.finditer(text):
        start, end = example.span(OUTPUT[example["language"]])
        new = run(example)
        if start < 0:
            continue
        parts += [text[position:start], new]
        position = end
        shown += example["language"] == "python"
    if shown != text.count("\n```text\n"):
        raise ValueError("an output without code before it")
    return "".join([*parts, text[position:]])


def printed_alone(example: re.Match[str], page: Path) -> str:
    with tempfile.TemporaryDirectory() as folder:
        return printed(example, page, Path(folder), {"__name__": "__main__"})


def printed(example: re.Match[str], page: Path, folder: Path, namespace: dict[str, object]) -> str:
    """Run an example in a folder, and return what belongs in the place of its output."""
    if example["language"] == "console":
        return "".join(run_console(example["code"], folder))
    above = page.read_text("utf-8").count("\n", 0, example.start("code"))
    with contextlib.chdir(folder):  # tracebacks name the page's own lines
        return run_python("\n" * above + example["code"], namespace, page)


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
        said = result.stdout.rstrip()
        yield "\n" * bool(index) + f"{line}\n" + f"{said}\n" * bool(said)


def table(page: str, header: str, rows: list[str]) -> str:
    """Replace the rows under a table's header and rule."""
    start = page.index(header)
    first = page.index("\n", page.index("\n", start) + 1) + 1
    end = first
    while page.startswith("|", end):
        end = page.index("\n", end) + 1
    return page[:first] + "".join(f"{row}\n" for row in rows) + page[end:]


def property_rows() -> list[str]:
    """What the kit checks of a block, in its order, as the checks' docstrings say it."""
    return [f"| `{name}` | {first_line(check)} |" for name, check in BLOCK_CHECKS.items()]


TABLES = {
    "| document | family | in -> out |": document_rows,
    "| property | what must hold |": property_rows,
}


if __name__ == "__main__":
    torchvision_operators.declare()
    for page in (README, *DOCS):
        page.write_text(render(page), "utf-8")
