"""Independent ports pass the checker: numpy's of examples/ports, and ONNX files run by onnxruntime.

Each also fails when it is made wrong, so what passes has been compared.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mobilevlm import build_projector, export_projector
from mobilevlm.testing.vectors import write_vectors

PORTS = Path(__file__).parents[3] / "examples" / "ports"
IN_NUMPY = {"idefics2": "idefics2.py", "ldpnetv2": "ldpnetv2.py", "qwen2-vl": "qwen2_vl.py"}
TANH = "np.tanh(0.7978845608 * (x + 0.044715 * x**3))"
IN_ONNX = ["idefics2", "internvl", "ldpnetv2", "mlp-norm-layer"]


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vectors") / "pack"
    write_vectors(folder, [*IN_NUMPY, *IN_ONNX])
    return folder


def check(pack: Path, entry: str, port: Path, *arguments: str) -> tuple[int, str]:
    """Run the pack's own checker on a port, as its author does; exit status and output."""
    command = [sys.executable, str(port), *arguments]
    result = subprocess.run(
        [sys.executable, str(pack / "check.py"), "run", " ".join(command), "--entry", entry],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stderr == ""
    return result.returncode, result.stdout


def in_numpy(pack: Path, entry: str, port: Path) -> tuple[int, str]:
    words = ("manifest", "entry", "case", "upstream", "input", "output")
    return check(pack, entry, port, *(f"{{{word}}}" for word in words))


@pytest.mark.parametrize("entry", IN_NUMPY)
def test_numpy(pack: Path, entry: str) -> None:
    status, said = in_numpy(pack, entry, PORTS / IN_NUMPY[entry])
    assert status == 0, said


@pytest.mark.parametrize(
    ("entry", "right", "wrong", "cause"),
    [
        ("idefics2", ".repeat(heads // kv_heads, 1)", "[:, [0, 1, 0, 1]]", "heads"),
        ("ldpnetv2", "erf(x / math.sqrt(2))", TANH, "gelu-tanh"),
        ("ldpnetv2", "found[-1] + depthwise", "depthwise", "skip"),
        ("qwen2-vl", 'if case["token_order"] == "raster"', "if x.ndim == 3", "row by row"),
        ("qwen2-vl", "1e-6", "1e-5", "eps 1e-05"),
    ],
)
def test_a_wrong_one_is_caught_and_told_why(
    pack: Path, tmp_path: Path, entry: str, right: str, wrong: str, cause: str
) -> None:
    source = (PORTS / IN_NUMPY[entry]).read_text("utf-8")
    assert source.count(right) == 1
    (tmp_path / "port.py").write_text(source.replace(right, wrong), "utf-8")
    status, said = in_numpy(pack, entry, tmp_path / "port.py")
    assert status == 1
    assert cause in said.splitlines()[-2], said


@pytest.mark.parametrize("entry", IN_ONNX)
def test_onnxruntime(pack: Path, tmp_path: Path, entry: str) -> None:
    facts = json.loads((pack / "manifest.json").read_bytes())["entries"][entry]
    projector = build_projector(facts["document"])
    projector.load_state_dict(load_file(pack / facts["weights"]))
    model = tmp_path / "model.onnx"
    export_projector(projector, model, dynamic_grid=True)
    words = ("manifest", "entry", "case", "input", "output")
    placeholders = [f"{{{word}}}" for word in words]
    status, said = check(pack, entry, PORTS / "run_onnx.py", str(model), *placeholders)
    assert status == 0, said
