"""What tools/lines.py counts, in a small repository made here."""

import os
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "lines.py"
BEFORE = '''"""A module
of two lines of text."""

import math  # a comment beside code counts as code

# A comment alone does not.


class Half:
    """A class."""

    text = """a string
    that is code"""
    """What a type checker shows of the line above."""

    def of(self, x: float) -> float:
        """Half of it."""
        return math.floor(
            x / 2,
        )
'''


def run(folder: Path, *command: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    result = subprocess.run(
        command, cwd=folder, env=clean, check=True, capture_output=True, text=True
    )
    return result.stdout


def test_rooms_sums_and_what_is_new(tmp_path: Path) -> None:
    for name in ("__init__.py", "blocks/half.py", "tests/test_half.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x = 1\n\n" if name == "__init__.py" else BEFORE)
    run(tmp_path, "git", "init", "-q")
    run(tmp_path, "git", "add", ".")
    author = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    run(tmp_path, "git", *author, "commit", "-q", "-m", "one")

    (tmp_path / "tools").mkdir()
    (tmp_path / "tests" / "test_half.py").rename(tmp_path / "tools" / "half.py")
    (tmp_path / "blocks" / "half.py").write_text("x = 1\n")
    (tmp_path / "blocks" / "third.py").write_text("x = 1\ny = 2\n")
    (tmp_path / ".gitignore").write_text("ignored.py\n")
    (tmp_path / "blocks" / "ignored.py").write_text("x = 1\n")

    command = (sys.executable, str(TOOL), "HEAD")
    assert run(tmp_path / "blocks", *command, "--new", "blocks/third.py", "blocks/half.py") == (
        "lines of code               HEAD         now    change\n"
        "blocks                         8           1   -87.5 %\n"
        "root                           1           1    +0.0 %\n"
        "product                        9           2   -77.8 %\n"
        "tests and tools                8           8    +0.0 %\n"
        "all                           17          10   -41.2 %\n"
        "new: blocks/third.py           -           2         -\n"
    )
