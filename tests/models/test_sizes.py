"""Hosts whose images have any size: each is projected with its own grid, and counted by it."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from helpers.vlms import CLIP, VLMS, logits, pictures, prompt, samples
from helpers.vlms_sizes import llava_pixtral, mistral3
from torch import Tensor

from mobilevlm import build_projector, fast_paths, load_projector
from mobilevlm.models import swap_projector
from mobilevlm.models.classes import config_class, model_class
from mobilevlm.models.errors import ModelError
from mobilevlm.models.hosts import find_host

pytestmark = pytest.mark.usefixtures("quiet")

HOSTS = ["lfm2_vl", "llava_pixtral", "mistral3"]
PACKED = ["llava_pixtral", "mistral3"]
# Square, wide, tall, and two that LFM2-VL cuts in tiles. In patches, one of Pixtral's is odd.
SIZES = [(48, 48), (40, 90), (130, 70), (300, 100), (200, 200)]
PROJECTORS: dict[str, tuple[Any, dict[str, Any]]] = {
    "mlp": ("mlp", {}),
    "ldp": ("ldp", {}),
    "internvl": ("internvl", {}),
    "c-abstractor": ("c-abstractor", {"queries": 4, "depth": 1, "hidden": 16}),
    "ldpnetv2": ("ldpnetv2", {"size": [2, 2]}),
    "newlines": ("oryx", {}),
    "blip2": ("blip2", {"queries": 5, "depth": 1, "width": 24, "heads": 2}),
}
CASES = [pytest.param(host, name, id=f"{host}-{name}") for host in HOSTS for name in PROJECTORS]


def swapped(host: str, name: str) -> Any:
    model, processor = VLMS[host]()
    spec, options = PROJECTORS[name]
    swap_projector(model, spec, processor=processor, **options)
    return model, processor


def batches(processor: Any) -> list[Any]:
    """Return one image for each prompt, and several for one."""
    singles = samples(processor, *([size] for size in SIZES))
    return [singles, samples(processor, SIZES[1:4], SIZES[:1])]


def pixels(batch: Any) -> dict[str, Any]:
    return {key: batch[key] for key in batch if key not in ("input_ids", "attention_mask")}


def features(model: Any, batch: Any) -> list[Tensor]:
    """Return what comes out for each image or tile."""
    return list(model.get_image_features(**pixels(batch)).pooler_output)


def grids_of(batch: Any) -> list[tuple[int, int]]:
    """Return the grid of each image or tile, read off what the image processor says."""
    if "spatial_shapes" in batch:
        return [(h, w) for h, w in batch.spatial_shapes.tolist()]
    return [(h // 8, w // 8) for h, w in batch.image_sizes.tolist()]


def tokens_of(model: Any, batch: Any) -> list[Tensor]:
    """Return the tower's tokens of each image or tile, without upstream's method."""
    given, grids = pixels(batch), grids_of(batch)
    y = model.model.vision_tower(**given).last_hidden_state
    counts = [h * w for h, w in grids]
    if "spatial_shapes" in batch:
        return [x[:n] for x, n in zip(y, counts, strict=True)]
    return list(y[0].split(counts))


# ---------------------------------------------------------------------------- parity


@pytest.mark.parametrize("host", HOSTS)
def test_models_own_projector_changes_nothing(host: str, tmp_path: Path) -> None:
    model, processor = VLMS[host]()
    before = batches(processor)
    counted = processor._get_num_multimodal_tokens(SIZES) if host in PACKED else None
    expected = [model(**batch).logits for batch in before]
    model.save_pretrained(tmp_path)
    swap_projector(model, load_projector(tmp_path), processor=processor)
    for first, second, y in zip(before, batches(processor), expected, strict=True):
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
        torch.testing.assert_close(model(**second).logits, y, rtol=0, atol=1e-6)
        with fast_paths(False):  # which sum in another order
            assert torch.equal(model(**second).logits, y)
    if counted is not None:
        assert processor._get_num_multimodal_tokens(SIZES) == counted


@pytest.mark.parametrize("layers", [[-1, 0], [1]])
def test_levels_of_the_tower_reach_the_projector(layers: list[int], tmp_path: Path) -> None:
    model, processor = llava_pixtral(vision_feature_layer=layers)
    batch = samples(processor, SIZES[:2], SIZES[2:3])
    expected = model(**batch).logits
    model.save_pretrained(tmp_path)
    projector = swap_projector(model, load_projector(tmp_path), processor=processor)
    assert projector.spec.in_ == 48 * len(layers)
    torch.testing.assert_close(model(**batch).logits, expected, rtol=0, atol=0)


@pytest.mark.quick(
    *(f"{host}-{name}" for host in HOSTS for name in ("ldp", "blip2")),
    *("lfm2_vl-c-abstractor", "llava_pixtral-internvl", "mistral3-newlines"),
)
@pytest.mark.parametrize(("host", "name"), CASES)
def test_each_image_is_projected_with_its_own_grid_and_counted(host: str, name: str) -> None:
    model, processor = swapped(host, name)
    projector = model.model.multi_modal_projector
    for batch in batches(processor):
        found, grids = features(model, batch), grids_of(batch)
        for x, grid, y in zip(tokens_of(model, batch), grids, found, strict=True):
            assert y.shape == (projector.tokens(*grid), 64)
            torch.testing.assert_close(y, projector(x[None], grid=grid)[0], rtol=1e-5, atol=1e-6)
        assert (batch.input_ids == processor.image_token_id).sum() == sum(map(len, found))
        assert model(**batch).logits.isfinite().all()
    around = len(processor.tokenizer(prompt(processor, 0)).input_ids)
    counted = processor._get_num_multimodal_tokens(SIZES)
    for i, size in enumerate(SIZES):
        batch = samples(processor, [size])
        assert batch.input_ids.shape == (1, counted.num_image_tokens[i] + around)
        assert len(grids_of(batch)) == counted.num_image_patches[i]


# ---------------------------------------------------------------------------- counts


@pytest.mark.parametrize("host", PACKED)
def test_rows_are_written_as_they_come_out(host: str) -> None:
    def written(name: str) -> str:
        _, processor = swapped(host, name)
        image = {"image_sizes": torch.tensor([[48, 96]])}
        text = processor.replace_image_token(image, 0)
        for token, letter in (("<image>", "i"), ("<break>", "/"), ("<end>", ".")):
            text = text.replace(token, letter)
        return text

    assert written("ldp") == "iiiiii/iiiiii/iiiiii."
    assert written("c-abstractor") == "ii/ii."
    assert written("newlines") == "/".join(["i" * 13] * 6) + "."
    assert written("blip2") == "iiiii."


@pytest.mark.parametrize(
    "options",
    [
        {"do_image_splitting": False},
        {"use_thumbnail": False},
        {"use_image_special_tokens": False},
        {"max_tiles": 2},
        {"min_tiles": 1, "max_tiles": 1},
        {"tile_size": 32, "min_image_tokens": 1, "max_image_tokens": 4},
        {"max_pixels_tolerance": 100.0},
    ],
)
def test_lfm2_counts_by_the_options_of_a_call(options: dict[str, Any]) -> None:
    _, processor = swapped("lfm2_vl", "ldp")
    around = len(processor.tokenizer(prompt(processor, 0)).input_ids)
    counted = processor._get_num_multimodal_tokens(SIZES, **options)
    for i, size in enumerate(SIZES):
        batch = processor(
            images=pictures(size), text=prompt(processor), return_tensors="pt", **options
        )
        assert batch.input_ids.shape == (1, counted.num_image_tokens[i] + around)
        assert len(batch.pixel_values) == counted.num_image_patches[i]


@pytest.mark.parametrize("host", PACKED)
def test_pixtral_counts_by_the_size_of_a_call(host: str) -> None:
    _, processor = swapped(host, "ldp")
    around = len(processor.tokenizer(prompt(processor, 0)).input_ids)
    size = {"size": {"longest_edge": 64}}
    counted = processor._get_num_multimodal_tokens(SIZES, **size)
    assert counted != processor._get_num_multimodal_tokens(SIZES)
    for image, n in zip(SIZES, counted.num_image_tokens, strict=True):
        batch = processor(
            images=pictures(image), text=prompt(processor), return_tensors="pt", **size
        )
        assert batch.input_ids.shape == (1, n + around)


@pytest.mark.parametrize("host", HOSTS)
def test_nothing_is_counted_without_images(host: str) -> None:
    _, processor = swapped(host, "mlp")
    assert processor._get_num_multimodal_tokens().num_image_tokens is None


@pytest.mark.parametrize(
    ("host", "spec", "sides"),
    [
        ("llava_pixtral", "mlp", 1),
        ("llava_pixtral", "internvl", 2),
        ("llava_pixtral", "granite-docling", 4),
        ("llava_pixtral", "c-abstractor", 1),  # for grids of 12x12 and more
        ("mistral3", "mlp", 2),  # as it was: images keep their sizes
        ("mistral3", "mistral3", 2),
        ("mistral3", "granite-docling", 4),
    ],
)
def test_processor_gives_images_sides_that_the_projector_takes(
    host: str, spec: str, sides: int
) -> None:
    model, processor = VLMS[host]()
    processor.image_processor.size = {"longest_edge": 192}
    swap_projector(model, spec, processor=processor)
    assert processor.spatial_merge_size == sides
    batch = samples(processor, *([size] for size in [(190, 190), (150, 180), (180, 100)]))
    assert not (batch.image_sizes % (8 * sides)).any()
    assert model(**batch).logits.isfinite().all()


# ---------------------------------------------------------------------------- generate, reload


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", ["ldp", "blip2"])
def test_generates_with_a_cache_as_without(host: str, name: str) -> None:
    model, processor = swapped(host, name)
    processor.tokenizer.padding_side = "left"
    batch = samples(processor, SIZES[1:3], SIZES[4:])
    bad = [[processor.image_token_id]]
    made = [
        model.generate(**batch, use_cache=use, max_new_tokens=5, do_sample=False, bad_words_ids=bad)
        for use in (True, False)
    ]
    assert torch.equal(*made)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", ["internvl", "blip2"])
def test_a_saved_folder_loads(host: str, name: str, tmp_path: Path) -> None:
    model, processor = swapped(host, name)
    expected = logits(model, processor, SIZES)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path)
    counter = transformers.AutoProcessor.from_pretrained(tmp_path)
    assert (type(again), type(counter)) == (type(model), type(processor))
    torch.testing.assert_close(logits(again.eval(), counter, SIZES), expected, rtol=0, atol=1e-6)
    counted = counter._get_num_multimodal_tokens(SIZES)
    assert counted == processor._get_num_multimodal_tokens(SIZES)
    core = transformers.AutoModel.from_pretrained(tmp_path).eval()
    batch = samples(counter, SIZES[:2])
    for x, y in zip(features(core, batch), features(model, batch), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-6)
    alone = load_projector(tmp_path)
    assert alone.spec == model.model.multi_modal_projector.spec


@pytest.mark.parametrize("host", HOSTS)
def test_a_copy_is_a_model_of_its_own(host: str) -> None:
    model, processor = swapped(host, "ldp")
    expected = logits(model, processor)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.model.multi_modal_projector.parameters():
            parameter.zero_()
    assert torch.equal(logits(other, processor), expected)
    assert not torch.equal(logits(model, processor), expected)


# ---------------------------------------------------------------------------- training


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", ["ldp", "blip2"])
def test_every_weight_of_the_projector_gets_a_gradient(host: str, name: str) -> None:
    model, processor = swapped(host, name)
    model.activation_checkpointing_enable()
    batch = samples(processor, SIZES[1:3], SIZES[4:])
    model.train()(**batch, labels=batch.input_ids).loss.backward()
    projector = model.model.multi_modal_projector
    grads = {name: p.grad for name, p in projector.named_parameters()}
    assert [name for name, grad in grads.items() if grad is None] == []
    assert sum(bool(grad.any()) for grad in grads.values()) > len(grads) / 2


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", ["ldp", "blip2"])
def test_a_batch_of_text_reaches_every_weight(host: str, name: str) -> None:
    model, processor = swapped(host, name)
    ids = processor.tokenizer(["what is it ?"], return_tensors="pt").input_ids
    model.train()(input_ids=ids, labels=ids).loss.backward()
    projector = model.model.multi_modal_projector
    assert all(p.grad is not None and not p.grad.any() for p in projector.parameters())


# ---------------------------------------------------------------------------- calls


@pytest.mark.parametrize("host", PACKED)
def test_features_come_as_upstream_returns_them(host: str) -> None:
    model, processor = swapped(host, "ldp")
    batch = samples(processor, SIZES[1:3])
    expected = features(model, batch)
    core = model.model
    found = core.get_image_features(**pixels(batch), return_dict=False)
    assert isinstance(found, tuple)
    assert all(map(torch.equal, found[-1], expected))
    sizes = [(int(h), int(w)) for h, w in batch.image_sizes]
    in_order = (sizes,) if host == "mistral3" else (-1, "full", sizes)
    found = core.get_image_features(batch.pixel_values, *in_order)
    assert all(map(torch.equal, found.pooler_output, expected))


def test_images_without_sizes_are_as_large_as_the_pixels() -> None:
    model, processor = swapped("llava_pixtral", "ldp")
    batch = samples(processor, SIZES[1:2], SIZES[1:2])
    found = model.get_image_features(batch.pixel_values).pooler_output
    assert all(map(torch.equal, found, features(model, batch)))
    del batch["image_sizes"]
    assert model(**batch).logits.isfinite().all()


def test_an_adapter_may_wrap_the_projector() -> None:
    model, processor = swapped("mistral3", "ldp")
    expected = logits(model, processor, SIZES)

    class Wrapper(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return self.inner(*args, **kwargs)

    model.model.multi_modal_projector = Wrapper(model.model.multi_modal_projector)
    assert torch.equal(logits(model, processor, SIZES), expected)


# ---------------------------------------------------------------------------- hosts, refusals


def test_llava_is_read_by_its_tower() -> None:
    pixtral, own = (find_host(make()[0].config) for make in (llava_pixtral, VLMS["llava"]))
    assert (pixtral.processor, own.processor) == ("PixtralProcessor", "LlavaProcessor")
    assert config_class(pixtral) is config_class(own)
    assert model_class(pixtral) is model_class(own)


def test_llavas_with_both_towers_are_saved_side_by_side(tmp_path: Path) -> None:
    for host in ("llava", "llava_pixtral"):
        model, processor = swapped(host, "ldp")
        expected = logits(model, processor)
        model.save_pretrained(tmp_path / host)
        processor.save_pretrained(tmp_path / host)
        again = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / host)
        counter = transformers.AutoProcessor.from_pretrained(tmp_path / host)
        assert type(counter) is type(processor)
        torch.testing.assert_close(logits(again.eval(), counter), expected, rtol=0, atol=1e-6)


def test_a_processor_of_the_other_tower_is_refused() -> None:
    model, _ = llava_pixtral()
    _, processor = VLMS["llava"]()
    with pytest.raises(ModelError, match=r"processor: a LlavaProcessor; expected a PixtralPr"):
        swap_projector(model, "ldp", processor=processor)
    assert type(model) is transformers.LlavaForConditionalGeneration


TABLES = {"in": 48, "out": 64, "blocks": [{"type": "position", "kind": "axes", "size": [6, 6]}]}
TABLES["blocks"].append("pointwise")


@pytest.mark.parametrize("host", HOSTS)
def test_a_projector_for_some_sizes_is_refused(host: str) -> None:
    model, processor = VLMS[host]()
    own = model.model.multi_modal_projector
    sides = "any multiple of 2" if host == "lfm2_vl" else "any number"
    grid = "26x34" if host == "lfm2_vl" else "13x17"
    message = (
        f"projector.blocks[0] (position): a grid of {grid}, but its tables are for 6x6; expected "
        f"a grid whose sides are {sides}, as the images of this model differ in size. It is given "
        f"{grid} x 48 by the input. 'ldp' and 'c-abstractor' are made for them."
    )
    with pytest.raises(ModelError, match=re.escape(message)):
        swap_projector(model, TABLES, processor=processor)
    assert model.model.multi_modal_projector is own
    assert not hasattr(model.config, "mobilevlm")


@pytest.mark.parametrize("host", HOSTS)
def test_a_projector_for_one_grid_is_refused(host: str) -> None:
    model, processor = VLMS[host]()
    learned = {"in": 48, "out": 64, "blocks": ["position", "pointwise"]}
    projector = build_projector(learned, grid=(6, 6))
    with pytest.raises(ModelError, match="weights that do not depend on the grid"):
        swap_projector(model, projector, processor=processor)
    assert not hasattr(model.config, "mobilevlm")


def test_lfm2_refuses_a_merge_that_its_sides_do_not_divide_by() -> None:
    model, processor = VLMS["lfm2_vl"]()
    message = r"grid of 26x34 does not divide into windows of 4x4; expected .* any multiple of 2"
    with pytest.raises(ModelError, match=message):
        swap_projector(model, "granite-docling", processor=processor)
    model, _ = mistral3(spatial_merge_size=3)
    assert swap_projector(model, "granite-docling").spec.in_ == CLIP["hidden_size"]
