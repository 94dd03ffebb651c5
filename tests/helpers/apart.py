"""Code run in processes of their own, in which nobody has imported this library yet.

They are forks of one process that has imported torch and transformers, which takes seconds.
"""

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["WITHOUT_US", "Ran", "run_apart"]

# A line that makes a process one of an environment where this library is not installed.
WITHOUT_US = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "mobilevlm":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


@dataclass(frozen=True)
class Ran:
    """What became of a process: its status and what it wrote."""

    status: int
    out: str
    err: str


def run_apart(codes: Mapping[str, str], folder: Path) -> dict[str, Ran]:
    """Run each code in a process of its own, in an empty folder; their input is closed."""
    folder.mkdir()
    env = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_MODULES_CACHE": str(folder / "modules"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    command = [sys.executable, "-m", "helpers.apart", json.dumps({**codes})]
    run = subprocess.run(
        command, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    said = json.loads((folder / "said.json").read_text("utf-8"))
    return {name: Ran(**each) for name, each in said.items()}


def _main(codes: dict[str, str]) -> None:
    from helpers import torchvision_operators

    torchvision_operators.declare()
    import transformers
    from transformers import AutoModelForImageTextToText, AutoProcessor  # noqa: F401

    transformers.utils.logging.disable_progress_bar()
    said = {}
    for number, (name, code) in enumerate(codes.items()):
        assert "mobilevlm" not in sys.modules
        child = os.fork()
        if not child:
            _run(code, number)
        _, status = os.waitpid(child, 0)
        out, err = (Path(f"{number}.{kind}").read_text("utf-8") for kind in ("out", "err"))
        said[name] = {"status": os.waitstatus_to_exitcode(status), "out": out, "err": err}
    Path("said.json").write_text(json.dumps(said), "utf-8")


def _run(code: str, number: int) -> None:
    """Run code in a child, and end it."""
    status = 1
    for descriptor, kind in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{number}.{kind}", os.O_WRONLY | os.O_CREAT), descriptor)
    try:
        exec(compile(code, f"<{number}>", "exec", dont_inherit=True), {"__name__": "__main__"})
        status = 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
