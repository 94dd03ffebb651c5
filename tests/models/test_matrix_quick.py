"""One projector in each host; `make test-models` tries all of docs/models.md."""

from pathlib import Path

import pytest
from helpers import vlms
from helpers.swapped import (
    assert_close,
    check_counts,
    check_generation,
    check_gradients,
    makers,
    swap,
)
from models_matrix import EVERYWHERE, MATRIX, PROJECTORS, cell
from transformers import AutoModelForImageTextToText, AutoProcessor

from mobilevlm.models import hosts

SAID = MATRIX.read(MATRIX.path.read_text("utf-8"))
# Another one in each, so that all of them are tried somewhere.
CASES = [(host, EVERYWHERE[i % len(EVERYWHERE)]) for i, host in enumerate(makers())]


def test_every_host_has_a_small_model() -> None:
    """Without one, nothing would be known of it here, nor on the page."""
    found = {hosts.find_host(make()[0].config) for make in makers().values()}
    assert found == {*hosts._ROWS}
    assert list(SAID) == list(makers()), "run: python tools/models_matrix.py"


@pytest.mark.parametrize(("host", "name"), CASES)
def test_it_runs_and_comes_back(host: str, name: str, tmp_path: Path) -> None:
    assert cell(host, name) == SAID[host][name], "run: python tools/models_matrix.py"
    swapped = swap(host, name, **PROJECTORS[name])
    check_counts(swapped)
    check_generation(swapped)
    check_gradients(swapped)
    swapped.model.save_pretrained(tmp_path)
    swapped.processor.save_pretrained(tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    logits = vlms.logits(swapped.model, swapped.processor)
    assert_close(vlms.logits(model, processor), logits)
