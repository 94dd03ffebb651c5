"""The commands for deployment, of the README and of the page on export, do what they say."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from towers import tower

from mobilevlm import build_projector, save_projector

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("page", ["README.md", "docs/export.md"])
def test_every_command_of_deploy_runs(page: str, tmp_path: Path) -> None:
    save_projector(build_projector("ldpnetv2", 64, 96), tmp_path / "CHECKPOINT")
    tower("clip", tmp_path / "CLIP-FOLDER")
    text = (ROOT / page).read_text("utf-8")
    commands = re.findall(r"^mobilevlm (export .*)$", text, re.MULTILINE)
    assert len(commands) >= 4
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", "mobilevlm.cli", *shlex.split(command)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), command
        assert "differs from eager by" in done.stdout
        assert (tmp_path / command.split()[2]).exists()
    left = {path.name for path in tmp_path.iterdir()} - {"CHECKPOINT", "CLIP-FOLDER"}
    assert left == {command.split()[2] for command in commands}
