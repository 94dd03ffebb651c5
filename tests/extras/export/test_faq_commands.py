"""What docs/faq.md says of ONNX files: its command works, and the runtime's message is this one."""

import re
import shlex
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from helpers.command import run
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from mobilevlm import build_projector, export_projector, save_projector

PAGE = (Path(__file__).parents[3] / "docs" / "faq.md").read_text("utf-8")


def test_the_command_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_projector(build_projector("ldpnetv2", 64, 96), "CHECKPOINT")
    [command] = re.findall(r"^mobilevlm (export .*)$", PAGE, re.MULTILINE)
    status, out, error = run(*shlex.split(command))
    assert (status, error) == (0, "")
    assert "differs from eager by" in out
    assert Path(shlex.split(command)[2]).exists()


def test_another_grid_than_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "ldp.onnx"
    projector = build_projector("ldp", 8, 4).eval()
    export_projector(projector, path, grid=(24, 24))
    session = onnxruntime.InferenceSession(path)
    with pytest.raises(InvalidArgument) as caught:
        session.run(None, {"x": np.zeros((1, 24 * 18, 8), np.float32)})
    shown = re.search(r"### Got invalid dimensions for input\n\n((?:    .*\n)+)", PAGE)
    assert shown
    assert " ".join(shown[1].split()) in " ".join(str(caught.value).split())

    export_projector(projector, path, dynamic_grid=True)
    session = onnxruntime.InferenceSession(path)
    [y] = session.run(None, {"x": np.zeros((1, 24, 18, 8), np.float32)})
    assert y.shape == (1, 12 * 9, 4)
