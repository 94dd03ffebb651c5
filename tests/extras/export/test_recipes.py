"""The recipes of docs/recipes, as people run them: alone, from a file that was exported."""

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from mobilevlm import Projector, build_projector, export_projector

RECIPES = Path(__file__).parents[3] / "docs" / "recipes"
NAMES = ["mlp2x_gelu", "ldp", "ldpnet", "ldpnetv2"]


def run(recipe: str, source: Path, target: Path) -> str:
    """Run a recipe in a copy, far from the package's sources."""
    alone = shutil.copy(RECIPES / recipe, source.parent)
    command = [sys.executable, alone, source, target]
    done = subprocess.run(command, capture_output=True, text=True, cwd=source.parent, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(params=NAMES)
def projector(request: pytest.FixtureRequest) -> Projector:
    torch.manual_seed(0)
    return build_projector(request.param, 32, 48).eval()


@pytest.mark.skipif(not find_spec("openvino"), reason="another environment's")
def test_openvino(projector: Projector, tmp_path: Path) -> None:
    import openvino

    export_projector(projector, tmp_path / "p.onnx", grid=(24, 24), dynamic_grid=True)
    shown = run("to_openvino.py", tmp_path / "p.onnx", tmp_path / "p.xml")
    assert shown.startswith("(1, 24, ")
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.compile_model(tmp_path / "p.xml", "CPU", settings)
    free = projector.spec.needs_grid
    for b, h, w in [(1, 24, 24), (3, 13, 17)]:
        x = torch.randn(b, h * w, 32)
        y = compiled((x.view(b, h, w, 32) if free else x).numpy())[0]
        want = projector(x, grid=(h, w))
        torch.testing.assert_close(torch.from_numpy(y), want, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not find_spec("coremltools"), reason="another environment's")
def test_core_ml_converts(projector: Projector, tmp_path: Path) -> None:
    """It runs on macOS only."""
    import coremltools

    export_projector(projector, tmp_path / "p.pt2", grid=(24, 24))
    run("to_coreml.py", tmp_path / "p.pt2", tmp_path / "p.mlpackage")
    made = coremltools.models.MLModel(str(tmp_path / "p.mlpackage"), skip_model_load=True)
    description = made.get_spec().description
    [x], [y] = description.input, description.output
    assert (x.name, list(x.type.multiArrayType.shape)) == ("x", [1, 576, 32])
    assert y.name == "y"


@pytest.mark.skipif(not find_spec("litert_torch"), reason="another environment's")
def test_litert(projector: Projector, tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    export_projector(projector, tmp_path / "p.pt2", grid=(24, 24))
    shown = run("to_litert.py", tmp_path / "p.pt2", tmp_path / "p.tflite")
    assert "differs from PyTorch by" in shown
    interpreter = Interpreter(str(tmp_path / "p.tflite"))
    interpreter.allocate_tensors()
    x = torch.randn(1, 576, 32)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x.numpy())
    interpreter.invoke()
    y = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    want = projector(x, grid=(24, 24)).detach().numpy()
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)
