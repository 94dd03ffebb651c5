"""examples/serve_onnx.py, where neither torch nor mobilevlm can be imported."""

import io
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import torch

from mobilevlm import build_projector, export_projector

EXAMPLE = Path(__file__).parents[3] / "examples" / "serve_onnx.py"
WITHOUT = """
import sys
from importlib.abc import MetaPathFinder

class Refuse(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "mobilevlm"):
            raise ImportError(f"{name} is not installed")

sys.meta_path.insert(0, Refuse())
"""


def ask(port: int, x: np.ndarray) -> np.ndarray:
    np.save(posted := io.BytesIO(), x)
    url = f"http://localhost:{port}"
    for _ in range(100):
        try:
            with urllib.request.urlopen(url, posted.getvalue(), timeout=60) as answer:
                return np.load(io.BytesIO(answer.read()))
        except urllib.error.URLError:  # not up yet
            time.sleep(0.2)
    raise AssertionError("it does not answer")


def test_it_answers_with_what_the_projector_computes(tmp_path: Path) -> None:
    projector = build_projector("ldp", 16, 24).eval()
    export_projector(projector, tmp_path / "ldp.onnx", dynamic_grid=True)
    (tmp_path / "sitecustomize.py").write_text(WITHOUT)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, EXAMPLE, tmp_path / "ldp.onnx", str(port)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stderr=subprocess.DEVNULL,
    )
    try:
        for h, w in [(24, 24), (9, 14)]:
            x = torch.randn(2, h, w, 16)
            y = torch.from_numpy(ask(port, x.numpy()))
            want = projector(x.flatten(1, 2), grid=(h, w))
            assert (y - want).abs().max() < 1e-5 * want.abs().max()
    finally:
        server.terminate()
        server.wait()


def test_it_is_short() -> None:
    _, _, code = EXAMPLE.read_text("utf-8").split('"""', 2)
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 15
