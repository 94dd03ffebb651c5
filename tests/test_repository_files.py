"""The files that other programs read: workflow, issue forms, hooks, citation, configuration."""

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from mobilevlm.registry.requirements import OWN

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
FORMS = sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
TEXTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(GITHUB.rglob("*.*")),
    *(ROOT / ".ci" / name for name in ("install", "run")),
]


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_workflow_runs_what_ci_runs() -> None:
    workflow = read(GITHUB / "workflows" / "ci.yml")
    job = workflow["jobs"]["gates"]
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == [".ci/run"]
    assert os.access(ROOT / commands[0], os.X_OK)
    settings = {key: each for step in job["steps"] for key, each in step.get("with", {}).items()}
    minimum = PYPROJECT["project"]["requires-python"].removeprefix(">=")
    assert settings["python-version"] == minimum
    # GitHub's expression finds the files that say what is installed, .ci/run keeps it there.
    for pattern in re.findall(r"'([\w.*-]+)'", settings["key"]):
        assert list(ROOT.glob(pattern)), pattern
    assert "/mobilevlm-ci/" in (ROOT / ".ci" / "run").read_text("utf-8")
    assert "~/.cache/mobilevlm-ci" in settings["path"].split()


@pytest.mark.parametrize("form", FORMS, ids=relative)
def test_issue_forms_are_what_github_reads(form: Path) -> None:
    content = read(form)
    assert content.keys() == {"name", "description", "labels", "body"}
    ids = [part["id"] for part in content["body"] if part["type"] != "markdown"]
    assert len(set(ids)) == len(ids)
    assert ids
    for part in content["body"]:
        assert part["type"] in ("markdown", "textarea", "input", "dropdown")
        assert part.keys() <= {"type", "id", "attributes", "validations"}
        assert part["attributes"]["value" if part["type"] == "markdown" else "label"]
        for option in part["attributes"].get("options", ["-"]):
            assert isinstance(option, str)  # a bare yes is a boolean


def test_contributing_has_every_gate_and_no_target_that_is_gone() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*  ## ", MAKEFILE, re.MULTILINE))
    [steps] = re.findall(r"\.ci/steps ((?:.*\\\n)*.*)", MAKEFILE)
    gates = {*steps.replace("\\", "").split()} - {"demo", "$(TESTS)"}
    said = set(re.findall(r"`make ([a-z-]+)", (ROOT / "CONTRIBUTING.md").read_text("utf-8")))
    assert {"lint", "package"} <= gates <= said <= targets


def test_hooks_are_tools_that_make_installs() -> None:
    [repository] = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        assert hook["language"] == "system"
        tool = hook["entry"].split()[0].removeprefix(".venv/bin/")
        assert tool in PYPROJECT["dependency-groups"]["test"]
        assert re.search(rf"^\t\$\(BIN\)/{tool}\b", MAKEFILE, re.MULTILINE), tool


def test_the_citation_agrees_with_the_package() -> None:
    citation, project = read(ROOT / "CITATION.cff"), PYPROJECT["project"]
    assert citation["cff-version"] == "1.2.0"
    assert citation["title"] == OWN
    for key, theirs in (("abstract", "description"), *((k, k) for k in ("version", "keywords"))):
        assert citation[key] == project[theirs], key
    assert citation["license"] == project["license"]
    [author] = citation["authors"]
    assert f" {author['name']}\n" in (ROOT / "LICENSE").read_text("utf-8")


@pytest.mark.parametrize("path", TEXTS, ids=relative)
def test_every_target_of_make_that_a_text_names_is_there(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    text = path.read_text("utf-8")
    assert set(re.findall(r"`make ([a-z][a-z-]*)", text)) <= targets


def test_what_the_tests_install_is_pinned() -> None:
    pinned = {
        line.partition("==")[0]
        for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
        if not line.startswith("#")
    }
    assert set(PYPROJECT["dependency-groups"]["test"]) <= pinned
