"""What docs/models.md says of each projector in each host is so."""

from pathlib import Path

import pytest
import torch
from helpers import vlms
from helpers.apart import run_apart
from helpers.checkpoints import same
from helpers.swapped import (
    assert_close,
    check_counts,
    check_generation,
    check_gradients,
    makers,
    swap,
)
from models_matrix import EVERYWHERE, MATRIX, PROJECTORS, cell

from mobilevlm import load_projector
from mobilevlm.models import load_model

SAID = MATRIX.read(MATRIX.path.read_text("utf-8"))
AGAIN = "run: python tools/models_matrix.py"
LOAD = """
from pathlib import Path
import torch, transformers
from helpers import vlms
for folder in Path({root!r}).iterdir():
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder{flag})
    processor = transformers.AutoProcessor.from_pretrained(folder{flag})
    torch.save(vlms.logits(model, processor), folder / {out!r})
"""
ROADS = {
    "registered": "import mobilevlm.models\n" + LOAD.replace("{flag}", ""),
    "remote": LOAD.replace("{flag}", ", trust_remote_code=True"),
}


def runs(host: str, name: str) -> bool:
    return MATRIX.is_value(SAID[host][name])


@pytest.mark.parametrize("name", PROJECTORS)
@pytest.mark.parametrize("host", makers())
def test_it_runs_or_is_refused_when_swapping(host: str, name: str) -> None:
    assert cell(host, name) == SAID[host][name], AGAIN
    assert runs(host, name) or name not in EVERYWHERE
    if runs(host, name):
        swapped = swap(host, name, **PROJECTORS[name])
        check_counts(swapped)
        check_generation(swapped)
        check_gradients(swapped)


@pytest.mark.parametrize("host", makers())
def test_it_comes_back(host: str, tmp_path: Path) -> None:
    """By the Auto classes, registered and by the folder's own code; by our call; and alone."""
    root = tmp_path / "saved"
    logits, projectors = {}, {}
    for name in filter(lambda name: runs(host, name), PROJECTORS):
        swapped = swap(host, name, **PROJECTORS[name])
        swapped.model.save_pretrained(root / name)
        swapped.processor.save_pretrained(root / name)
        logits[name] = vlms.logits(swapped.model, swapped.processor).detach()
        projectors[name] = swapped.projector
    assert {*EVERYWHERE} <= logits.keys()
    codes = {road: code.format(root=str(root), out=road) for road, code in ROADS.items()}
    for road, run in run_apart(codes, tmp_path / "run").items():
        assert run.status == 0, f"{road}: {run.err}"
    for name, expected in logits.items():
        found = {road: torch.load(root / name / road) for road in ROADS}
        found["ours"] = vlms.logits(*load_model(root / name))
        for road, each in found.items():
            assert_close(each, expected, f"{road}: {name}")
        assert same(load_projector(root / name), projectors[name]), name
