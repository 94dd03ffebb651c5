"""The pages of docs/ are true: their code runs and prints what they say, their links lead on."""

import re
import tomllib
from pathlib import Path

import pytest
from helpers.pages import FENCE
from readme import DOCS, render

KINDS = {"python", "text", "console", "sh", "toml"}
# The longest: `make test-slow` runs them.
LONG = {
    "choose.md",
    "cli.md",
    "compare.md",
    "hub.md",
    "load.md",
    "porting.md",
    "write-a-block.md",
}


@pytest.mark.quick(*({page.name for page in DOCS} - LONG))
@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_code_runs_and_prints_what_the_page_says(page: Path, registries: None) -> None:
    assert render(page) == page.read_text("utf-8"), "run: python tools/readme.py"


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_it_is_well_formed(page: Path) -> None:
    text = page.read_text("utf-8")
    assert {language for language, _ in FENCE.findall(text)} <= KINDS
    directives = len(re.findall(r"^```\{", text, re.MULTILINE)) if page.name == "index.md" else 0
    assert text.count("\n```") == 2 * (len(FENCE.findall(text)) + directives)
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), target


ROOT = Path(__file__).parents[2]
TEXTS = {".in", ".json", ".md", ".py", ".toml", ".yml"}


def test_no_line_installs_the_package_that_has_our_name_elsewhere() -> None:
    """A package index holds another `mobilevlm`: install from a clone or a git address."""
    command = re.compile(r"pip install[^\n`&;]*?[ \"']mobilevlm(?![\w/-]| @)")
    assert command.search('Run: pip install "mobilevlm[zeta]"')
    assert command.search("pip install mobilevlm==0.1")
    assert not command.search('pip install ".[zeta]" && mobilevlm list')
    looked_at = 0
    for path in ROOT.rglob("*"):
        folders = path.relative_to(ROOT).parts
        hidden = any(name.startswith(".") and name != ".github" for name in folders)
        if path.suffix not in TEXTS or hidden or folders[0] in ("build", "dist"):
            continue
        looked_at += 1
        if path != Path(__file__):
            assert not command.search(path.read_text("utf-8")), path
    assert looked_at > 200


def test_what_the_tutorial_says_of_a_new_package(request: pytest.FixtureRequest) -> None:
    """Its command is the one printed above it, and its lines are those of the template."""
    [page] = [page for page in DOCS if page.name == "write-a-block.md"]
    said = dict(FENCE.findall(page.read_text("utf-8")))
    assert said["console"].splitlines()[-1] == f"Next: {said['sh'].rstrip()}"
    example = request.config.rootpath.parent / "examples" / "acme-blocks" / "pyproject.toml"
    written = example.read_text("utf-8").replace("acme_blocks", "my_blocks")
    groups = tomllib.loads(said["toml"])["project"]["entry-points"]
    assert groups == tomllib.loads(written)["project"]["entry-points"]
