"""The examples run, from any folder and without a warning, and say what they are meant to show."""

import subprocess
import sys
from pathlib import Path

import pytest

from mobilevlm import load_spec

EXAMPLES = Path(__file__).parents[2] / "examples"
SAYS = {
    "build_by_name.py": "",
    "compose_variant.py": "Read back, it is the same projector: True",
    "demo.py": "variant.json",
    "inside_a_vlm.py": "It answers: cat, dog, ship, moon",
    "local_block.py": "Read back, it is the same projector: True",
}


# Run by tests/extras, with what they need.
ELSEWHERE = {"serve_onnx.py", "with_zeta.py"}


def test_every_example_is_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == SAYS.keys() | ELSEWHERE


@pytest.mark.quick("inside_a_vlm.py", "local_block.py")
@pytest.mark.parametrize("name", SAYS)
def test_it_runs(name: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert SAYS[name] in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_documents_are_valid_and_written_in_full_form() -> None:
    for path in EXAMPLES.glob("*.json"):
        assert load_spec(path).blocks, path
