"""Models that call their projector with the tokens of one grid: what is special about each."""

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from helpers.vlms import VLMS, Made, batch, llava, logits, pictures
from helpers.vlms_tokens import fast_vlm, got_ocr2, perception_lm, video, vipllava

from mobilevlm import GridError, SpecError, load_projector
from mobilevlm.models import swap_projector
from mobilevlm.models.errors import ModelError
from mobilevlm.models.training import freeze_except_projector

HOSTS = (
    *("aya_vision", "cohere2_vision", "fast_vlm", "got_ocr2", "perception_lm", "smolvlm"),
    "vipllava",
)
EXACT = {"fast_vlm", "smolvlm", "vipllava"}  # the others' sums have another order
SPECS: dict[str, dict[str, Any]] = {
    "mlp": {},
    "ldp": {},
    "internvl": {"merge": 2},
    "c-abstractor": {"queries": 4},
    "blip2": {"queries": 5, "width": 32, "hidden": 32, "heads": 4, "depth": 2},
}
SQUARE, WIDE, TALL = (48, 48), (48, 100), (150, 50)

pytestmark = pytest.mark.usefixtures("quiet")


def _swapped(name: str, spec: str = "blip2", **options: Any) -> tuple[Any, Any, Any]:
    model, processor = VLMS[name]()
    options = options or SPECS[spec]
    return swap_projector(model, spec, processor=processor, **options), model, processor


def _one(processor: Any, sizes: list[tuple[int, int]]) -> Any:
    """Return the inputs of one prompt with nothing but images."""
    images: Any = pictures(*sizes)
    text = [processor.image_token * len(images)]
    return processor(images=images, text=text, return_tensors="pt", padding=True)


def _image_tokens(model: Any, inputs: Any) -> int:
    return int((inputs["input_ids"] == model.config.image_token_id).sum())


def _features(model: Any, inputs: Any) -> int:
    """Return how many features the model makes of a batch's images."""
    pixels = {k: v for k, v in inputs.items() if k.startswith("pixel_values")}
    if "pixel_attention_mask" in inputs:
        pixels["pixel_attention_mask"] = inputs["pixel_attention_mask"]
    made = model.base_model.get_image_features(**pixels, return_dict=True).pooler_output
    return sum(len(x.reshape(-1, x.shape[-1])) for x in made)


def _saved(model: Any, processor: Any, folder: Path) -> Made:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    made = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    return made, transformers.AutoProcessor.from_pretrained(folder)


# ------------------------------------------------------------------ parity


PARITY: dict[str, Callable[[], Made]] = {
    **{name: lambda name=name: VLMS[name]() for name in HOSTS},  # type: ignore[misc]
    "llava of two layers": lambda: llava(vision_feature_layer=[-2, -1]),
    "llava with its class token": lambda: llava(vision_feature_select_strategy="full"),
    "llava of two layers with class tokens": lambda: llava(
        vision_feature_layer=[1, -1], vision_feature_select_strategy="full"
    ),
    "vipllava of one layer": lambda: vipllava(vision_feature_layer=-2),
}


@pytest.mark.parametrize("case", PARITY)
@torch.no_grad
def test_its_own_projector_changes_no_logit(case: str, tmp_path: Path) -> None:
    model, processor = PARITY[case]()
    sizes = [SQUARE, WIDE, TALL] if case != "perception_lm" else [SQUARE, (40, 40)]
    before = logits(model, processor, sizes)
    model.save_pretrained(tmp_path)
    swap_projector(model, load_projector(tmp_path), processor=processor)
    after = logits(model, processor, sizes)
    exact = case.startswith("llava") or case.split()[0] in EXACT
    assert before.std() > 0.01
    torch.testing.assert_close(after, before, rtol=0, atol=0 if exact else 1e-6)


# ------------------------------------------------------------------ counts


@pytest.mark.quick(*(f"{name}-blip2" for name in HOSTS), "cohere2_vision-ldp", "perception_lm-mlp")
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", HOSTS)
@torch.no_grad
def test_prompt_forecast_and_features_agree(name: str, spec: str) -> None:
    _, model, processor = _swapped(name, spec)
    alone = [_one(processor, [size]) for size in (SQUARE, WIDE, TALL)]
    for inputs in alone:
        assert _image_tokens(model, inputs) == _features(model, inputs) > 0
    forecast = processor._get_num_multimodal_tokens([list(SQUARE), list(WIDE), list(TALL)])
    lengths = [inputs["input_ids"].shape[1] for inputs in alone]
    assert forecast.num_image_tokens == lengths
    assert processor._get_num_multimodal_tokens().num_image_tokens is None
    if name == "perception_lm":  # upstream puts only images of as many tiles in a batch
        together = batch(processor, [SQUARE, (40, 40)])
    else:
        together = batch(processor, [SQUARE, WIDE, TALL])
        assert _image_tokens(model, together) == sum(_image_tokens(model, x) for x in alone)
    assert model(**together).logits.isfinite().all()


@pytest.mark.parametrize(
    "name", [name for name in HOSTS if name not in ("got_ocr2", "perception_lm")]
)
@torch.no_grad
def test_several_images_of_one_prompt(name: str) -> None:
    projector, model, processor = _swapped(name)
    inputs = _one(processor, [SQUARE, WIDE, TALL])
    assert _image_tokens(model, inputs) == _features(model, inputs)
    assert _image_tokens(model, inputs) % projector.spec.tokens(6, 6) == 0
    assert model(**inputs).logits.isfinite().all()


def test_what_stands_around_tiles_stays() -> None:
    _, _, processor = _swapped("cohere2_vision")
    replaced = processor.replace_image_token({"num_patches": [1, 3]}, 1)
    tile = "<image>" * 5 + "<|IMG_LINE_BREAK|>"
    assert replaced == "<boi>" + tile * 3 + "<eoi>"
    _, _, processor = _swapped("aya_vision")
    replaced = processor.replace_image_token({"num_patches": [1, 3]}, 1)
    tile = "<|IMG_PATCH|>" * 5
    tiles = f"TILE_1{tile}TILE_2{tile}TILE_GLOBAL{tile}"
    assert replaced == f"<|START_OF_IMG|>{tiles}<|END_OF_IMG|>"


def test_an_image_in_pages_and_in_tiles_is_counted() -> None:
    _, model, processor = _swapped("got_ocr2")
    images = pictures((48, 96))
    text = [processor.image_token]
    inputs = processor(images, text, crop_to_patches=True, return_tensors="pt")
    forecast = processor._get_num_multimodal_tokens([[48, 96]], crop_to_patches=True)
    assert forecast.num_image_patches == [3]
    assert forecast.num_image_tokens == [_image_tokens(model, inputs)] == [15]
    assert _features(model, inputs) == 15
    pages = [pictures(SQUARE, WIDE)]
    inputs = processor(pages, text, multi_page=True, return_tensors="pt")
    assert _image_tokens(model, inputs) == _features(model, inputs) == 10


# ------------------------------------------------------------------ videos


@pytest.mark.parametrize("name", ["internvl", "perception_lm", "smolvlm"])
@torch.no_grad
def test_frames_of_videos_are_counted(name: str, tmp_path: Path) -> None:
    _, model, processor = _swapped(name)
    made = processor(
        videos=[video(3)], text=[f"{processor.video_token} what is it ?"], return_tensors="pt"
    )
    inputs = {k: v for k, v in made.items() if k != "video_metadata"}
    ids = (model.config.image_token_id, getattr(model.config, "video_token_id", None))
    assert sum(int((inputs["input_ids"] == i).sum()) for i in ids if i is not None) == 3 * 5
    expected = model(**inputs).logits  # upstream compares the features with the tokens
    model, processor = _saved(model, processor, tmp_path)
    assert torch.equal(model(**inputs).logits, expected)
    with pytest.raises(ValueError, match="do not match"):
        model(**{**inputs, "input_ids": inputs["input_ids"][:, :-9]})


@torch.no_grad
def test_an_image_and_a_video_of_one_prompt() -> None:
    _, model, processor = _swapped("internvl")
    text = f"{processor.video_token} {processor.image_token} what is it ?"
    images = pictures((48, 96))
    inputs = processor(images=images, text=[text], videos=[video(2)], return_tensors="pt")
    assert len(inputs["pixel_values"]) == 2 + 3
    assert _image_tokens(model, inputs) == 5 * 5
    assert model(**inputs).logits.isfinite().all()


def test_idefics_3_knows_no_videos() -> None:
    _, _, processor = _swapped("idefics3")
    assert type(processor) is transformers.Idefics3Processor
    assert "video_processor" not in processor.get_attributes()
    assert "video" not in transformers.Idefics3ForConditionalGeneration.input_modalities


# ------------------------------------------------------------------ models


@pytest.mark.quick("aya_vision", "perception_lm")
@pytest.mark.parametrize("name", HOSTS)
@torch.no_grad
def test_reload_gives_the_same(name: str, tmp_path: Path) -> None:
    _, model, processor = _swapped(name)
    expected = logits(model, processor)
    again = _saved(model, processor, tmp_path / "first")
    assert [type(made) for made in again] == [type(model), type(processor)]
    assert torch.equal(logits(*again), expected)
    twice = _saved(*again, tmp_path / "second")
    assert torch.equal(logits(*twice), expected)
    assert torch.equal(logits(copy.deepcopy(model), processor), expected)


@pytest.mark.parametrize("name", HOSTS)
@torch.no_grad
def test_a_second_swap(name: str) -> None:
    _, model, processor = _swapped(name)
    swap_projector(model, "mlp", processor=processor)
    _, other, counts = _swapped(name, "mlp")
    assert logits(model, processor).shape == logits(other, counts).shape


@pytest.mark.parametrize("name", HOSTS)
def test_generation_is_the_same_without_a_cache(name: str) -> None:
    _, model, processor = _swapped(name)
    inputs = {k: v for k, v in batch(processor).items() if k != "rows"}
    generate = functools.partial(
        model.generate,
        **inputs,
        max_new_tokens=5,
        min_new_tokens=5,
        do_sample=False,
        bad_words_ids=[[model.config.image_token_id]],
    )
    cached = generate(use_cache=True)
    assert cached.shape[1] == inputs["input_ids"].shape[1] + 5
    assert torch.equal(cached, generate(use_cache=False))


@pytest.mark.parametrize("images", [True, False])
@pytest.mark.parametrize("name", HOSTS)
def test_every_parameter_gets_a_gradient(name: str, images: bool) -> None:
    projector, model, processor = _swapped(name)
    model.train()
    model.activation_checkpointing_enable()
    freeze_except_projector(model)
    inputs = batch(processor)
    if not images:
        inputs = processor.tokenizer(["what is it ?"], return_tensors="pt")
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    gradients = {key: p.grad for key, p in projector.named_parameters()}
    assert all(grad is not None for grad in gradients.values()), gradients
    moved = [key for key, grad in gradients.items() if grad.abs().sum() > 0]
    assert bool(moved) is images
    assert images is False or set(gradients) - set(moved) <= {
        key
        for key in gradients
        if key.endswith("k.bias")  # the same for all keys
    }


@pytest.mark.parametrize("name", HOSTS)
def test_what_the_grid_does_not_allow_is_refused(name: str) -> None:
    model, processor = VLMS[name]()
    before = type(model), type(processor), model.config.to_dict(), copy.copy(processor.__dict__)
    with pytest.raises(GridError, match="5"):
        swap_projector(model, "internvl", processor=processor, merge=5)
    after = type(model), type(processor), model.config.to_dict(), processor.__dict__
    assert after == before


# ------------------------------------------------------------------ one host each


def test_class_tokens_are_dropped_by_what_reads_the_grid() -> None:
    changes: dict[str, Any] = {"vision_feature_select_strategy": "full"}
    model, processor = llava(**changes)
    projector = swap_projector(model, "ldp", processor=processor)
    assert projector.spec.prefix_tokens == 1
    assert _image_tokens(model, _one(processor, [SQUARE])) == 9
    seen: list[torch.Size] = []
    projector.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    logits(model, processor)
    assert seen == [(2, 37, 48)]
    model, processor = llava(**changes)
    with pytest.raises(ModelError, match=r"projector\.prefix_tokens: 0; expected 1"):
        swap_projector(model, "ldp", processor=processor, prefix_tokens=0)
    assert type(model) is transformers.LlavaForConditionalGeneration


@pytest.mark.parametrize(("prefix", "tokens"), [(0, 37), (1, 36)])
def test_class_tokens_can_be_kept(prefix: int, tokens: int, tmp_path: Path) -> None:
    model, processor = llava(vision_feature_select_strategy="full", image_seq_length=37)
    swap_projector(model, "mlp", processor=processor, prefix_tokens=prefix)
    assert model.config.image_seq_length == tokens
    assert _image_tokens(model, _one(processor, [WIDE])) == tokens
    expected = logits(model, processor)
    assert torch.equal(logits(*_saved(model, processor, tmp_path)), expected)


@pytest.mark.parametrize("name", ["aya_vision", "llava", "vipllava"])
def test_layers_are_joined_on_channels(name: str) -> None:
    # Aya Vision's own projector takes one layer only.
    model, processor = VLMS[name](vision_feature_layer=[-1, 0, 1, -2])
    projector = swap_projector(model, "ldp", processor=processor)
    assert projector.spec.in_ == 4 * 48
    assert logits(model, processor).isfinite().all()


def test_vipllava_drops_the_class_token_whatever_the_config_says() -> None:
    model, processor = vipllava(vision_feature_select_strategy="full")
    projector = swap_projector(model, "ldp", processor=processor)
    assert projector.spec.prefix_tokens == 0
    assert logits(model, processor).isfinite().all()


def test_a_tower_without_a_class_token_has_none_to_drop() -> None:
    model, _ = VLMS["aya_vision"](vision_feature_select_strategy="default")
    with pytest.raises(SpecError, match="the first token is dropped"):
        swap_projector(model, "mlp")


@pytest.mark.parametrize("kept", [False, True])
@torch.no_grad
def test_perception_lm_keeps_its_class_token_if_it_says_so(kept: bool) -> None:
    model, processor = perception_lm(vision_use_cls_token=not kept)
    projector = swap_projector(model, "blip2", processor=processor, queries=3, depth=1)
    assert projector.spec.prefix_tokens == kept
    assert logits(model, processor).isfinite().all()


@torch.no_grad
def test_perception_lm_without_tiles() -> None:
    _, model, processor = _swapped("perception_lm")
    images, kwargs = pictures(WIDE), {"vision_input_type": "vanilla"}
    inputs = processor(images, [processor.image_token], **kwargs, return_tensors="pt")
    forecast = processor._get_num_multimodal_tokens([list(WIDE)], **kwargs)
    assert forecast.num_image_tokens == [_image_tokens(model, inputs)] == [5]
    assert model(**inputs).logits.isfinite().all()


def test_images_of_another_size_are_refused_with_the_processor() -> None:
    model, processor = fast_vlm()
    model.config.image_seq_length = 9
    message = (
        r"processor\.image_processor\.crop_size: images of 4x4 patches; expected 3x3, .*"
        r"\{'height': 192, 'width': 192\}"
    )
    with pytest.raises(ModelError, match=message):
        swap_projector(model, "mlp", processor=processor)
    assert type(model) is transformers.FastVlmForConditionalGeneration
    processor.image_processor.crop_size = {"height": 192, "width": 192}
    swap_projector(model, "mlp", processor=processor)
    assert _image_tokens(model, _one(processor, [SQUARE])) == 9
    assert logits(model, processor).isfinite().all()


def test_a_length_that_is_no_square_is_refused() -> None:
    model, _ = fast_vlm()
    model.config.image_seq_length = 15
    with pytest.raises(ModelError, match=r"config\.image_seq_length: 15; expected the tokens of"):
        swap_projector(model, "mlp")


def test_maps_enter_as_tokens() -> None:
    model, _ = got_ocr2()
    projector = swap_projector(model, "ldp")
    maps = torch.randn(2, 32, 6, 6)
    tokens = maps.flatten(2).transpose(1, 2)
    y = projector(maps)
    assert y.shape == (2, 9, 64)
    assert torch.equal(y, projector(tokens))
    wide = projector(maps[..., :4])  # a map says its grid
    assert torch.equal(wide, projector(maps[..., :4].flatten(2).transpose(1, 2), grid=(6, 4)))
