"""ONNX: one file that says what it is, and computes in onnxruntime what eager computes."""

import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnxruntime import quantization
from torch.export import Dim

from mobilevlm import MobileVLMError, Projector, build_projector, export_projector, load_spec
from mobilevlm.checkpoints import inspect_checkpoint
from mobilevlm.export import Mismatch
from mobilevlm.export import onnx as target
from mobilevlm.export.signature import AnyGrid


def session(path: Path) -> Any:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def same(path: Path, projector: Projector, *shapes: tuple[int, ...]) -> None:
    """Compare a file with a free grid with eager, at inputs (b, h, w, c)."""
    runtime = session(path)
    for shape in shapes:
        x = torch.randn(shape)
        [y] = runtime.run(None, {"x": x.numpy()})
        want = projector(x.flatten(1, 2), grid=shape[1:3])
        assert (torch.from_numpy(y) - want).abs().max() < 1e-5 * want.abs().max()


def refusal(projector: Projector, path: Path, **keywords: Any) -> str:
    with pytest.raises(MobileVLMError) as caught:
        export_projector(projector, path, **keywords)
    assert not path.exists()
    return str(caught.value)


def test_it_is_one_file_that_says_what_it_is(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ldp.onnx"
    projector = build_projector("ldp", 8, 12)
    stages: list[str] = []
    report = export_projector(projector, path, grid=(5, 7), progress=stages.append)
    assert stages == [
        "Tracing",
        "Converting to ONNX",
        "Running the file",
        "Timing the file",
        "Writing",
    ]
    assert list(tmp_path.iterdir()) == [path]
    assert report.inputs == ("batch", 35, 8)
    assert report.outputs == ("batch", 12, 12)
    assert report.versions == {"opset": 20, "ir": 10, "torch": torch.__version__}
    assert report.relative < 1e-5
    model = onnx.load(path, load_external_data=False)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    [entry] = model.metadata_props
    assert entry.key == "mobilevlm"
    assert load_spec(entry.value) == projector.spec
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("weights", ["f32", "int8"])
def test_its_document_is_read_back_without_the_formats_package(
    weights: str, tmp_path: Path
) -> None:
    path = tmp_path / "p.onnx"
    projector = build_projector("ldpnetv2", 64, 96)
    export_projector(projector, path, grid=(24, 24), weights=weights)
    found = inspect_checkpoint(path)
    assert (found.spec, found.export) == (projector.spec, "ONNX")


def test_it_holds_no_path_of_this_machine_and_has_the_same_bytes_again(tmp_path: Path) -> None:
    projector = build_projector("ldpnetv2", 8, 12)
    a, b = tmp_path / "a.onnx", tmp_path / "b.onnx"
    export_projector(projector, a, grid=(12, 13))
    export_projector(projector, b, grid=(12, 13))
    assert a.read_bytes() == b.read_bytes()
    for folder in (Path(__file__).parents[3], Path(torch.__file__).parent, Path.home()):
        assert os.fsencode(folder) not in a.read_bytes()


@pytest.mark.parametrize("name", ["ldp", "ldpnet", "ldpnetv2", "mlp", "c-abstractor"])
def test_a_free_grid_is_right_at_every_grid(name: str, tmp_path: Path) -> None:
    path = tmp_path / "p.onnx"
    options = {"hidden": 16, "queries": 16} if name == "c-abstractor" else {}
    projector = build_projector(name, 8, 12, **options).eval()
    report = export_projector(projector, path, dynamic_grid=True)
    if name == "mlp":
        assert report.inputs == ("batch", "tokens", 8)
        return
    assert report.inputs == ("batch", "height", "width", 8)
    # Odd sides: the averaged skip of `ldp` has windows that the border cuts off (ceil mode).
    same(path, projector, (1, 24, 24, 8), (2, 13, 17, 8), (1, 36, 36, 8), (3, 16, 21, 8))


@pytest.mark.parametrize(
    "pool",
    [
        {"mode": "adaptive", "size": [5, 4]},
        {"mode": "adaptive", "stride": 2},
        {"mode": "adaptive", "stride": 3},
        {"mode": "bilinear", "stride": 2},
    ],
    ids=["size", "half", "third", "bilinear"],
)
def test_pools_fit_every_grid(
    pool: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "p.onnx"
    blocks = ["pointwise", {"type": "pool", **pool}]
    projector = build_projector({"in": 8, "out": 12, "blocks": blocks}).eval()
    export_projector(projector, path, dynamic_grid=True, grid=(12, 12))
    same(path, projector, *((1, h, w, 8) for h, w in [(5, 4), (12, 13), (25, 25), (7, 30)]))
    path.unlink()
    # Left to the exporter they become a fixed window or ratio, and the check sees it.
    monkeypatch.setattr(target, "with_exact_pools", lambda module: module)
    with pytest.raises(Mismatch):
        export_projector(projector, path, dynamic_grid=True, grid=(12, 12))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("opset", target.OPSETS)
def test_the_opset_is_the_one_asked_for(opset: int, tmp_path: Path) -> None:
    path = tmp_path / "p.onnx"
    report = export_projector(build_projector("ldpnet", 8, 12), path, grid=(4, 6), opset=opset)
    assert report.versions["opset"] == opset
    [written] = [entry.version for entry in onnx.load(path).opset_import if not entry.domain]
    assert written == opset


def test_an_opset_it_cannot_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ldp, path = build_projector("ldp", 8, 12), tmp_path / "p.onnx"
    assert refusal(ldp, path, grid=(4, 4), opset=17) == (
        "opset: 17; expected 18 to 23. For a lower one PyTorch's exporter may silently write 18."
    )
    monkeypatch.setattr(target, "OPSETS", range(17, 24))  # so that it is asked
    assert refusal(build_projector("ldpnet", 8, 12), path, grid=(4, 4), opset=17) == (
        "opset: the exporter wrote opset 18; expected the one asked for"
    )


def test_what_freezes_the_grid_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "p.onnx"

    def rooted(self: AnyGrid, x: torch.Tensor) -> torch.Tensor:
        side = int(math.sqrt(x.shape[1] * x.shape[1]))
        y: torch.Tensor = self.projector.blocks(x.view(x.shape[0], side, -1, x.shape[3]))
        return y.flatten(1, 2)

    monkeypatch.setattr(AnyGrid, "forward", rooted)
    projector = build_projector("ldp", 8, 12)
    assert "torch.export failed" in refusal(projector, path, grid=(4, 4), dynamic_grid=True)
    # With Dim.AUTO the file declares the grid free, and reshapes to 5 rows inside.
    monkeypatch.setattr(Dim, "DYNAMIC", lambda max=None: Dim.AUTO)
    message = refusal(projector, path, grid=(4, 4), dynamic_grid=True)
    assert "running it on an input of (1, 4, 4, 8) fails" in message


# ---------------------------------------------------------------------- int8


def test_int8_reaches_every_pointwise_layer(tmp_path: Path) -> None:
    path = tmp_path / "p.onnx"
    projector = build_projector("ldpnet", 64, 128)
    report = export_projector(projector, path, grid=(8, 6), weights="int8")
    assert report.weights == "int8"
    assert 1e-4 < report.relative < 0.05
    assert report.inputs == ("batch", 48, 64)
    assert list(tmp_path.iterdir()) == [path]
    graph = onnx.load(path).graph
    linear = sum(isinstance(module, torch.nn.Linear) for module in projector.modules())
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("MatMulInteger") == linear
    assert "MatMul" not in kinds
    wide = [t for t in graph.initializer if len(t.dims) == 2]
    assert {tensor.data_type for tensor in wide} == {onnx.TensorProto.INT8}
    # A quarter, plus what stays f32: norms, biases, depthwise kernels.
    small = sum(p.numel() for p in projector.parameters() if p.ndim != 2)
    quantised = sum(p.numel() for p in projector.parameters()) - small
    assert report.bytes < quantised + 8 * small + 60_000


GRID = (12, 12)


def exactly(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Products of whole numbers; (b, m, k), (k, n) -> (b, m, n)."""
    return (a.astype(np.float64) @ b.astype(np.float64)).astype(np.int32)


def in_16_bits(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The same as x86-64 computes them without VNNI: two products are added in 16 bits, where a
    sum that does not fit sticks at the end (vpmaddubsw), and the pairs in 32."""
    assert (a.dtype, b.dtype) == (np.uint8, np.int8)
    y = np.zeros((*a.shape[:-1], b.shape[1]), np.int32)
    for k in range(0, a.shape[-1], 2):
        pair = a[..., k : k + 2].astype(np.int32) @ b[k : k + 2].astype(np.int32)
        y += pair.clip(-(2**15), 2**15 - 1)
    return y


def in_numpy(path: Path, x: torch.Tensor, product: Any) -> torch.Tensor:
    """Run a file with these products in place of onnxruntime's, which follow the processor."""

    class MatMulInteger(OpRun):
        op_domain = ""

        def _run(self, a: Any, b: Any, a_zero: Any = None, b_zero: Any = None) -> Any:
            assert b_zero is None or not b_zero.any()
            y = product(a, b)
            return (y - a_zero.astype(np.int32) * b.sum(0, dtype=np.int32),)

    [y] = ReferenceEvaluator(str(path), new_ops=[MatMulInteger]).run(None, {"x": x.numpy()})
    return torch.from_numpy(y)


@pytest.mark.parametrize("name", ["mlp2x_gelu", "ldp", "ldpnet", "ldpnetv2"])
def test_int8_is_the_same_on_every_processor(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "p.onnx"
    projector = build_projector(name, 256, 192).eval()
    export_projector(projector, path, grid=GRID, weights="int8")
    x = torch.randn(1, 144, 256)
    want = projector(x, grid=GRID).detach()

    def difference(y: torch.Tensor) -> float:
        return float((y - want).abs().max() / want.abs().max())

    exact, saturated = (in_numpy(path, x, product) for product in (exactly, in_16_bits))
    assert torch.equal(exact, saturated)
    assert difference(exact) < 0.05
    assert difference(torch.from_numpy(session(path).run(None, {"x": x.numpy()})[0])) < 0.05
    # With weights of all 8 bits they differ, and such a file is not kept.
    path.unlink()
    whole = quantization.quantize_dynamic

    def wide(model: Any, file: Path, **options: Any) -> None:
        whole(model, file, **{**options, "reduce_range": False})
        shutil.copy(file, tmp_path / "wide.onnx")

    monkeypatch.setattr(quantization, "quantize_dynamic", wide)
    assert re.fullmatch(
        r"\S+: int8 weights of up to 12[78]; expected at most 64\. "
        r"Larger ones give different sums on processors without VNNI\.",
        refusal(projector, path, grid=GRID, weights="int8"),
    )
    exact, saturated = (
        in_numpy(tmp_path / "wide.onnx", x, product) for product in (exactly, in_16_bits)
    )
    assert difference(exact) < 0.05 < difference(saturated)


def test_int8_keeps_the_free_axes_and_the_document(tmp_path: Path) -> None:
    path = tmp_path / "p.onnx"
    projector = build_projector("ldpnetv2", 64, 128)
    report = export_projector(projector, path, dynamic_grid=True, weights="int8")
    assert report.inputs == ("batch", "height", "width", 64)
    assert {entry.key for entry in onnx.load(path).metadata_props} >= {"mobilevlm"}


# ---------------------------------------------------------------------- refusals


def test_weights_that_no_file_holds_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "p.onnx"
    assert refusal(build_projector("ldp", 8, 12), path, grid=(4, 4), weights="bf16") == (
        "weights: 'bf16'; expected one of f32, f16, int8"
    )
    monkeypatch.setattr(target, "_MAX_BYTES", 1000)
    assert refusal(build_projector("ldp", 8, 12), path, grid=(4, 4)) == (
        "projector: weights of 0.0 GB; expected at most 2 GB, in one ONNX file"
    )


@pytest.mark.parametrize("name", ["mlp", "ldp", "internvl", "glm4v"])
def test_half_precision_is_as_exact_as_torchs(name: str, tmp_path: Path) -> None:
    path = tmp_path / "p.onnx"
    projector = build_projector(name, 64, 96)
    whole = export_projector(projector, path, grid=(8, 8)).bytes
    for free in (False, True):
        report = export_projector(
            projector, path, grid=(8, 8), weights="float16", dynamic_grid=free
        )
        assert report.weights == "f16"
        [check, *_] = report.checks
        assert check.error is not None
        assert check.eager_error is not None
        assert check.error <= 2 * check.eager_error
    [given] = session(path).get_inputs()
    assert given.type == "tensor(float16)"
    values = sum(parameter.numel() for parameter in projector.parameters())
    assert report.bytes < whole - 1.5 * values
    assert inspect_checkpoint(path).spec == projector.spec


def test_half_precision_is_widened(tmp_path: Path) -> None:
    path = tmp_path / "p.onnx"
    projector = build_projector("mlp", 8, 12, dtype=torch.bfloat16)
    report = export_projector(projector, path)
    assert report.weights == "f32"
    x = torch.randn(1, 5, 8)
    [y] = session(path).run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), projector.float()(x))
