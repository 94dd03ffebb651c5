"""An export in a process of its own, in which the disk becomes full."""

import subprocess
import sys
from pathlib import Path

# A file of the process may hold 100 kB from then on, which is what a full disk looks like.
_CODE = """
import gc, resource, sys
from mobilevlm import build_projector, export_projector

path, weights, moment = sys.argv[1:]
projector = build_projector("mlp2x_gelu", 256, 512)

def at(stage):
    if stage == moment:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))

at("start")
try:
    export_projector(projector, path, weights=weights, progress=at)
except OSError as error:
    print("OSError", error.errno is not None or error)
gc.collect()
print("lives")
"""


def export_on_a_full_disk(path: Path, weights: str, moment: str) -> None:
    """Assert that the process lives, and that what was there is whole and alone.

    Args:
        path: What to write.
        weights: How.
        moment: The stage at which the disk becomes full; "start" is before all others.
    """
    before = path.read_bytes() if path.exists() else None
    command = [sys.executable, "-c", _CODE, str(path), weights, moment]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line.split()[0] for line in lines] == ["OSError", "lives"], done.stdout
    assert "Traceback" not in done.stderr, done.stderr[-2000:]
    assert [file.name for file in path.parent.iterdir()] == ([] if before is None else [path.name])
    if before is not None:
        assert path.read_bytes() == before
