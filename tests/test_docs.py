"""The pages of docs/ are true: their code runs and prints what they say, their links lead on."""

import re
import tomllib
from pathlib import Path

import pytest
from readme import DOCS, FENCE, render

KINDS = {"python", "text", "console", "sh", "toml"}


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_code_runs_and_prints_what_the_page_says(page: Path, registries: None) -> None:
    assert render(page) == page.read_text("utf-8"), "run: python tests/readme.py"


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_it_is_well_formed(page: Path) -> None:
    text = page.read_text("utf-8")
    assert {language for language, _ in FENCE.findall(text)} <= KINDS
    assert text.count("\n```") == 2 * len(FENCE.findall(text))
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), target


def test_what_the_tutorial_says_of_a_new_package(request: pytest.FixtureRequest) -> None:
    """Its command is the one printed above it, and its lines are those of the template."""
    [page] = [page for page in DOCS if page.name == "write-a-block.md"]
    said = dict(FENCE.findall(page.read_text("utf-8")))
    assert said["console"].splitlines()[-1] == f"Next: {said['sh'].rstrip()}"
    example = request.config.rootpath.parent / "examples" / "acme-blocks" / "pyproject.toml"
    written = example.read_text("utf-8").replace("acme_blocks", "my_blocks")
    groups = tomllib.loads(said["toml"])["project"]["entry-points"]
    assert groups == tomllib.loads(written)["project"]["entry-points"]
