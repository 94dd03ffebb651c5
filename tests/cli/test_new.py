"""`mobilevlm new`: what it writes installs, is found by name, passes its own tests, and goes."""

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mobilevlm.cli.app import app

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "acme-blocks"


def run(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["new", *words])
    return result.exit_code, result.stdout, result.stderr


def contents(folder: Path) -> dict[str, str]:
    """The files that belong to a package, not those that building and testing leave behind."""
    return {
        path.relative_to(folder).as_posix(): path.read_text("utf-8")
        for path in folder.rglob("*")
        if path.is_file()
        and not {"build", "__pycache__", ".pytest_cache"} & set(path.parts)
        and ".egg-info" not in str(path)
    }


def test_the_example_is_what_it_writes(tmp_path: Path) -> None:
    """After a change, remove it and run: mobilevlm new acme-blocks examples/acme-blocks."""
    status, out, err = run("acme-blocks", str(tmp_path / "here"))
    assert (status, err) == (0, "")
    written = contents(tmp_path / "here")
    assert written == contents(EXAMPLE)
    assert out.splitlines() == [
        *(str(tmp_path / "here" / path) for path in sorted(written)),
        f"Next: cd {tmp_path / 'here'} && pip install -e . pytest && pytest",
    ]


def test_it_writes_into_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, _ = run("my-blocks", "--json")
    assert status == 0
    assert json.loads(out) == {
        "name": "my-blocks",
        "folder": "my-blocks",
        "files": sorted(contents(tmp_path / "my-blocks")),
    }
    assert [path.name for path in tmp_path.iterdir()] == ["my-blocks"]
    assert "acme" not in str(contents(tmp_path / "my-blocks")).lower()
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "my-blocks").stat().st_mode & 0o777 == 0o777 & ~umask


RULE = "lower-case ASCII letters, digits and single '-', starting with a letter, at most 64"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("My_Blocks", f"'My_Blocks' is not a usable package name; expected {RULE}. Try my-blocks."),
        ("2d", f"'2d' is not a usable package name; expected {RULE}"),
        ("a--b", f"'a--b' is not a usable package name; expected {RULE}. Try a-b."),
        ("../x", f"'../x' is not a usable package name; expected {RULE}. Try x."),
        ("", f"'' is not a usable package name; expected {RULE}"),
        ("b" * 65, f"'{'b' * 65}' is not a usable package name; expected {RULE}"),
        ("bl\u00f6cke", f"'bl\\xf6cke' is not a usable package name; expected {RULE}. Try bl-cke."),
        *(
            (
                name,
                f"the name {name!r} is taken, by Python or by an installed package. "
                f"Try {name}-blocks.",
            )
            for name in ("lambda", "json", "winreg", "mobilevlm", "torch")
        ),
    ],
)
def test_names_that_will_not_do(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(name) == (2, "", f"error: new: {message}\n")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.rglob("*"))
    for name in ("empty", "file", "link"):
        status, out, err = run("my-blocks", str(tmp_path / name))
        assert (status, out) == (2, "")
        assert err == f"error: {tmp_path / name}: it already exists; expected a folder to create\n"
    status, _, err = run("my-blocks", str(tmp_path / "file" / "below"))
    assert (status, err) == (
        2,
        f"error: {tmp_path / 'file' / 'below'}: cannot be written: Not a directory\n",
    )
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "file").read_text() == "mine"


class Fresh:
    """A fresh virtual environment that has what is installed in this one, but not mobilevlm."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False)
        self.bin = folder / "bin"
        paths = self.run("python -c 'import site; print(site.getsitepackages()[0])'", folder)
        packages = Path(paths.strip())
        for entry in sys.path:
            if entry.endswith("site-packages"):
                for path in Path(entry).iterdir():
                    link = packages / path.name
                    ours = "mobilevlm" in path.name or path.suffix == ".pth"
                    if not ours and not link.exists():
                        link.symlink_to(path)
        for name in ("pip", "pytest"):
            script = self.bin / name
            script.write_text(f'#!/bin/sh\nexec "{self.bin}/python" -m {name} "$@"\n')
            script.chmod(0o755)

    def run(self, command: str, cwd: Path, status: int = 0, **variables: str) -> str:
        environment = {
            **os.environ,
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "PYTHONPATH": "",
            # Nothing is fetched: what is not installed already cannot be.
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # which is how pip is told to build in this environment
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            **variables,
        }
        for name in ("MOBILEVLM_DISABLE_PLUGINS", "MOBILEVLM", "VIRTUAL_ENV"):
            if name not in variables:
                environment.pop(name, None)
        done = subprocess.run(
            ["bash", "-ec", command],
            cwd=cwd,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == status, done.stdout
        return done.stdout


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This library as a git repository: what is in the tree, committed."""
    copy = tmp_path_factory.mktemp("clone") / "repository"
    ignore = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=ignore)
    template = Path("cli", "template")  # of which some names begin with a dot
    shutil.copytree(ROOT / template, copy / template, dirs_exist_ok=True)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], cwd=copy, check=True)
    return copy


CODE = """
from mobilevlm import BLOCKS, PROJECTORS, build_projector, dump_spec
print(BLOCKS.find("my-blocks/gate"))
print(PROJECTORS.find("my-blocks/gated-mlp"))
projector = build_projector("my-blocks/gated-mlp", 6, 10)
print("my-blocks/gate" in dump_spec(projector.spec))
"""
GONE = """
from mobilevlm import BLOCKS, RegistryError
try:
    BLOCKS.get("my-blocks/gate")
except RegistryError as error:
    print(error)
"""


def commands(text: str) -> list[str]:
    """The indented lines of a page that install something."""
    return [line.strip() for line in text.splitlines() if line.startswith("    pip install ")]


@pytest.mark.slow
def test_written_and_installed_where_only_ours_is(tmp_path: Path, repository: Path) -> None:
    """By its README's own words, from a path; then built by name, uninstalled and missed."""
    fresh = Fresh(tmp_path / "venv")
    fresh.run("python -c 'import mobilevlm'", tmp_path, status=1)
    assert run("my-blocks", str(tmp_path / "my-blocks"))[0] == 0
    package = tmp_path / "my-blocks"
    install, develop = commands((package / "README.md").read_text("utf-8"))
    assert (install, develop) == ("pip install .", "pip install -e . pytest")
    # Without ours pip finds none, rather than another package of that name.
    missing = fresh.run(install, package, status=1)
    assert "No matching distribution found for mobilevlm>=0.1" in missing

    fresh.run("pip install .", repository)
    fresh.run(install, package)
    assert fresh.run(f"python -c '{CODE}'", tmp_path).splitlines() == [
        "my-blocks 0.1.0 (my_blocks.gate:Gate)",
        "my-blocks 0.1.0 (my_blocks.gated_mlp:GatedMlp)",
        "True",
    ]
    fresh.run("pip uninstall --yes --quiet my-blocks", tmp_path)
    assert fresh.run(f"python -c '{GONE}'", tmp_path) == (
        "unknown block 'my-blocks/gate'. "
        "It comes from 'my-blocks', which is not installed or offers no such thing.\n"
    )


@pytest.mark.slow
def test_its_ci_installs_ours_from_a_git_address_and_passes(
    tmp_path: Path, repository: Path
) -> None:
    fresh = Fresh(tmp_path / "venv")
    assert run("my-blocks", str(tmp_path / "my-blocks"))[0] == 0
    package = tmp_path / "my-blocks"
    workflow = (package / ".github" / "workflows" / "test.yml").read_text("utf-8")
    assert "\n          MOBILEVLM: ${{ vars.MOBILEVLM }}\n" in workflow
    install, test = re.findall(r"- run: (.*)", workflow)
    assert "set this variable of the repository" in fresh.run(install, package, status=1)
    fresh.run(install, package, MOBILEVLM=f"git+file://{repository}")
    origin = fresh.run(
        "python -c 'from importlib.metadata import distribution as d; "
        'print(d("mobilevlm").read_text("direct_url.json"))\'',
        tmp_path,
    )
    assert json.loads(origin)["url"] == f"file://{repository}"
    assert "8 passed" in fresh.run(test, package, PYTHONWARNINGS="error")
    # The line that `new` prints last holds there too.
    out = fresh.run("mobilevlm new further", tmp_path)
    line = out.splitlines()[-1].removeprefix("Next: ")
    assert "8 tests collected" in fresh.run(f"{line} --collect-only -q", tmp_path)
