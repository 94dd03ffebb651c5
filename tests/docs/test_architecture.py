"""The pages about the tree: what they name is there, their links lead on, and all are indexed."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ARCHITECTURE = DOCS / "architecture.md"
PAGES = [ARCHITECTURE, DOCS / "compatibility.md", *sorted((DOCS / "decisions").glob("*.md"))]
HAND_WRITTEN = sorted([*PAGES, DOCS / "glossary.md", *ROOT.glob("[A-Z]*.md")])
# Pages that name files besides, alone or in a command.
NAMING = [*PAGES, DOCS / "plugins.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
QUOTED = re.compile(r"`([^`\n]+)`")
PATH = re.compile(r"(?:[\w.-]+/)+(?:[\w.-]+\.\w+)?")
# Named for being absent.
ABSENT = {"src/", "src/mobilevlm/"}


def relative(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def paths(text: str) -> set[str]:
    """Return the files and folders in a text's code; environments are not in the tree."""
    words = [word for code in QUOTED.findall(text) for word in code.split()]
    return {word for word in words if PATH.fullmatch(word) and not word.startswith(".venv")}


@pytest.mark.parametrize("page", NAMING, ids=relative)
def test_each_file_and_folder_that_a_page_names_is_there(page: Path) -> None:
    named = paths(page.read_text("utf-8"))
    assert [path for path in sorted(named - ABSENT) if not (ROOT / path).exists()] == []


def test_the_journeys_name_their_files() -> None:
    journeys = ARCHITECTURE.read_text("utf-8").split("\n## ")[3:]
    assert [journey.splitlines()[0] for journey in journeys] == [
        "A document through `build_projector`",
        "A tensor through `forward`",
        "A folder through `load_projector`",
        "A projector into a model",
    ]
    for journey in journeys:
        assert sum(path.endswith(".py") for path in paths(journey)) >= 5


def test_each_room_has_a_line() -> None:
    text = ARCHITECTURE.read_text("utf-8")
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    for package in pyproject["tool"]["setuptools"]["packages"][1:]:
        assert f"`{package.partition('.')[2].replace('.', '/')}/`" in text, package


def test_each_decision_is_in_the_index() -> None:
    index = (DOCS / "decisions" / "README.md").read_text("utf-8")
    linked = re.findall(r"\]\(([\w-]+\.md)\)", index)
    there = [page.name for page in (DOCS / "decisions").glob("*.md") if page.name != "README.md"]
    assert sorted(linked) == sorted(there)
    for name in there:
        text = (DOCS / "decisions" / name).read_text("utf-8")
        parts = re.findall(r"^\*\*(.+?)\.\*\*", text, re.MULTILINE)
        assert parts == ["Question", "Decision", "Why", "What it costs", "What would change it"]
        assert f"[{text.splitlines()[0].removeprefix('# ')}]({name})" in index


@pytest.mark.parametrize("page", HAND_WRITTEN, ids=relative)
def test_links_lead_on(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target
