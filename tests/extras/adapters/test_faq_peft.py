"""What docs/faq.md says of PEFT: its message is this one, and its two cures train the projector."""

import re
from pathlib import Path

import pytest
from cases import Model, build
from peft import LoraConfig, get_peft_model

PAGE = (Path(__file__).parents[3] / "docs" / "faq.md").read_text("utf-8")


def test_adapters_on_a_projector_as_a_whole() -> None:
    shown = re.search(r"### Target module .*\n\n((?:    .*\n)+)", PAGE)
    assert shown
    with pytest.raises(ValueError, match="Target module") as caught:
        get_peft_model(Model(build("mlp")), LoraConfig(target_modules=["mm_projector"]))
    end = " ".join(shown[1].split()).partition(" ... ")[2]
    assert end
    assert end in " ".join(str(caught.value).split())


def test_adapters_on_its_linear_layers() -> None:
    model = Model(build("mlp"))
    names = model.mm_projector.linear_names("mm_projector")
    adapted = get_peft_model(model, LoraConfig(target_modules=names))
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * len(names) > 0


def test_a_projector_that_is_trained_beside_adapters() -> None:
    config = LoraConfig(target_modules=["lm"], modules_to_save=["mm_projector"])
    adapted = get_peft_model(Model(build("mlp")), config)
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    for key in build("mlp").state_dict():
        assert f"base_model.model.mm_projector.modules_to_save.default.{key}" in trained
