"""Exported files beside PyTorch, 1024 -> 2048 channels and 576 tokens: a Markdown table.

python benchmarks/export.py [SUFFIX ...]

Needs the extras of the formats: `.venv-export/bin/python benchmarks/export.py`, after
`make test-export`. A cell says size, difference, time over eager's, and over eager's without fast
forms; onnxruntime and OpenVINO run on one thread, ExecuTorch on those it takes, eager on as many.
"""

from __future__ import annotations

import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from mobilevlm import Projector, build_projector, export_projector, fast_paths
from mobilevlm.export.check import expect, time_ratio
from mobilevlm.export.formats import Loaded
from mobilevlm.export.signature import ExportSignature, export_signature

PRESETS = ("mlp2x_gelu", "ldpnet", "ldpnetv2")
GRID = (24, 24)
FILES = (
    (".pt2", "f32"),
    (".onnx", "f32"),
    (".onnx", "int8"),
    (".pte", "f32"),
    (".pte", "int8"),
    (".gguf", "f16"),
    (".gguf", "q8_0"),
)


def exported(projector: Projector, suffix: str, weights: str, folder: Path) -> str:
    plain: list[float] = []

    def both(loaded: Loaded, signature: ExportSignature, x: Tensor) -> float:
        with fast_paths(False):
            plain.append(time_ratio(loaded, signature, x))
        return time_ratio(loaded, signature, x)

    with patch("mobilevlm.export.export.time_ratio", both):
        report = export_projector(
            projector, folder / f"p{suffix}", grid=GRID, weights=weights, replace=True
        )
    return cell(report.bytes, report.relative, report.time_ratio, *plain)


def openvino(projector: Projector, folder: Path) -> str:
    """The recipe's file: OpenVINO's own, made of the ONNX file."""
    import openvino

    export_projector(projector, folder / "p.onnx", grid=GRID)
    path = folder / "p.xml"
    openvino.save_model(openvino.convert_model(folder / "p.onnx"), path, compress_to_fp16=False)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": "1"}
    compiled = openvino.compile_model(path, "CPU", settings)

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(compiled(x.numpy())[0])

    signature = export_signature(projector.eval(), GRID, dynamic_grid=False)
    loaded = Loaded(run, inputs=signature.dims, outputs=(), versions={})
    first = expect(signature)[0]
    x, y = first.x, first.y
    difference = float((run(x) - y).abs().max() / y.abs().max())
    ours = time_ratio(loaded, signature, x)
    with fast_paths(False):
        plain = time_ratio(loaded, signature, x)
    return cell(path.with_suffix(".bin").stat().st_size, difference, ours, plain)


def cell(size: int, difference: float, *ratios: float | None) -> str:
    numbers = [
        f"{size / 1e6:.1f} MB",
        f"{difference:.0e}",
        *(f"{each:.2f}" for each in ratios if each),
    ]
    return ", ".join(numbers)


def main(suffixes: list[str]) -> None:
    print(f"| format | weights | {' | '.join(f'`{name}`' for name in PRESETS)} |")
    print(f"|{'---|' * (2 + len(PRESETS))}")
    torch.manual_seed(0)
    projectors = [build_projector(name, 1024, 2048) for name in PRESETS]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for suffix, weights in FILES:
            if not suffixes or suffix in suffixes:
                cells = [exported(each, suffix, weights, folder) for each in projectors]
                print(f"| `{suffix}` | {weights} | {' | '.join(cells)} |", flush=True)
        if find_spec("openvino") and (not suffixes or "openvino" in suffixes):
            cells = [openvino(each, folder) for each in projectors]
            print(f"| OpenVINO | f32 | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
