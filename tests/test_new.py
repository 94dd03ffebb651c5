"""`mobilevlm new`: what it writes installs, is found by name, passes its own tests, and goes."""

import json
import os
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mobilevlm.cli.app import app

EXAMPLE = Path(__file__).parents[1] / "examples" / "acme-blocks"


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
        ("lambda", "'lambda' is a keyword of Python. Try lambda-blocks."),
        ("json", "'json' is a module of Python's standard library. Try json-blocks."),
        ("winreg", "'winreg' is a module of Python's standard library. Try winreg-blocks."),
        ("mobilevlm", "a package 'mobilevlm' is installed already. Try mobilevlm-blocks."),
        ("torch", "a package 'torch' is installed already. Try torch-blocks."),
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
        assert err == f"error: {tmp_path / name}: it is there already; expected a folder to make\n"
    status, _, err = run("my-blocks", str(tmp_path / "file" / "below"))
    assert (status, err) == (
        2,
        f"error: {tmp_path / 'file' / 'below'}: cannot be written: Not a directory\n",
    )
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "file").read_text() == "mine"


class Fresh:
    """A fresh virtual environment that sees what is installed in this one, mobilevlm too."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False)
        self.python = folder / "bin" / "python"
        paths = self.run("-c", "import site; print(site.getsitepackages()[0])", cwd=folder)
        lines = [
            f"import site; site.addsitedir({entry!r})\n"
            for entry in (*site.getsitepackages(), *sys.path)
            if entry.endswith("site-packages")
        ]
        (Path(paths.strip()) / "shared.pth").write_text("".join(dict.fromkeys(lines)))

    def run(self, *command: str, cwd: Path) -> str:
        environment = {**os.environ, "PYTHONPATH": ""}
        environment.pop("MOBILEVLM_DISABLE_PLUGINS", None)
        done = subprocess.run(
            [str(self.python), *command],
            cwd=cwd,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout


CODE = """
from mobilevlm import BLOCKS, PROJECTORS, build_projector, dump_spec
print(BLOCKS.find("my-blocks/gate"))
print(PROJECTORS.find("my-blocks/gated-mlp"))
projector = build_projector("my-blocks/gated-mlp", 6, 10)
print('"my-blocks/gate"' in dump_spec(projector.spec))
"""
GONE = """
from mobilevlm import BLOCKS, RegistryError
try:
    BLOCKS.get("my-blocks/gate")
except RegistryError as error:
    print(error)
"""


def test_written_installed_built_by_name_tested_and_uninstalled(tmp_path: Path) -> None:
    fresh = Fresh(tmp_path / "venv")
    out = fresh.run("-m", "mobilevlm.cli", "new", "my-blocks", cwd=tmp_path)
    assert out.endswith("Next: cd my-blocks && pip install -e . pytest && pytest\n")
    package = tmp_path / "my-blocks"

    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    fresh.run("-m", "pip", "install", *options, ".", cwd=package)
    assert fresh.run("-c", CODE, cwd=tmp_path).splitlines() == [
        "my-blocks 0.1.0 (my_blocks.gate:Gate)",
        "my-blocks 0.1.0 (my_blocks.gated_mlp:GatedMlp)",
        "True",
    ]
    assert "7 passed" in fresh.run("-W", "error", "-m", "pytest", "-q", cwd=package)

    fresh.run("-m", "pip", "uninstall", "--yes", "--quiet", "my-blocks", cwd=tmp_path)
    assert fresh.run("-c", GONE, cwd=tmp_path) == (
        "unknown block 'my-blocks/gate'. "
        "It comes from 'my-blocks', which is not installed or offers no such thing.\n"
    )
