"""The README is true, short, and each of its examples runs alone and prints what it says."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from helpers.pages import FENCE
from index import families
from readme import DOCS, EXAMPLE, OUTPUT, README, printed_alone

ROOT = README.parent
TEXT = README.read_text("utf-8")
# Blocks of sh set a machine up; `.ci/run` runs the make targets, which install as these say.
SHELL = [
    "python3 -m venv .venv && . .venv/bin/activate",
    "pip install -c constraints.txt .",
    'pip install -c constraints.txt -c constraints-export.txt ".[onnx,gguf,executorch]"',
]
EXAMPLES = list(EXAMPLE.finditer(TEXT))


def heading(example: re.Match[str]) -> str:
    """Return the heading that an example stands under."""
    return re.findall(r"^## (.+)$", TEXT[: example.start()], re.MULTILINE)[-1]


def shown(example: re.Match[str]) -> str:
    return example[OUTPUT[example["language"]]] or ""


@pytest.mark.parametrize("example", EXAMPLES, ids=heading)
def test_an_example_runs_alone_and_prints_what_the_readme_says(
    example: re.Match[str], registries: None, quiet: None
) -> None:
    assert printed_alone(example, README) == shown(example), "run: python tools/readme.py"


ALONE = """
import sys
from helpers import torchvision_operators
torchvision_operators.declare()
exec(compile(sys.stdin.read(), "example", "exec"), {"__name__": "__main__"})
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "example", [each for each in EXAMPLES if each["language"] == "python"], ids=heading
)
def test_it_does_so_in_a_process_of_its_own(example: re.Match[str], tmp_path: Path) -> None:
    """So it imports all that it needs."""
    done = subprocess.run(
        [sys.executable, "-c", ALONE],
        input=example["code"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
    )
    assert done.stdout == shown(example)


def test_it_is_short_enough_to_be_read() -> None:
    assert TEXT.count("\n") <= 250
    assert len(EXAMPLES[0]["code"].splitlines()) <= 10
    assert EXAMPLES[0]["code"].count("import ") == 2
    for name in ("ldp", "ldpnet", "ldpnetv2"):
        assert f'"{name}"' in EXAMPLES[0]["code"]


def test_every_code_block_is_of_a_kind_that_is_run() -> None:
    kinds: dict[str, list[str]] = {}
    for language, body in FENCE.findall(TEXT):
        kinds.setdefault(language, []).append(body)
    assert set(kinds) == {"python", "text", "console", "sh", "toml"}
    assert len(kinds["python"]) + len(kinds["console"]) == len(EXAMPLES)
    assert len(kinds["text"]) == sum(each["output"] is not None for each in EXAMPLES)
    lines = "".join(kinds["sh"]).splitlines()
    # tests/extras/export runs those that export.
    assert [line for line in lines if not line.startswith("mobilevlm export")] == SHELL
    assert "make test-all" in (ROOT / ".ci" / "run").read_text("utf-8")
    makefile = (ROOT / "Makefile").read_text("utf-8")
    [steps] = re.findall(r"\.ci/steps ((?:.*\\\n)*.*)", makefile)
    [tests] = re.findall(r"^TESTS := (.*)", makefile, re.MULTILINE)
    steps = steps.replace("$(TESTS)", tests)
    [gates] = re.findall(r"^test: ([a-z ]*)", makefile, re.MULTILINE)
    assert {"demo", *gates.split(), "test-zeta", "test-export"} <= set(steps.split())
    example = tomllib.loads((ROOT / "examples/acme-blocks/pyproject.toml").read_text("utf-8"))
    groups = tomllib.loads("".join(kinds["toml"]))["project"]["entry-points"]
    for group, entries in groups.items():
        assert entries == example["project"]["entry-points"][group]


def test_its_numbers_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    [python] = re.findall(r"Python ([\d.]+) or later", TEXT)
    assert project["requires-python"] == f">={python}"
    [torch] = re.findall(r"torch, ([\d.]+) or later", TEXT)
    assert f"torch>={torch}" in project["dependencies"]
    [count] = re.findall(r"(\d+) families", TEXT)
    assert int(count) == len(families())


PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if target.startswith("https://"):
            continue
        assert (page.parent / target).exists(), target
    for picture in re.findall(r'\b(?:src|srcset)="([^"]+)"', text):
        assert (page.parent / picture).is_file(), picture
    for folder in re.findall(r"`([a-z-]+(?:/[a-z_.-]+)*/)`", text):
        assert Path(ROOT / folder).is_dir(), folder
