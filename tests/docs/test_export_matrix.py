"""docs/export.md's table of presets and formats, as far as no extra is needed."""

import pytest
from export_matrix import COLUMNS, MATRIX, PAGE, agrees, presets

SAID = MATRIX.read(PAGE.read_text("utf-8"))
AGAIN = "run: python tools/export_matrix.py"


def test_every_preset_has_a_row_without_gaps() -> None:
    assert list(SAID) == sorted(presets()), AGAIN
    assert all([*row] == [*COLUMNS] and all(row.values()) for row in SAID.values()), AGAIN


def test_the_page_is_as_it_would_be_written() -> None:
    page = PAGE.read_text("utf-8")
    assert MATRIX.render(page, SAID) == page


@pytest.mark.quick(
    "c-abstractor-.pt2",
    "gemma3-.pt2 free",
    "ldpnetv2-.pt2",
    "llama4-.pt2 free",
    "mlp-.pt2 free",
    "qwen2-vl-.pt2",
)
@pytest.mark.parametrize("column", [".pt2", ".pt2 free"])
@pytest.mark.parametrize("name", presets())
def test_what_it_says_is_so(name: str, column: str) -> None:
    assert agrees(name, column, SAID[name][column]), AGAIN
