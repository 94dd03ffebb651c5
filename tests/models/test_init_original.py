"""``init="original"``: a new projector starts from the weights that were there."""

import logging
from pathlib import Path

import pytest
import torch
from helpers.swapped import QUICK, makers
from helpers.vlms import gemma3, internvl, llava, logits
from torch import nn

from mobilevlm import ModelError, build_projector, inspect_checkpoint, spec_of, swap_projector


def messages(caplog: pytest.LogCaptureFixture) -> str:
    """What is left random is worth a warning."""
    text = "\n".join(record.getMessage() for record in caplog.records)
    level = logging.WARNING if "random: " in text else logging.INFO
    assert {record.levelno for record in caplog.records} == {level}
    return text


@pytest.fixture(autouse=True)
def _listen(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mobilevlm")


def test_the_same_projector_changes_no_logit() -> None:
    model, processor = llava()
    with torch.no_grad():
        before = logits(model, processor)
        swap_projector(model, "mlp", processor=processor, init="original")
        assert torch.equal(logits(model, processor), before)


def test_another_activation_keeps_all_weights(caplog: pytest.LogCaptureFixture) -> None:
    model, _ = llava()
    own = model.model.multi_modal_projector
    new = swap_projector(model, "mlp", act="relu", init="original")
    for ours, theirs in ((new.blocks[0], own.linear_1), (new.blocks[2], own.linear_2)):
        assert torch.equal(ours.weight, theirs.weight)
        assert torch.equal(ours.bias, theirs.bias)
    assert new.blocks[0].weight.data_ptr() != own.linear_1.weight.data_ptr()
    assert messages(caplog) == (
        "the projector at multi_modal_projector starts from the original's weights: copied: "
        "blocks.0 from multi_modal_projector.linear_1, blocks.2 from multi_modal_projector.linear_2"
    )


def test_one_family_goes_by_upstreams_names(caplog: pytest.LogCaptureFixture) -> None:
    """By their order the two layers, now of one shape, could not be told apart."""
    model, _ = internvl()
    own = model.model.multi_modal_projector
    out = own.linear_2.out_features
    model.config.vision_config.hidden_size = out  # as wide as the language model
    new = swap_projector(model, "internvl", merge=1, init="original")
    assert new.blocks[2].weight.shape == new.blocks[4].weight.shape == (out, out)
    assert torch.equal(new.blocks[4].weight, own.linear_2.weight)
    assert not torch.equal(new.blocks[2].weight, own.linear_2.weight)
    found = messages(caplog)
    assert "copied: blocks.4 from multi_modal_projector.linear_2;" in found
    assert f"random: blocks.1.norm (LayerNorm: weight ({out},), bias ({out},)), blocks.2 (" in found
    assert "not used: multi_modal_projector.layer_norm (LayerNorm: weight (192,)" in found


def test_a_family_goes_by_any_of_its_names() -> None:
    model, _ = internvl()
    own = model.model.multi_modal_projector
    new = swap_projector(model, "nvila", init="original")
    assert torch.equal(new.blocks[1].norm.weight, own.layer_norm.weight)
    assert torch.equal(new.blocks[2].weight, own.linear_1.weight)


def test_other_families_go_by_the_order_of_use(caplog: pytest.LogCaptureFixture) -> None:
    model, _ = llava()
    own = model.model.multi_modal_projector
    new = swap_projector(model, "ldp", init="original")
    assert torch.equal(new.blocks[0].weight, own.linear_1.weight)  # the only one of 48 -> 64
    found = messages(caplog)
    # Of 64 -> 64 there is one in LLaVA's and there are two in this: none is the one.
    assert "blocks.3 (Linear: weight (64, 64), bias (64,))" in found
    assert "not used: multi_modal_projector.linear_2 (Linear: weight (64, 64), bias (64,))" in found


def test_modules_in_another_order_are_no_match(caplog: pytest.LogCaptureFixture) -> None:
    model, _ = llava()
    widths = [{"type": "pointwise", "out": width} for width in (48, 96, 48)]
    first = {"in": 48, "out": 64, "blocks": [*widths, {"type": "pointwise"}]}
    swap_projector(model, first)  # 48x48, 48 -> 96, 96 -> 48, 48 -> 64
    own = model.model.multi_modal_projector
    widths = [{"type": "pointwise", "out": width} for width in (96, 48, 48)]
    second = {**first, "blocks": [*widths, {"type": "pointwise"}]}
    new = swap_projector(model, second, init="original")  # 48 -> 96, 96 -> 48, 48x48, 48 -> 64
    assert torch.equal(new.blocks[3].weight, own.blocks[3].weight)
    copied = messages(caplog).partition("copied: ")[2].partition(";")[0]
    assert copied == "blocks.3 from blocks.3"


def test_a_bias_that_was_not_there_is_zero() -> None:
    model, _ = gemma3()
    own = model.model.multi_modal_projector
    new = swap_projector(model, "linear", init="original")
    assert torch.equal(new.blocks[0].weight, own.mm_input_projection_weight.T)
    assert torch.equal(new.blocks[0].bias, torch.zeros(64))


def test_a_document_and_a_swapped_projector_go_by_their_order() -> None:
    model, _ = llava()
    spec = spec_of("ldp", 48, 64)
    first = swap_projector(model, "ldp")
    second = swap_projector(model, spec, init="original")
    for key, tensor in second.state_dict().items():
        assert torch.equal(tensor, first.state_dict()[key]), key


def test_it_takes_the_models_dtype() -> None:
    model, _ = llava()
    model.bfloat16()
    own = model.model.multi_modal_projector
    new = swap_projector(model, "mlp", init="original")
    assert new.blocks[0].weight.dtype == torch.bfloat16
    assert torch.equal(new.blocks[0].weight, own.linear_1.weight)


def test_what_nothing_fits_is_refused_and_nothing_changed() -> None:
    model, processor = llava()
    own, kind = model.model.multi_modal_projector, type(model)
    with torch.no_grad():
        before = logits(model, processor)
        with pytest.raises(ModelError) as error:
            swap_projector(model, "mlp", processor=processor, hidden=96, init="original")
        assert torch.equal(logits(model, processor), before)
    assert model.model.multi_modal_projector is own
    assert type(model) is kind
    assert not hasattr(model.config, "mobilevlm")
    assert str(error.value) == (
        "init='original': no module of the projector at multi_modal_projector fits: random: "
        "blocks.0 (Linear: weight (96, 48), bias (96,)), blocks.2 (Linear: weight (64, 96), bias "
        "(64,)); not used: multi_modal_projector.linear_1 (Linear: weight (64, 48), bias (64,)), "
        "multi_modal_projector.linear_2 (Linear: weight (64, 64), bias (64,)); expected modules of "
        "one kind whose shapes agree, as many in both. Leave out init: the projector then starts "
        "from random weights."
    )


def test_a_slot_of_something_else_is_refused() -> None:
    model, _ = llava()
    model.model.multi_modal_projector = nn.Bilinear(48, 48, 64)
    with pytest.raises(ModelError, match=r"the weights at multi_modal_projector cannot be taken"):
        swap_projector(model, "mlp", init="original")
    assert type(model.model.multi_modal_projector) is nn.Bilinear


def test_sharded_weights_are_refused() -> None:
    """As DeepSpeed leaves them; on paper alone, the swap itself goes on."""
    model, _ = llava()
    model.model.multi_modal_projector.linear_1.weight.data = torch.empty(0)
    with pytest.raises(ModelError, match="DeepSpeed ZeRO-3 placeholder"):
        swap_projector(model, "mlp", init="original")
    swap_projector(model, "mlp")


@pytest.mark.parametrize("init", ["own", 1, True])
def test_other_values_are_refused(init: object) -> None:
    model, _ = llava()
    with pytest.raises(ModelError) as error:
        swap_projector(model, "mlp", init=init)  # type: ignore[arg-type]
    assert str(error.value) == f"init: {init!r}; expected None, for random weights, or 'original'"


def test_a_projector_has_weights_of_its_own() -> None:
    model, _ = llava()
    projector = build_projector("mlp", 48, 64)
    with pytest.raises(ModelError, match="init='original': a Projector, which is complete"):
        swap_projector(model, projector, init="original")


def test_a_slot_of_an_unknown_model() -> None:
    model, _ = llava()
    own = model.model.multi_modal_projector
    place = "model.multi_modal_projector"
    new = swap_projector(model, "mlp", slot=place, in_=48, out=64, act="relu", init="original")
    assert torch.equal(new.blocks[0].weight, own.linear_1.weight)
    assert model.model.multi_modal_projector is new


@pytest.mark.quick(*QUICK)
@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # PaliGemma's, of numpy
@pytest.mark.parametrize("model_type", makers())
def test_every_models_own_document_and_weights_change_nothing(
    model_type: str, tmp_path: Path, quiet: None
) -> None:
    model, processor = makers()[model_type]()
    model.save_pretrained(tmp_path)
    spec = inspect_checkpoint(tmp_path).spec
    with torch.no_grad():
        before = logits(model, processor)
        projector = swap_projector(model, spec, processor=processor, init="original")
        assert projector.spec == spec
        torch.testing.assert_close(logits(model, processor), before, rtol=1e-5, atol=1e-6)
