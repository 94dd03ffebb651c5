"""docs/export.md's table of presets and formats: the column of GGUF."""

import pytest
from export_matrix import MATRIX, PAGE, agrees, presets

SAID = MATRIX.read(PAGE.read_text("utf-8"))


@pytest.mark.parametrize("name", presets())
def test_what_it_says_of_gguf_is_so(name: str) -> None:
    assert agrees(name, ".gguf", SAID[name][".gguf"]), "run: python tools/export_matrix.py .gguf"
