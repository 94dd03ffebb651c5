"""What a release rests on: version, changelog, floors, workflows, the name on an index."""

import datetime
import itertools
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from long_description import absolute
from release_notes import notes

import mobilevlm
from mobilevlm.registry import requirements
from mobilevlm.registry.requirements import DISTRIBUTION

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text("utf-8")
IGNORED = (ROOT / ".gitignore").read_text("utf-8").splitlines()
MANIFEST = (ROOT / "MANIFEST.in").read_text("utf-8").splitlines()
WORKFLOWS = {
    name: yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text("utf-8"))
    for name in ("ci", "release")
}
GROUPS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
FLOORS = {
    match[1]: match[2]
    for need in PROJECT["dependencies"]
    if (match := re.match(r"([\w-]+)>=([\d.]+)", need))
}


def faults(changelog: str, version: str) -> list[str]:
    """What is not as keepachangelog.com has it."""
    wrong = []
    first, *headings = re.findall(r"^## (.*)", changelog, re.MULTILINE)
    if first != "Unreleased":
        wrong.append("Unreleased is not first")
    found = []
    for heading in headings:
        match = re.fullmatch(r"(\d+)\.(\d+)\.(\d+) - (\d{4}-\d\d-\d\d)", heading)
        if match is None:
            wrong.append(f"{heading}: no version and date")
            continue
        try:
            day = datetime.date.fromisoformat(match[4])
        except ValueError:
            wrong.append(f"{heading}: no day")
            continue
        found.append((tuple(map(int, match.groups()[:3])), day))
    for newer, older in itertools.pairwise(found):
        if newer[0] <= older[0] or newer[1] < older[1]:
            wrong.append(f"{newer[0]} is not newer than {older[0]}")
    if not any(heading.startswith(f"{version} - ") for heading in headings):
        wrong.append(f"{version} is not there")
    unreleased = re.split(r"^## .*\n", changelog, flags=re.MULTILINE)[1]
    groups = re.findall(r"^### (.*)", unreleased, re.MULTILINE)
    if groups != sorted(set(groups) & set(GROUPS), key=GROUPS.index):
        wrong.append(f"groups: {groups}")
    before = unreleased.partition("### ")[0]
    if re.search(r"^- ", before, re.MULTILINE):
        wrong.append("an entry is in no group")
    return wrong


def test_the_changelog_has_its_form() -> None:
    assert faults(CHANGELOG, PROJECT["version"]) == []


@pytest.mark.parametrize(
    ("changelog", "fault"),
    [
        ("## 0.1.0 - 2026-01-01\n## Unreleased\n", "Unreleased is not first"),
        ("## Unreleased\n## 0.1.0\n", "0.1.0: no version and date"),
        ("## Unreleased\n## 0.1.0 - 2026-02-30\n", "0.1.0 - 2026-02-30: no day"),
        ("## Unreleased\n## 0.1.0 - 2026-01-01\n## 0.2.0 - 2025-01-01\n", "(0, 1, 0) is not newer"),
        ("## Unreleased\n## 0.1.0 - 2026-01-01\n## 0.0.1 - 2027-01-01\n", "(0, 1, 0) is not newer"),
        ("## Unreleased\n## 0.0.9 - 2026-01-01\n", "0.1.0 is not there"),
        ("## Unreleased\n### Mended\n## 0.1.0 - 2026-01-01\n", "groups: ['Mended']"),
        ("## Unreleased\n### Fixed\n### Added\n## 0.1.0 - 2026-01-01\n", "groups:"),
        ("## Unreleased\n- This.\n## 0.1.0 - 2026-01-01\n", "an entry is in no group"),
    ],
)
def test_a_changelog_of_another_form_is_found(changelog: str, fault: str) -> None:
    assert any(each.startswith(fault) for each in faults(changelog, "0.1.0"))


def test_the_version_is_said_once() -> None:
    """By pyproject.toml, from which all others read it; CITATION.cff has a test of its own."""
    assert mobilevlm.__version__ == PROJECT["version"] == requirements.own_version()
    quoted = re.compile(rf"""["']{re.escape(PROJECT["version"])}["']""")
    for package in PYPROJECT["tool"]["setuptools"]["packages"]:
        for path in ROOT.joinpath(*package.split(".")[1:]).glob("*.py"):
            assert not quoted.search(path.read_text("utf-8")), path


def test_the_notes_of_a_release_are_its_section() -> None:
    changelog = "## Unreleased\n- New.\n## 0.2.0 - 2026-01-01\n\n- This.\n\n"
    changelog += "## 0.1.0 - 2025-01-01\n- Old.\n"
    assert notes("v0.2.0", "0.2.0", changelog) == "- This.\n"
    assert notes("v0.1.0", "0.1.0", changelog) == "- Old.\n"
    with pytest.raises(SystemExit, match=r"the tag is v0\.2\.1; pyproject\.toml says version 0"):
        notes("v0.2.1", "0.2.0", changelog)
    with pytest.raises(SystemExit, match=r"no dated section of 0\.3\.0"):
        notes("v0.3.0", "0.3.0", changelog)
    assert notes(f"v{PROJECT['version']}", PROJECT["version"], CHANGELOG)


def test_on_an_index_links_are_absolute() -> None:
    text = (
        'A [page](docs/zoo.md#ldp), `[code](stays)`.\n<img src="docs/a.svg">\n'
        "[![badge](b.svg)](docs/ci.md) [out](https://example.org) [here](#limits)\n"
        "```text\n[a](b)\n```\n"
    )
    assert absolute(text, "https://github.com/O/N", "v1") == (
        "A [page](https://github.com/O/N/blob/v1/docs/zoo.md#ldp), `[code](stays)`.\n"
        '<img src="https://github.com/O/N/raw/v1/docs/a.svg">\n'
        "[![badge](https://github.com/O/N/raw/v1/b.svg)](https://github.com/O/N/blob/v1/docs/ci.md)"
        " [out](https://example.org) [here](#limits)\n"
        "```text\n[a](b)\n```\n"
    )


def test_each_dependency_has_a_floor_and_the_oldest_are_installed() -> None:
    assert len(FLOORS) == len(PROJECT["dependencies"])
    lines = (ROOT / "constraints-oldest.txt").read_text("utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        f"{name}=={floor}" for name, floor in FLOORS.items() if name != "torch"
    ]


def test_what_the_core_is_tested_with() -> None:
    groups = PYPROJECT["dependency-groups"]
    assert set(groups["core"]) <= set(groups["test"])
    paths = (ROOT / "tests" / "core.txt").read_text("utf-8").split()
    assert paths == sorted(set(paths))
    assert all((ROOT / path).is_file() for path in paths)


def test_the_other_systems_run_the_oldest_and_the_tested_torch() -> None:
    job = WORKFLOWS["ci"]["jobs"]["core"]
    matrix = job["strategy"]["matrix"]
    constraints = (ROOT / "constraints.txt").read_text("utf-8")
    [tested] = re.findall(r"^torch==(\d+\.\d+)", constraints, re.MULTILINE)
    assert matrix["torch"] == [tested]
    assert {each["torch"] for each in matrix["include"]} == {FLOORS["torch"]}
    assert {each["os"] for each in matrix["include"]} == set(matrix["os"])
    assert matrix["python"][0] == PROJECT["requires-python"].removeprefix(">=")
    *_, install, test = (step.get("run", "") for step in job["steps"])
    assert "--group core" in install
    assert "@tests/core.txt" in test


@pytest.mark.parametrize("name", WORKFLOWS)
def test_actions_are_pinned_by_their_commit(name: str) -> None:
    text = (ROOT / ".github" / "workflows" / f"{name}.yml").read_text("utf-8")
    used = re.findall(r"uses: (.*)", text)
    assert used
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


def named(source: str, tmp_path: Path) -> str:
    """What the release workflow says of the name on an index, given a requirements.py."""
    [step] = [s for s in WORKFLOWS["release"]["jobs"]["build"]["steps"] if s.get("id") == "name"]
    (tmp_path / "registry").mkdir(exist_ok=True)
    (tmp_path / "registry" / "requirements.py").write_text(source, "utf-8")
    output = tmp_path / "output"
    output.write_text("")
    environment = {**os.environ, "GITHUB_OUTPUT": str(output)}
    subprocess.run(["bash", "-ec", step["run"]], cwd=tmp_path, env=environment, check=True)
    return output.read_text()


def test_nothing_is_published_until_the_package_has_a_name(tmp_path: Path) -> None:
    jobs = WORKFLOWS["release"]["jobs"]
    assert jobs["build"]["outputs"]["distribution"] == "${{ steps.name.outputs.distribution }}"
    publish = jobs["publish"]
    assert publish["if"] == "needs.build.outputs.distribution != ''"
    assert publish["needs"] == ["build", "attach"]
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["steps"][-1]["with"]["attestations"] is True
    elsewhere = [job for name, job in jobs.items() if name != "publish"]
    assert "id-token" not in str(elsewhere)
    source = Path(requirements.__file__).read_text("utf-8")
    said = f"distribution={DISTRIBUTION}\n" if DISTRIBUTION else ""
    assert named(source, tmp_path) == said
    line = "DISTRIBUTION: str | None = "
    assert source.count(line) == 1
    as_if = re.sub(f"(?<={re.escape(line)}).*", '"its-name"', source)
    assert named(as_if, tmp_path) == "distribution=its-name\n"


def test_the_name_on_the_index_is_that_of_the_project() -> None:
    assert PROJECT["name"] == requirements.installed_as()
    if DISTRIBUTION is not None:
        assert f"pip install {DISTRIBUTION}" in (ROOT / "README.md").read_text("utf-8")


def test_what_the_workflow_writes_before_it_builds_is_in_no_distribution() -> None:
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text("utf-8")
    written = set(re.findall(r"[\w/]*notes\.md", text))
    [(folder, _)] = [path.split("/") for path in written]
    assert f"/{folder}/" in IGNORED
    assert f"graft {folder}" not in MANIFEST


def test_what_git_ignores_inside_a_folder_is_in_no_distribution() -> None:
    inside = [path.strip("/") for path in IGNORED if "/" in path.strip("/")]
    assert "docs/api" in inside  # which `make docs` writes
    assert {f"prune {path}" for path in inside} <= {*MANIFEST}


def test_the_tag_is_checked_before_anything_is_built() -> None:
    steps = [step.get("run", "") for step in WORKFLOWS["release"]["jobs"]["build"]["steps"]]
    notes_at, build_at = (
        next(i for i, step in enumerate(steps) if word in step)
        for word in ("tools/release_notes.py", "make package")
    )
    assert notes_at < build_at
    tool = [sys.executable, ROOT / "tools" / "release_notes.py"]
    for tag, status in ((f"v{PROJECT['version']}", 0), ("v0.0.0", 1)):
        assert subprocess.run([*tool, tag], capture_output=True).returncode == status
