"""An earlier export says itself that this library wrote it, and is replaced; nothing else is."""

from pathlib import Path
from typing import Any

import pytest

from mobilevlm import build_projector, export_projector
from mobilevlm.export.errors import ExportError
from mobilevlm.export.formats import find_format


@pytest.mark.parametrize(
    ("suffix", "options"),
    [(".onnx", {}), (".onnx", {"weights": "int8"}), (".gguf", {}), (".pt2", {})],
)
def test_our_exports_say_so(suffix: str, options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / f"p{suffix}"
    projector = build_projector("mlp2x_gelu", 64, 64)
    path.write_bytes(b"a model for mobilevlm, somebody's own")
    with pytest.raises(ExportError, match="nothing in it says that this library wrote it"):
        export_projector(projector, path, grid=(24, 24), **options)
    assert path.read_bytes() == b"a model for mobilevlm, somebody's own"
    for replace in (True, False):
        export_projector(projector, path, grid=(24, 24), replace=replace, **options)
        assert find_format(path).is_ours(path)
    assert list(tmp_path.iterdir()) == [path]


def test_strangers_do_not(tmp_path: Path) -> None:
    import gguf
    import onnx

    writer = gguf.GGUFWriter(tmp_path / "p.gguf", "clip")
    writer.add_string("general.name", "mobilevlm.spec")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    graph = onnx.helper.make_graph([], "mobilevlm", [], [])
    model = onnx.helper.make_model(graph, producer_name="mobilevlm")
    onnx.helper.set_model_props(model, {"name": "mobilevlm"})
    onnx.save_model(model, tmp_path / "p.onnx")
    (tmp_path / "p.pte").write_bytes(b"/extra/mobilevlm.json")
    for path in tmp_path.iterdir():
        assert not find_format(path).is_ours(path), path
