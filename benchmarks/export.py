"""Exported files beside PyTorch: size, difference and time, as a Markdown table.

python benchmarks/export.py [SUFFIX ...]

Needs the extras of the formats; `make test-export` makes an environment that has them.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from mobilevlm import build_projector, export_projector, fast_paths

PRESETS = ("mlp2x_gelu", "ldpnet", "ldpnetv2")
FILES = (
    (".pt2", "f32"),
    (".onnx", "f32"),
    (".onnx", "int8"),
    (".pte", "f32"),
    (".pte", "int8"),
    (".gguf", "f16"),
    (".gguf", "q8_0"),
)


def cells(preset: str, suffix: str, weights: str, folder: Path) -> Iterator[str]:
    """One row: beside eager as it runs, and beside eager without the fast forms."""
    torch.manual_seed(0)
    projector = build_projector(preset, 1024, 2048)
    path = folder / f"p{suffix}"
    report = export_projector(projector, path, grid=(24, 24), weights=weights)
    yield from (f"`{preset}`", f"`{suffix}`", weights, f"{report.bytes / 1e6:.1f} MB")
    yield f"{report.relative:.0e}"
    yield ratio(report.time_ratio)
    with fast_paths(False):
        plain = export_projector(projector, path, grid=(24, 24), weights=weights)
    yield ratio(plain.time_ratio)


def ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def main(suffixes: list[str]) -> None:
    print("| projector | format | weights | size | difference | time | beside plain torch |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for preset in PRESETS:
            for suffix, weights in FILES:
                if not suffixes or suffix in suffixes:
                    row = cells(preset, suffix, weights, Path(folder))
                    print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
