"""The example documents: families that are built in, written as data alone."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mobilevlm import load_spec, plan_projector, spec_of
from mobilevlm.cli.app import app
from mobilevlm.projectors import FAMILIES

DOCUMENTS = sorted((Path(__file__).parents[3] / "examples" / "documents").iterdir())
GRID = (24, 24)


def fields(block: Any) -> dict[str, Any]:
    """A block's fields without the width, which may be written as a word or as a number."""
    return {key: value for key, value in block.model_dump(mode="json").items() if key != "out"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_they_are_the_families_of_their_names(path: Path) -> None:
    ours = load_spec(path)
    family = spec_of(path.stem, ours.in_, ours.out)
    assert path.stem in FAMILIES
    assert ours.token_order == family.token_order
    assert list(map(fields, ours.blocks)) == list(map(fields, family.blocks))
    plans = [plan_projector(stack, grid=GRID) for stack in (ours, family)]
    tables = [[row[2:] for row in plan.table()[1]] for plan in plans]
    assert tables[0] == tables[1]
    assert plans[0].parameters == plans[1].parameters


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_they_hold_widths_of_released_models(path: Path) -> None:
    plan = plan_projector(load_spec(path), grid=GRID)
    assert plan.stack.in_ >= 1024
    assert plan.stack.out >= 2048
    assert plan.tokens_out


def test_each_shows_something_that_the_others_do_not() -> None:
    texts = {path.stem: path.read_text("utf-8") for path in DOCUMENTS}
    assert 4 <= len(texts) <= 6
    shown = {
        "ernie4-5-vl": '"parallel"',
        "glm-4v-9b": '"glu"',
        "kosmos-2": '"cross-attention"',
        "minimax-m3-vl": '"token_order"',
        "phi-3-vision": '"preset"',
        "step3": '"conv"',
    }
    assert shown.keys() == texts.keys()
    for name, what in shown.items():
        assert what in texts[name]
        assert json.loads(texts[name])["schema"] == 1


def test_the_command_checks_them_all() -> None:
    result = CliRunner().invoke(app, ["check", *map(str, DOCUMENTS)])
    assert result.exit_code == 0
    assert result.stdout.count(": ok, ") == len(DOCUMENTS)
