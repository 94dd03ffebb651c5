"""Which preset goes into which format: the table of docs/export.md.

``.venv-export/bin/python tools/export_matrix.py [PRESET ...] [COLUMN ...]`` exports presets in
small and writes their cells anew, by default all, which takes ten minutes; ``.onnx`` and ``.pte``
stand for their columns. `make test-export` makes that environment.
"""

import re
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

from matrix import Matrix

from mobilevlm import PROJECTORS, MobileVLMError, build_projector, export_projector
from mobilevlm.export import Mismatch

PAGE = Path(__file__).parent.parent / "docs" / "export.md"
COLUMNS: dict[str, dict[str, Any]] = {
    ".pt2": {},
    ".pt2 free": {"dynamic_grid": True},
    ".onnx": {},
    ".onnx free": {"dynamic_grid": True},
    ".onnx int8": {"weights": "int8"},
    ".gguf": {},
    ".pte": {},
    ".pte free": {"dynamic_grid": True},
    ".pte int8": {"weights": "int8"},
}
# 64 -> 96 channels; options that keep what is inside small too, and where the rest does not fit.
SMALL: dict[str, dict[str, Any]] = {
    "aya-vision": {"hidden": 96},
    "blip2": {"width": 64, "depth": 2, "heads": 4},
    "c-abstractor": {"hidden": 64, "depth": 1},
    "flamingo": {"depth": 1, "heads": 2, "head_dim": 32},
    "glm-4v-9b": {"hidden": 96},
    "idefics2": {"hidden": 96, "depth": 1, "heads": 4, "kv_heads": 2, "head_dim": 16},
    "identity": {"out": 64},
    "kosmos-2": {"head_dim": 24},
    "llama4": {"hidden": 96},
    "minicpmv": {"heads": 4},
    "molmo": {"hidden": 96, "head_dim": 16},
    "moondream2": {"hidden": 96},
    "muse-glimmer": {"hidden": 96},
    "ovis2": {"words": 95},
    "pp-formulanet": {"hidden": 96, "wide": 128},
    "step3": {"hidden": 96},
    "token-packer": {"width": 32, "heads": 2},
}
GRIDS = {"voxtral": (1, 48)}
UNTIMED = patch("mobilevlm.export.export.time_ratio", lambda *_: None)


def presets() -> list[str]:
    """The families; other names are these with options set."""
    return [
        entry.name
        for entry in PROJECTORS.entries()
        if entry.source == "built-in" and isinstance(PROJECTORS.get(entry.name), type)
    ]


def cell(name: str, column: str) -> str:
    """Export in small: the largest relative difference from eager, or why it is refused."""
    projector = build_projector(name, **{"in_": 64, "out": 96, **SMALL.get(name, {})})
    with tempfile.TemporaryDirectory() as folder, UNTIMED:
        path = Path(folder) / f"p{column.split()[0]}"
        try:
            report = export_projector(
                projector, path, grid=GRIDS.get(name, (24, 24)), **COLUMNS[column]
            )
        except Mismatch:  # should have been refused before
            raise
        except MobileVLMError as error:
            return str(error).replace(f"{path}: ", "")
    return f"{report.relative:.0e}"


def is_number(text: str) -> bool:
    return re.fullmatch(r"\d(e-\d+|e\+00)", text) is not None


def agrees(name: str, column: str, said: str) -> bool:
    """Whether it is still so: a difference of that order, or the same refusal."""
    found = cell(name, column)
    if is_number(found) and is_number(said):
        return float(found) <= max(10 * float(said), 1e-6)
    return found == said


MATRIX = Matrix(PAGE, "preset", [*COLUMNS], is_number)


def main(wanted: list[str]) -> None:
    families = presets()
    columns = [name for name in COLUMNS if {name, name.split()[0]} & {*wanted}] or [*COLUMNS]
    names = [name for name in families if name in wanted] or families
    page = PAGE.read_text("utf-8")
    matrix = {name: row for name, row in MATRIX.read(page).items() if name in families}
    for name in names:
        done = {column: cell(name, column) for column in columns}
        matrix[name] = {**matrix.get(name, {}), **done}
        print(name, *done.values(), sep="  ", flush=True)
        PAGE.write_text(MATRIX.render(page, dict(sorted(matrix.items()))), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
