"""A full disk, at the end and from the start, where temporary files are what does not fit."""

from pathlib import Path

import pytest
from helpers.full_disk import export_on_a_full_disk

from mobilevlm import build_projector, export_projector


@pytest.mark.parametrize(
    ("suffix", "weights", "moment"),
    [
        (".onnx", "int8", "start"),
        (".onnx", "int8", "Writing"),
        (".gguf", "f16", "start"),
        (".gguf", "f16", "Writing"),
        (".pte", "f32", "Writing"),
    ],
)
def test_nothing_is_lost(suffix: str, weights: str, moment: str, tmp_path: Path) -> None:
    path = tmp_path / f"p{suffix}"
    if suffix != ".pte":
        export_projector(build_projector("mlp2x_gelu", 8, 8), path)
    export_on_a_full_disk(path, weights, moment)
