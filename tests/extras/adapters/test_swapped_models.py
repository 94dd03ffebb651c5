"""Models whose projector was swapped, with adapters, quantised, and on several devices."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
import transformers
from cases import distance
from helpers import vlms
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torchao.quantization import Int8WeightOnlyConfig

from mobilevlm import ModelError, Projector, load_projector, swap_projector
from mobilevlm.models import (
    check_image_tokens,
    freeze_except_projector,
    load_model,
    parameter_groups,
    trainable_summary,
)

PLACE = "model.multi_modal_projector"
# PEFT asks transformers by an old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture(autouse=True)
def _sizes(monkeypatch: pytest.MonkeyPatch, quiet: None) -> None:
    """Widths that bitsandbytes packs in 4 bits."""
    monkeypatch.setitem(vlms.CLIP, "hidden_size", 64)
    monkeypatch.setitem(vlms.LLAMA, "intermediate_size", 128)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def save(folder: Path, *parts: Any) -> Path:
    for part in parts:
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def swapped(tmp_path: Path) -> Path:
    model, processor = vlms.llava()
    swap_projector(model, "ldp", processor=processor)
    return save(tmp_path / "swapped", model, processor)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return save(tmp_path / "plain", *vlms.llava())


def logits(model: Any, processor: Any) -> Tensor:
    with torch.no_grad():
        result: Tensor = vlms.logits(model, processor).float()
    return result


# ----------------------------------------------------------------------------------- quantised


def bits(count: int) -> Callable[..., Any]:
    def config(**options: Any) -> Any:
        return transformers.BitsAndBytesConfig(**{f"load_in_{count}bit": True}, **options)

    return config


def torchao(**options: Any) -> Any:
    return transformers.TorchAoConfig(Int8WeightOnlyConfig(version=2), **options)


# The config; the name of its list; how far the logits may be.
QUANTISED = {
    "bitsandbytes-8": (bits(8), "llm_int8_skip_modules", 0.05),
    "bitsandbytes-4": (bits(4), "llm_int8_skip_modules", 0.3),
    "torchao": (torchao, "modules_to_not_convert", 0.05),
}
each = pytest.mark.parametrize(("config", "listed", "close"), QUANTISED.values(), ids=QUANTISED)


def is_quantised(layer: nn.Linear) -> bool:
    quantised = isinstance(layer, bnb.nn.Linear8bitLt | bnb.nn.Linear4bit)
    return quantised or type(layer.weight.data) is not Tensor


def quantised(module: nn.Module) -> set[bool]:
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    return {is_quantised(layer) for layer in layers}


@each
def test_the_projector_is_left_as_it_is(
    config: Callable[..., Any], listed: str, close: float, swapped: Path, tmp_path: Path
) -> None:
    whole, processor = load_model(swapped)
    given = config()
    model, _ = load_model(swapped, quantization_config=given)
    assert getattr(given, listed) is None  # the caller's own is not changed
    projector = model.model.multi_modal_projector
    assert quantised(projector) == {False}
    assert quantised(model.model.language_model) == quantised(model.model.vision_tower) == {True}
    assert quantised(model.lm_head) == {False}  # which transformers leaves by itself
    for key, tensor in whole.model.multi_modal_projector.state_dict().items():
        assert torch.equal(projector.state_dict()[key], tensor), key
    assert getattr(model.config.quantization_config, listed) == ["lm_head", PLACE]
    assert 0 < distance(logits(model, processor), logits(whole, processor)) < close
    again, _ = load_model(save(tmp_path / "again", model, processor))
    assert quantised(again.model.multi_modal_projector) == {False}
    assert quantised(again.model.language_model) == {True}
    assert torch.equal(logits(again, processor), logits(model, processor))
    assert load_projector(tmp_path / "again").spec == projector.spec


@each
def test_it_is_quantised_if_asked(
    config: Callable[..., Any], listed: str, close: float, swapped: Path
) -> None:
    whole, processor = load_model(swapped)
    model, _ = load_model(swapped, quantization_config=config(**{listed: ["lm_head"]}))
    assert quantised(model.model.multi_modal_projector) == {True}
    assert 0 < distance(logits(model, processor), logits(whole, processor)) < close
    if config is not torchao:
        with pytest.raises(ModelError, match="the projector is quantised"):
            freeze_except_projector(model)


@each
def test_any_class_that_reads_the_folder(
    config: Callable[..., Any], listed: str, close: float, swapped: Path
) -> None:
    for cls in (transformers.AutoModelForImageTextToText, transformers.AutoModel):
        model = cls.from_pretrained(swapped, quantization_config=config())
        assert quantised(model.base_model.multi_modal_projector) == {False}, cls
        assert quantised(model.base_model.language_model) == {True}, cls
    other = type(model).from_pretrained(swapped, quantization_config=config())
    assert quantised(other.multi_modal_projector) == {False}


def test_a_config_that_is_a_mapping(swapped: Path) -> None:
    model, _ = load_model(swapped, quantization_config={"load_in_8bit": True})
    assert quantised(model.model.multi_modal_projector) == {False}
    assert quantised(model.model.language_model) == {True}


@each
def test_into_a_quantised_model(
    config: Callable[..., Any], listed: str, close: float, plain: Path, tmp_path: Path
) -> None:
    model, processor = load_model(plain, quantization_config=config())
    assert quantised(model.model.multi_modal_projector) == {True}
    projector = swap_projector(model, "ldp", processor=processor)
    assert {p.dtype for p in projector.parameters()} == {model.dtype} == {torch.float32}
    check_image_tokens(model, processor)
    read, other = load_model(save(tmp_path / "again", model, processor))
    assert quantised(read.model.multi_modal_projector) == {False}
    assert quantised(read.model.language_model) == {True}
    assert torch.equal(logits(read, other), logits(model, processor))


@each
def test_the_weights_of_a_quantised_projector_are_not_taken(
    config: Callable[..., Any], listed: str, close: float, plain: Path
) -> None:
    model, _ = load_model(plain, quantization_config=config())
    own = model.model.multi_modal_projector
    with pytest.raises(ModelError, match=r"cannot be taken over: .*(quantis|bitsandbytes)"):
        swap_projector(model, "mlp", init="original")
    assert model.model.multi_modal_projector is own


def test_a_projector_learns_in_a_quantised_model(swapped: Path) -> None:
    model, processor = load_model(swapped, quantization_config=bits(8)())
    projector = freeze_except_projector(model)
    loss = model.train()(**vlms.batch(processor)).logits.float().square().mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in projector.parameters())
    torch.optim.AdamW(parameter_groups(model, lr=1e-3, weight_decay=0.1)).step()
    assert PLACE in trainable_summary(model)


def test_a_summary_counts_packed_weights_as_what_they_are(swapped: Path) -> None:
    whole, _ = load_model(swapped)
    model, _ = load_model(swapped, quantization_config=bits(4)())
    lines = [trainable_summary(each).splitlines() for each in (whole, model)]
    counts = [{line.split()[0]: line.split()[1] for line in each} for each in lines]
    assert counts[0] == counts[1]


# ---------------------------------------------------------------------------------------- PEFT


def disturb(model: nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)


PEFT = {
    "lora": {"target_modules": "all-linear"},
    "dora": {"target_modules": "all-linear", "use_dora": True},
    "whole": {
        "target_modules": r".*language_model.*(q|v)_proj",
        "modules_to_save": ["multi_modal_projector"],
    },
}


@pytest.mark.parametrize("options", PEFT.values(), ids=PEFT)
def test_adapters_come_back(options: dict[str, Any], swapped: Path, tmp_path: Path) -> None:
    base, processor = load_model(swapped)
    before = logits(base, processor)
    model = get_peft_model(base, LoraConfig(r=4, **options)).eval()
    disturb(model)
    after = logits(model, processor)
    assert distance(after, before) > 1e-3
    mine = [name for name, p in model.named_parameters() if p.requires_grad and PLACE in name]
    assert mine
    model.save_pretrained(tmp_path / "adapter")
    other, _ = load_model(swapped)
    read = PeftModel.from_pretrained(other, tmp_path / "adapter").eval()
    assert torch.equal(logits(read, processor), after)
    merged = read.merge_and_unload()
    assert distance(logits(merged, processor), after) < 1e-5
    assert isinstance(merged.model.multi_modal_projector, Projector)
    final, _ = load_model(save(tmp_path / "merged", merged, processor))
    assert torch.equal(logits(final, processor), logits(merged, processor))


@pytest.mark.parametrize("options", PEFT.values(), ids=PEFT)
def test_what_is_trained_under_peft(options: dict[str, Any], swapped: Path) -> None:
    base, processor = load_model(swapped)
    model = get_peft_model(base, LoraConfig(r=4, **options))
    names = {p: name for name, p in model.named_parameters()}
    trained = {name for p, name in names.items() if p.requires_grad}
    groups = parameter_groups(model, lr=1.0, projector_lr=2.0)
    found = {names[p]: group["lr"] for group in groups for p in group["params"]}
    assert found.keys() == trained
    assert {PLACE in name for name, rate in found.items() if rate == 2.0} == {True}
    assert {PLACE in name for name, rate in found.items() if rate == 1.0} == {False}
    model.train()(**vlms.batch(processor)).logits.square().mean().backward()
    moved = {name for p, name in names.items() if p.grad is not None}
    assert moved <= trained  # the tower's last layer is not used
    assert {name for name in moved if PLACE in name} == {name for name in trained if PLACE in name}
    lines = {line.split()[0]: line.split()[1:] for line in trainable_summary(model).splitlines()}
    own = sum(p.numel() for p, name in names.items() if p.requires_grad and PLACE in name)
    assert int(lines[PLACE][1].replace(",", "")) == own > 0
    assert int(lines["all"][1].replace(",", "")) == sum(p.numel() for p in names if p.requires_grad)


def test_freezing_finds_the_copy_that_peft_trains(swapped: Path) -> None:
    base, _ = load_model(swapped)
    model = get_peft_model(base, LoraConfig(r=4, **PEFT["whole"]))
    projector = freeze_except_projector(model)
    wrapper = model.base_model.model.model.multi_modal_projector
    assert projector is wrapper.modules_to_save["default"]
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        f"base_model.model.{PLACE}.modules_to_save.default.{name}"
        for name, _ in projector.named_parameters()
    }


def test_freezing_finds_upstreams_own_copy_too(plain: Path) -> None:
    base, _ = load_model(plain)
    model = get_peft_model(base, LoraConfig(r=4, **PEFT["whole"]))
    projector = freeze_except_projector(model)
    assert type(projector).__name__ == "LlavaMultiModalProjector"
    assert all(p.requires_grad for p in projector.parameters())
    assert sum(p.requires_grad for p in model.parameters()) == 4


def test_lora_on_a_quantised_model(swapped: Path, tmp_path: Path) -> None:
    """QLoRA, with a projector that is trained as it is."""
    base, processor = load_model(swapped, quantization_config=bits(8)())
    model = get_peft_model(base, LoraConfig(r=4, **PEFT["whole"])).eval()
    disturb(model)
    model.save_pretrained(tmp_path / "adapter")
    other, _ = load_model(swapped, quantization_config=bits(8)())
    read = PeftModel.from_pretrained(other, tmp_path / "adapter").eval()
    assert torch.equal(logits(read, processor), logits(model, processor))


# ---------------------------------------------------------------------------------- accelerate


def test_one_device(swapped: Path, plain: Path) -> None:
    for folder in (swapped, plain):
        model, processor = load_model(folder, device_map={"": "cpu"})
        projector = swap_projector(model, "mlp", processor=processor)
        assert {p.device.type for p in projector.parameters()} == {"cpu"}
        check_image_tokens(model, processor)


def offloaded(folder: Path, tmp_path: Path, *parts: str) -> tuple[Any, Any]:
    """The model with these parts on disk."""
    devices = dict.fromkeys(("model.vision_tower", PLACE, "model.language_model", "lm_head"), "cpu")
    devices |= dict.fromkeys(parts, "disk")
    return load_model(folder, device_map=devices, offload_folder=tmp_path / "offload")


@pytest.mark.parametrize("name", ["ldp", "c-abstractor", "blip2", "ldpnetv2", "mlp"])
def test_a_projector_that_is_offloaded(name: str, tmp_path: Path) -> None:
    """Its layers are called, whatever fast forms there are: else they would have no weights."""
    sizes = {"blip2": {"depth": 1}, "ldpnetv2": {"size": 3}, "c-abstractor": {"queries": 9}}
    model, processor = vlms.llava()
    swap_projector(model, name, processor=processor, **sizes.get(name, {}))
    folder = save(tmp_path / "swapped", model, processor)
    read, _ = offloaded(folder, tmp_path, PLACE)
    assert {p.device.type for p in read.model.multi_modal_projector.parameters()} == {"meta"}
    assert distance(logits(read, processor), logits(model, processor)) < 1e-6


@pytest.mark.filterwarnings("ignore:Attempting to save a model with offloaded:UserWarning")
@pytest.mark.parametrize("init", [None, "original"])
@pytest.mark.parametrize("parts", [(PLACE,), ("model.language_model",), (PLACE, "lm_head")])
def test_swapped_in_a_dispatched_model(
    parts: tuple[str, ...], init: Any, plain: Path, tmp_path: Path
) -> None:
    whole, processor = load_model(plain)
    model, _ = offloaded(plain, tmp_path, *parts)
    before = model.model.multi_modal_projector
    assert before._hf_hook.execution_device == "cpu"
    projector = swap_projector(model, "mlp", processor=processor, act="relu", init=init)
    assert {p.device.type for p in projector.parameters()} == {"cpu"}  # where it runs
    assert projector._hf_hook.execution_device == before._hf_hook.execution_device
    assert model.hf_device_map[PLACE] == "cpu"
    other = swap_projector(whole, "mlp", act="relu")
    other.load_state_dict(projector.state_dict())
    assert torch.equal(logits(model, processor), logits(whole, processor))
    if init:
        own, _ = load_model(plain)
        own = own.model.multi_modal_projector
        assert torch.equal(projector.blocks[2].weight, own.linear_2.weight)
    read, _ = load_model(save(tmp_path / "again", model, processor))
    assert torch.equal(logits(read, processor), logits(whole, processor))


def test_a_dispatched_model_takes_batches_of_text(plain: Path, tmp_path: Path) -> None:
    """What accelerate has put around its forward calls the new class's, not the old one's."""
    model, processor = offloaded(plain, tmp_path, "model.vision_tower")
    projector = swap_projector(model, "mlp", processor=processor)
    ids = processor.tokenizer("what is it ?", return_tensors="pt").input_ids
    model.requires_grad_(False)
    projector.requires_grad_(True)
    model.train()(input_ids=ids, labels=ids).loss.backward()
    assert all(p.grad is not None for p in projector.parameters())


def test_a_model_without_weights() -> None:
    from accelerate import init_empty_weights

    config = vlms.llava()[0].config
    with init_empty_weights():
        model = transformers.LlavaForConditionalGeneration(config)
    projector = swap_projector(model, "ldp")
    assert all(p.is_meta for p in projector.parameters())
