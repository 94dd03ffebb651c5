"""Models without weights: swapped on paper, loaded later."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.swapped import QUICK, makers
from helpers.vlms import llava, logits

from mobilevlm import swap_projector
from mobilevlm.models.classes import SwappedModel


def on_meta(model: Any) -> Any:
    with torch.device("meta"):
        return type(model)(model.config)


@pytest.mark.quick(*(f"{name}-None" for name in QUICK), "internvl-original")
@pytest.mark.parametrize(
    ("model_type", "init"), [*((name, None) for name in makers()), ("internvl", "original")]
)
def test_the_projector_is_on_meta_too(model_type: str, init: Any) -> None:
    model, processor = makers()[model_type]()
    model = on_meta(model)
    projector = swap_projector(model, "internvl", merge=2, processor=processor, init=init)
    assert all(tensor.is_meta for tensor in projector.state_dict().values())
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    assert isinstance(model, SwappedModel)


def test_weights_that_come_later(tmp_path: Path, quiet: None) -> None:
    whole, processor = llava()
    other = on_meta(llava()[0])
    swap_projector(whole, "ldp", processor=processor)
    swap_projector(other, "ldp")
    other.load_state_dict(whole.state_dict(), assign=True)
    with torch.no_grad():
        # The rest, such as positions, is no part of a state dict.
        other.model.vision_tower, other.model.language_model = (
            whole.model.vision_tower,
            whole.model.language_model,
        )
        assert torch.equal(logits(other.eval(), processor), logits(whole, processor))
