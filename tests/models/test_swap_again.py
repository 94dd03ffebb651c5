"""A projector that goes from one model to another, and back."""

import copy

import pytest
import torch
from helpers.swapped import makers
from helpers.vlms import llava, logits

from mobilevlm import swap_projector


@pytest.mark.parametrize("model_type", ["aya_vision", "cohere2_vision", "mistral3", "llava_next"])
def test_a_projector_forgets_the_model_that_it_stood_in(model_type: str) -> None:
    """What adapted it to the other model's call is gone; hooks of others stay."""
    other, _ = makers()[model_type]()
    model, processor = llava()
    fresh = swap_projector(model, "mlp", processor=processor)
    with torch.no_grad():
        expected = logits(model, processor)
    moved = swap_projector(other, "mlp")
    moved.load_state_dict(fresh.state_dict())
    calls: list[int] = []
    moved.register_forward_hook(lambda *_: calls.append(1))
    assert swap_projector(model, moved, processor=processor) is moved
    with torch.no_grad():
        assert torch.equal(logits(model, processor), expected)
    assert calls == [1]
    assert len(moved._forward_hooks) == len(fresh._forward_hooks) + 1
    assert len(moved._forward_pre_hooks) == len(fresh._forward_pre_hooks)


def test_twice_in_the_same_place() -> None:
    model, processor = llava()
    projector = swap_projector(model, "ldp", processor=processor)
    with torch.no_grad():
        expected = logits(model, processor)
        hooks = len(projector._forward_hooks)
        swap_projector(model, projector, processor=processor)
        assert len(projector._forward_hooks) == hooks
        assert torch.equal(logits(model, processor), expected)
        twin = copy.deepcopy(model)
        swap_projector(twin, twin.model.multi_modal_projector, processor=processor)
        assert len(twin.model.multi_modal_projector._forward_hooks) == hooks
        assert torch.equal(logits(twin, processor), expected)
