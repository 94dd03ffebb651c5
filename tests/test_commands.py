"""The commands of a clone: what they need they say, and a half-made environment is made anew.

The Pythons here are scripts: one says that it is old, one makes environments as quickly as it must.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
VERSION = "{}.{}".format(*sys.version_info)

OLD = """\
#!/bin/sh
[ "$1" = -V ] && echo Python 3.10.13 && exit
exec {python} -c "import sys; sys.version_info = (3, 10, 13); exec(sys.argv[1])" "$2"
"""
# `-m venv FOLDER` makes a folder whose Python says which pip it has, and notes what that is to do.
NEW = """\
#!/bin/sh
[ "$1 $2" = "-m venv" ] || exec {python} "$@"
mkdir -p "$3/bin"
[ ! -e {broken} ] || {{ ln -s "$(which false)" "$3/bin/python"; exit 1; }}
cat > "$3/bin/python" <<'END'
#!/bin/sh
[ "$3" = -V ] && echo "pip 26.3 from nowhere (python {version})" && exit
echo "$*" >> "$(dirname "$0")/../told"
[ ! -e {broken} ]
END
chmod +x "$3/bin/python"
"""


def outside() -> dict[str, str]:
    """The environment without what a make that runs these tests has put there."""
    return {name: text for name, text in os.environ.items() if not name.startswith(("MAKE", "MFL"))}


class Clone:
    """A folder with what the commands need, a Python that makes environments, and one too old."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = folder / ".venv"
        self.broken = folder / "broken"  # while it is there, pip fails, and so does venv
        folder.mkdir()
        for path in (ROOT / ".ci", *ROOT.glob("[!.]*")):
            (folder / path.name).symlink_to(path)
        for name, text in (("old", OLD), ("new", NEW)):
            text = text.format(python=sys.executable, broken=self.broken, version=VERSION)
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)

    def make(self, *words: str, python: str = "new") -> tuple[int, str, str]:
        done = subprocess.run(
            ["make", *words, f"PYTHON={self.folder / python}", "VENV=.venv"],
            cwd=self.folder,
            env=outside(),
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout, done.stderr

    def stamp(self, python: str = "new") -> tuple[int, str, str]:
        version = {"old": "3.10", "new": VERSION}[python]
        return self.make(f".venv/.demo-{version}", python=python)

    def told(self) -> list[str]:
        return (self.environment / "told").read_text().splitlines()


INSTALL = "-m pip install --disable-pip-version-check -c constraints.txt .[demo]"
QUIET = INSTALL.replace("-c c", "-q -c c")


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path / "clone")


def test_an_old_python_is_named_at_once(clone: Clone) -> None:
    status, _, err = clone.make("demo", python="old")
    assert status == 2
    assert err.splitlines()[0] == (
        f"{clone.folder / 'old'} is Python 3.10.13; Python 3.11 or later is needed. "
        "Try: make PYTHON=python3.11 demo"
    )
    assert not clone.environment.exists()
    _, _, err = clone.make("demo", python="gone")
    assert err.startswith(f"{clone.folder / 'gone'} is no Python that runs; Python 3.11 or later")


def test_a_made_environment_is_left_as_it_is(clone: Clone) -> None:
    status, out, err = clone.stamp()
    assert (status, err) == (0, "")
    assert f"Making a virtual environment of Python {VERSION} in .venv;" in out
    assert clone.told() == [INSTALL]
    assert "up to date" in clone.stamp()[1]
    os.utime(next(clone.environment.glob(".demo-*")), (0, 0))  # something has changed since
    assert clone.stamp()[0] == 0
    assert clone.told() == [INSTALL, QUIET]


def test_where_pip_has_failed_it_goes_on(clone: Clone) -> None:
    clone.stamp()
    next(clone.environment.glob(".demo-*")).unlink()
    clone.broken.touch()
    assert clone.stamp()[0] == 2
    assert list(clone.environment.glob(".demo-*")) == []
    clone.broken.unlink()
    assert clone.stamp()[0] == 0
    assert clone.told() == [INSTALL] * 3


def test_half_a_package_is_installed_again(clone: Clone) -> None:
    clone.stamp()
    whole, half = (
        clone.environment / "lib" / "site-packages" / f"{name}-1.0.dist-info"
        for name in ("whole", "half")
    )
    for folder in (whole, half):
        folder.mkdir(parents=True)
        (folder / "METADATA").touch()
    (whole / "RECORD").touch()
    next(clone.environment.glob(".demo-*")).unlink()
    assert clone.stamp()[0] == 0
    assert whole.exists()
    assert not half.exists()  # so pip does not take it for installed


def test_half_an_environment_is_made_anew(clone: Clone) -> None:
    clone.broken.touch()
    assert clone.stamp()[0] == 2
    assert clone.environment.exists()
    clone.broken.unlink()
    assert clone.stamp()[0] == 0
    assert clone.told() == [INSTALL]


def test_another_pythons_environment_is_made_anew(clone: Clone) -> None:
    clone.stamp()
    python = clone.environment / "bin" / "python"
    python.write_text(python.read_text().replace(f"(python {VERSION})", "(python 3.10)"))
    next(clone.environment.glob(".demo-*")).rename(clone.environment / ".demo-3.10")
    assert clone.stamp()[0] == 0
    assert clone.told() == [INSTALL]


def test_what_make_has_not_made_it_does_not_remove(clone: Clone) -> None:
    clone.environment.mkdir()
    (clone.environment / "mine").touch()
    status, _, err = clone.stamp()
    assert status == 2
    assert err.splitlines()[0] == (
        f".venv has no working pip of Python {VERSION}, and make did not make it. "
        f"Remove it, or name another folder: make VENV=.venv-{VERSION} demo"
    )
    assert (clone.environment / "mine").exists()


def test_help_has_a_line_for_each_target(clone: Clone) -> None:
    text = (ROOT / "Makefile").read_text("utf-8")
    targets = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)", text, re.MULTILINE)
    assert targets is not None
    status, out, err = clone.make()
    assert (status, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == re.findall(r"[\w-]+", targets[1])
    assert all(len(line.split()) > 1 for line in out.splitlines())
    assert not clone.environment.exists()


def test_without_a_browser_the_site_is_said_not_to_be_tested(clone: Clone) -> None:
    said = "test-site: not run: no Chromium (apt-get install chromium)\n"
    assert clone.make("test-site", "CHROMIUM=") == (0, said, "")
    assert not clone.environment.exists()
    status, out, _ = clone.make("-n", "-o", "docs", "test-site", "CHROMIUM=/bin/chromium")
    assert status == 0
    assert "pytest" in out
    assert "not run" not in out


def test_steps_say_how_long_they_took_also_when_one_fails(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "steps").write_text((ROOT / ".ci" / "steps").read_text())
    (tmp_path / "Makefile").write_text("a:\n\t@echo 3 passed in 1s\nb:\n\t@false\n")
    done = subprocess.run(
        ["bash", tmp_path / ".ci" / "steps", "a", "b", "c"],
        env=outside(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    lines = [re.sub(r"\d:\d\d", "M:SS", line) for line in done.stdout.splitlines()]
    a, b = ("a                M:SS min  passed", "b                M:SS min  FAILED")
    assert lines == [
        *("", "== make a", "3 passed in 1s", f"== {a}"),
        *("", "== make b", f"== {b}"),
        *("", a, b, "in all           M:SS min  "),
    ]
