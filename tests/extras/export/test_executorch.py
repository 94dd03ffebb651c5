"""ExecuTorch: a program that is executed after it was lowered, in fp32 and with int8 weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from executorch.backends.xnnpack.partition import xnnpack_partitioner as partitioner
from executorch.runtime import Runtime
from torch import Tensor, nn

from mobilevlm import MobileVLMError, Projector, build_projector, export_projector
from mobilevlm.blocks.core.quiet import quiet
from mobilevlm.export import executorch as target
from mobilevlm.export.signature import export_signature


def execute(path: Path, x: Tensor) -> Tensor:
    program = Runtime.get().load_program(path)
    y: Tensor = program.load_method("forward").execute([x])[0]
    return y.clone()


def refusal(projector: Projector, path: Path, **keywords: Any) -> str:
    with pytest.raises(MobileVLMError) as caught:
        export_projector(projector, path, **keywords)
    assert list(path.parent.iterdir()) == []
    return str(caught.value)


def test_it_is_executed_after_lowering(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ldp.pte"
    projector = build_projector("ldp", 16, 24).eval()
    stages: list[str] = []
    report = export_projector(projector, path, grid=(6, 5), progress=stages.append)
    assert stages == [
        "Tracing",
        "Lowering to XNNPACK",
        "Running the file",
        "Timing the file",
        "Writing",
    ]
    assert report.inputs == ("batch<=4", 30, 16)
    assert report.outputs == ("batch<=4", 9, 24)
    assert set(report.versions) == {"executorch", "torch"}
    assert report.notes == ("it reserves 0 MB of memory, for the largest input",)
    assert report.relative < 1e-5
    x = torch.randn(4, 30, 16)
    want = projector(x, grid=(6, 5))
    assert (execute(path, x) - want).abs().max() < 1e-5 * want.abs().max()
    assert list(tmp_path.iterdir()) == [path]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "weights"),
    [("ldp", "f32"), ("ldpnet", "f32"), ("ldpnetv2", "int8"), ("mlp2x_gelu", "int8")],
)
def test_a_free_grid(name: str, weights: str, tmp_path: Path) -> None:
    path = tmp_path / "p.pte"
    projector = build_projector(name, 32, 48).eval()
    report = export_projector(
        projector, path, grid=(14, 16), dynamic_grid=True, weights=weights, max_batch=2
    )
    if name == "mlp2x_gelu":
        assert report.inputs == ("batch<=2", "tokens<=896", 32)
        return
    assert report.inputs == ("batch<=2", "height<=28", "width<=32", 32)
    out = 144 if name == "ldpnetv2" else "tokens<=224"
    assert report.outputs == ("batch<=2", out, 48)
    for h, w in [(12, 13), (28, 32), (15, 31)]:
        x = torch.randn(1, h, w, 32)
        y, want = execute(path, x), projector(x.flatten(1, 2), grid=(h, w))
        assert y.shape == want.shape
        assert (y - want).abs().max() < (1e-5 if weights == "f32" else 0.05) * want.abs().max()


@pytest.mark.parametrize("order", ["hwc", "chw"])
def test_a_free_grid_of_windows(
    order: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "p.pte"
    blocks = [{"type": "patch-merge", "order": order, "odd": "pad"}, "pointwise"]
    projector = build_projector({"in": 8, "out": 12, "blocks": blocks}).eval()
    report = export_projector(projector, path, grid=(7, 9), dynamic_grid=True)
    assert report.relative < 1e-5
    x = torch.randn(2, 12, 17, 8)
    torch.testing.assert_close(execute(path, x), projector(x.flatten(1, 2), grid=(12, 17)))
    path.unlink()
    # Left to torch.export, a side is split in two parts that are both free.
    monkeypatch.setattr(target, "with_sliced_merges", lambda module: module)
    message = refusal(projector, path, grid=(7, 9), dynamic_grid=True)
    assert "RuntimeError: Failed to load method forward" in message


def test_a_batch_of_one_needs_the_least_memory(tmp_path: Path) -> None:
    path = tmp_path / "p.pte"
    projector = build_projector("ldpnetv2", 64, 512)
    memory = {}
    for most in (1, 4):
        report = export_projector(projector, path, grid=(24, 24), max_batch=most, replace=True)
        assert report.inputs == (1 if most == 1 else "batch<=4", 576, 64)
        [note] = report.notes
        memory[most] = int(note.split()[2])
    assert memory[4] == pytest.approx(4 * memory[1], abs=4)
    path.unlink()
    assert refusal(projector, path, grid=(24, 24), max_batch=0) == (
        "max_batch: 0; expected an integer of at least 1"
    )


# ---------------------------------------------------------------------- int8


def test_int8_reaches_every_linear_layer_and_nothing_else() -> None:
    projector = build_projector("ldpnet", 32, 48).eval()
    signature = export_signature(projector, (6, 6), dynamic_grid=False)
    with quiet():
        program = target._quantised(signature.trace(), signature)
    weights = [node for node in program.graph.nodes if "dequantize_per_channel" in str(node.target)]
    linear = [module for module in projector.modules() if isinstance(module, nn.Linear)]
    assert len(weights) == len(linear)


def test_quantised_layers_need_partitions_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ldp` has a linear layer behind a sum, which one partition for all does not take."""
    ldp, path = build_projector("ldp", 32, 48), tmp_path / "p.pte"
    assert export_projector(ldp, path, grid=(8, 8), weights="int8").relative < 0.05
    path.unlink()
    original = partitioner.XnnpackPartitioner
    monkeypatch.setattr(partitioner, "XnnpackPartitioner", lambda **keywords: original())
    assert refusal(ldp, path, grid=(8, 8), weights="int8") == (
        f"{path}: the exporter failed: RuntimeError: Weight and Input should both be quantized. "
        "Its output is printed above this message."
    )


# ---------------------------------------------------------------------- refusals


def test_what_it_cannot_hold_is_refused(tmp_path: Path) -> None:
    ldp, path = build_projector("ldp", 16, 24), tmp_path / "p.pte"
    assert refusal(ldp, path, grid=(4, 4), weights="q8_0") == (
        "weights: 'q8_0'; expected one of f32, int8"
    )
    assert refusal(ldp, path, grid=(4, 4), opset=20) == "opset: .pte does not take this option"
