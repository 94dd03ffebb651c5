"""What `swap_projector` refuses, by a message, before anything is changed."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from helpers.swapped import makers, swap
from helpers.vlms import llava
from torch import nn

from mobilevlm import ModelError, Projector, build_projector, swap_projector
from mobilevlm.models import check_image_tokens
from mobilevlm.models.forms.form import Form
from mobilevlm.models.hosts import HOSTS
from mobilevlm.registry import UnknownName

LEARNED = [{"type": "position", "kind": "learned"}, {"type": "pointwise", "out": 64}]
SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "patch_size",
)
TABLE = {"schema": 1, "in": 48, "out": 64, "blocks": LEARNED}
INSIDE = r"Swap the projector of the LlavaForConditionalGeneration inside it, then wrap that\."


class Peft(nn.Module):
    """A wrapper that gives the model inside it as PEFT's does."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.base_model = model

    def get_base_model(self) -> nn.Module:
        return self.base_model


def test_a_wrapped_model() -> None:
    model, _ = llava()
    wrappers = (nn.DataParallel, Peft, lambda inner: torch.compile(inner, backend="eager"))
    for wrapped in (wrap(model) for wrap in wrappers):
        with pytest.raises(ModelError, match=INSIDE):
            swap_projector(wrapped, "ldp")
    assert type(model).__name__ == "LlavaForConditionalGeneration"


@pytest.mark.parametrize("model", [None, "folder", nn.Linear(2, 2)], ids=["none", "path", "module"])
def test_what_is_no_model(model: Any) -> None:
    with pytest.raises(ModelError, match=r"^model: a .*; expected a model of transformers\. Auto"):
        swap_projector(model, "ldp")


def test_a_models_name_is_answered_with_a_call_that_works() -> None:
    model, _ = llava()
    with pytest.raises(UnknownName) as caught:
        swap_projector(model, "smolvlm")
    assert str(caught.value) == (
        "unknown projector 'smolvlm'. SmolVLM uses idefics3: write "
        "swap_projector(model, 'idefics3', merge=3)."
    )
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    swap_projector(model, "idefics3", merge=3)


def test_a_tower_of_images_of_any_size() -> None:
    """Where the class passes no grid: what reads none is taken, but not counted."""
    own, processor = llava()
    config = copy.deepcopy(own.config)
    sizes = {key: getattr(config.vision_config, key) for key in SIZES}
    config.vision_config = transformers.Siglip2VisionConfig(**sizes)
    config.vision_feature_select_strategy = "full"
    model = type(own)(config)
    with pytest.raises(ModelError, match=r"^config\.vision_config: no one grid .* 'mlp' takes"):
        swap_projector(model, "ldp")
    with pytest.raises(ModelError, match=r"^processor: a vision tower of images of any size; "):
        swap_projector(model, "mlp", processor=processor)
    assert type(model) is type(own)
    swap_projector(model, "mlp")


def test_a_class_of_the_same_type_with_another_head() -> None:
    config = copy.deepcopy(makers()["gemma3"]()[0].config)
    model = transformers.Gemma3ForSequenceClassification(config)
    with pytest.raises(ModelError, match="a Gemma3ForSequenceClassification; expected a Gemma3For"):
        swap_projector(model, "ldp")


def test_tokens_of_a_wrapped_model_are_checked() -> None:
    swapped, other = swap("llava", "ldp"), swap("llava", "mlp")
    check_image_tokens(nn.DataParallel(swapped.model), swapped.processor)
    with pytest.raises(ModelError, match="36 image tokens in the prompt, 9 features"):
        check_image_tokens(nn.DataParallel(swapped.model), other.processor)


def test_a_subclass_keeps_its_class() -> None:
    """Else what it overrides would be lost."""
    model, _ = llava()

    class Mine(type(model)):  # type: ignore[misc]
        pass

    model.__class__ = Mine
    with pytest.raises(ModelError, match="a Mine; expected a LlavaForConditionalGeneration or a L"):
        swap_projector(model, "ldp")
    assert type(model) is Mine


@pytest.mark.parametrize("name", ["in_", "out", "grid", "tower", "lm", "device", "dtype"])
def test_an_option_that_the_model_says(name: str) -> None:
    said = rf"the option {name}; expected none of that name: .* Leave out {name}\.$"
    with pytest.raises(ModelError, match=said):
        swap_projector(llava()[0], "ldp", **{name: (6, 6)})


@pytest.mark.parametrize("name", ["tokens", "depth"])
def test_an_option_beside_a_projector(name: str) -> None:
    options: dict[str, Any] = {name: 9}
    with pytest.raises(ModelError, match=rf"^{name}=9: a Projector, .* Leave out {name}, or"):
        swap_projector(llava()[0], build_projector("mlp", 48, 64), **options)


def test_a_projector_of_another_grid() -> None:
    """One with a table for it; others take the model's."""
    model, processor = llava()
    with pytest.raises(
        ModelError, match=r"table: \(64, 48\), for a grid of \(8, 8\); .*\(36, 48\)"
    ):
        swap_projector(model, build_projector(TABLE, grid=(8, 8)), processor=processor)
    projector = swap_projector(model, build_projector("ldp", 48, 64, grid=(8, 8)))
    assert projector.grid == (6, 6)


def test_weights_that_would_be_lost() -> None:
    model, _ = llava()
    with pytest.raises(ModelError, match=r"weights on meta; .* Load the weights of both first"):
        swap_projector(model, build_projector("mlp", 48, 64, device="meta"))
    with torch.device("meta"):
        empty = type(model)(model.config)
    with pytest.raises(ModelError, match=r"weights on cpu; .* Load the weights of both first"):
        swap_projector(empty, build_projector("mlp", 48, 64))


def test_what_is_refused_is_left_as_it_was() -> None:
    model, processor = llava()
    model.to(torch.bfloat16)
    before, config = copy.deepcopy(model), model.config.to_dict()
    projector = build_projector("mlp", 48, 64, grid=(3, 3))
    with pytest.raises(ModelError, match="a LlavaProcessor; expected a SmolVLMProcessor"):
        swap_projector(makers()["smolvlm"]()[0], projector, processor=processor)
    assert projector.grid == (3, 3)
    assert {p.dtype for p in projector.parameters()} == {torch.float32}
    assert not projector._forward_hooks
    assert type(model) is type(before)
    assert model.config.to_dict() == config


@pytest.mark.parametrize("host", ["qwen2_vl", "mistral3", "lfm2_vl"])
def test_a_table_of_places_where_images_have_any_size(host: str) -> None:
    model, _ = makers()[host]()
    facts = Form().slot(model.config, HOSTS[host])
    sides = {"in": facts.channels, "out": facts.out, "token_order": facts.token_order}
    blocks = [LEARNED[0], {"type": "pointwise", "out": facts.out}]
    said = r"^projector\.position: the grid is not known, .* differ in size\. 'ldp' and"
    with pytest.raises(ModelError, match=said):
        swap_projector(model, {"schema": 1, **sides, "blocks": blocks})


@pytest.mark.parametrize(
    ("slot", "said"),
    [
        (
            "model.multi_modal_projectr",
            r"Did you mean 'model\.multi_modal_projector' or .*lists",
        ),
        ("", r"^slot: no module '' in a LlavaForConditionalGeneration"),
        ("lm_head.weight", r"^slot: no module 'lm_head\.weight'"),
    ],
)
def test_a_slot_that_is_no_module(slot: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        swap_projector(llava()[0], "mlp", slot=slot, in_=48, out=64)


def test_a_processor_that_would_not_be_told() -> None:
    model, processor = llava()
    with pytest.raises(ModelError, match=r"^processor: a LlavaProcessor; expected none, with"):
        swap_projector(model, "mlp", slot="model.multi_modal_projector", processor=processor)


def other(model: Any) -> None:
    model.model.multi_modal_projector = build_projector("internvl", 48, 64, merge=2, grid=(6, 6))


def nothing(model: Any) -> None:
    model.config.mobilevlm = None


def linear(model: Any) -> None:
    model.model.multi_modal_projector = nn.Linear(48, 64)


@pytest.mark.parametrize("change", [other, nothing, linear])
def test_a_folder_that_could_not_be_read_is_not_written(change: Any, tmp_path: Path) -> None:
    model = swap("llava", "ldp").model
    change(model)
    with pytest.raises(ModelError, match=r"swap_projector\(model, "):
        model.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    projector = model.model.multi_modal_projector
    swap_projector(model, projector if isinstance(projector, Projector) else "ldp")
    model.save_pretrained(tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").exists()
