"""Hosts that cut an image in tiles: what comes out of the projector is laid out and counted."""

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from helpers.vlms import CLIP, VLMS, samples
from helpers.vlms_anyres import llava_next, llava_next_video
from transformers.models.llava_next import modeling_llava_next

from mobilevlm import load_projector
from mobilevlm.models import swap_projector
from mobilevlm.models.errors import ModelError

pytestmark = pytest.mark.usefixtures("quiet")

HOSTS = ["llava_next", "llava_next_video", "llava_onevision"]
VIDEOS = HOSTS[1:]
# What upstream takes off a count for the class token, after it has called what we override.
DROPPED = {"llava_next": 1, "llava_next_video": 1, "llava_onevision": 0}
# One tile, wide, tall, many tiles (OneVision resizes these), and a canvas of odd sides.
SIZES = [(48, 48), (40, 200), (300, 50), (200, 190), (96, 180)]
# What comes out for a tile of 6x6: a grid as it came, others, one that is no square, a sequence.
WIDE = {"type": "patch-merge", "size": [2, 3]}
WIDE = {"in": 48, "out": 64, "blocks": [WIDE, "pointwise"]}
PROJECTORS: dict[str, tuple[Any, dict[str, Any]]] = {
    "mlp": ("mlp", {}),
    "ldp": ("ldp", {}),
    "internvl": ("internvl", {}),
    "c-abstractor": ("c-abstractor", {"queries": 4, "depth": 1, "hidden": 16}),
    "wide": (WIDE, {}),
    "blip2": ("blip2", {"queries": 5, "depth": 1}),
}
GRIDS = [name for name in PROJECTORS if name != "blip2"]


def swapped(host: str, name: str, **changes: Any) -> Any:
    model, processor = VLMS[host](**changes)
    spec, options = PROJECTORS[name]
    swap_projector(model, spec, processor=processor, **options)
    return model, processor


def alone(processor: Any) -> Any:
    """Return a batch of prompts with one image each, of all sizes."""
    return samples(processor, *([size] for size in SIZES))


def tiles_of(model: Any, size: tuple[int, int]) -> tuple[int, int]:
    """Return in how many rows and columns of tiles upstream cuts an image of this size."""
    count = modeling_llava_next.get_anyres_image_grid_shape
    return count(size, model.config.image_grid_pinpoints, model.config.vision_config.image_size)


def features_of(model: Any, m: int) -> list[torch.Tensor]:
    """Return for an image of each size m tokens for its base and for each of its tiles."""
    tiles = [math.prod(tiles_of(model, size)) for size in SIZES]
    return [torch.randn(1 + t, m, 64) for t in tiles]


def video(processor: Any, frames: int = 3) -> Any:
    pixels = np.random.default_rng(7).integers(1, 255, (frames, 48, 48, 3), dtype=np.uint8)
    text = f"{processor.video_token} what is it ?"
    return processor(videos=[pixels], text=[text], return_tensors="pt")


def own(model: Any, folder: Path) -> Any:
    model.save_pretrained(folder)
    return load_projector(folder)


# ---------------------------------------------------------------------------- parity


@pytest.mark.quick("llava_next-changes0", "llava_next_video-changes3", "llava_onevision-changes6")
@pytest.mark.parametrize(
    ("host", "changes"),
    [
        ("llava_next", {}),
        ("llava_next", {"vision_feature_layer": [-2, -1]}),
        ("llava_next", {"siglip": True, "vision_feature_select_strategy": "full"}),
        ("llava_next_video", {}),
        ("llava_onevision", {}),
        ("llava_onevision", {"vision_feature_layer": [-1, 1]}),
        ("llava_onevision", {"vision_aspect_ratio": "anyres_max_2"}),
    ],
)
def test_models_own_projector_changes_nothing(
    host: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    if changes.pop("siglip", False):
        tower = transformers.SiglipVisionConfig(**CLIP, vision_use_head=False)
        changes["vision_config"] = tower
    model, processor = VLMS[host](**changes)
    before = [alone(processor), samples(processor, SIZES[:3], SIZES[3:])]
    expected = [model(**batch).logits for batch in before]
    sizes = SIZES[1:3]
    counted = processor._get_num_multimodal_tokens(image_sizes=sizes)
    swap_projector(model, own(model, tmp_path), processor=processor)
    after = [alone(processor), samples(processor, SIZES[:3], SIZES[3:])]
    for first, second, y in zip(before, after, expected, strict=True):
        assert torch.equal(first.input_ids, second.input_ids)
        torch.testing.assert_close(model(**second).logits, y, rtol=0, atol=0)
    assert processor._get_num_multimodal_tokens(image_sizes=sizes) == counted


@pytest.mark.parametrize("host", VIDEOS)
def test_models_own_projector_changes_nothing_in_videos(host: str, tmp_path: Path) -> None:
    model, processor = VLMS[host]()
    before = video(processor)
    expected = model(**before).logits
    swap_projector(model, own(model, tmp_path), processor=processor)
    after = video(processor)
    assert torch.equal(before.input_ids, after.input_ids)
    torch.testing.assert_close(model(**after).logits, expected, rtol=0, atol=0)


def upstream_of_patch(host: str, patch: int) -> Any:
    """Return a model and a processor of upstream whose tower has patches of that side."""
    vision = {**CLIP, "patch_size": patch}
    kind = "Siglip" if host == "llava_onevision" else "CLIP"
    tower = getattr(transformers, f"{kind}VisionConfig")(**vision)
    model, processor = VLMS[host](vision_config=tower)
    processor.patch_size = patch
    if host == "llava_onevision":
        processor.num_image_tokens = (48 // patch) ** 2
    return model, processor


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize(("name", "patch"), [("ldp", 16), ("c-abstractor", 24)])
def test_grid_that_comes_out_is_laid_out_as_upstream_lays_out_a_towers(
    host: str, name: str, patch: int
) -> None:
    model, processor = swapped(host, name)
    other, counter = upstream_of_patch(host, patch)
    assert torch.equal(alone(processor).input_ids, alone(counter).input_ids)
    features = features_of(model, (48 // patch) ** 2)
    newline = torch.randn(64)
    arguments: dict[str, Any] = {"image_newline": newline}
    if host != "llava_onevision":
        arguments["vision_feature_select_strategy"] = "full"
    sizes = torch.tensor(SIZES)
    found, lengths = model.model.pack_image_features(features, sizes, **arguments)
    expected, expected_lengths = other.model.pack_image_features(features, sizes, **arguments)
    for y, z in zip(found, expected, strict=True):
        assert torch.equal(y, z)
    assert torch.equal(lengths, expected_lengths)


def test_grid_that_is_no_square_is_laid_out_tile_by_tile() -> None:
    model, processor = swapped("llava_onevision", "wide")
    newline = torch.full((64,), -1.0)
    for size, tiles in zip(SIZES, features_of(model, 6), strict=True):
        rows, columns = tiles_of(model, size)
        canvas = torch.empty(64, rows * 3, columns * 2)
        for row in range(rows):
            for column in range(columns):
                tile = tiles[1 + row * columns + column].reshape(3, 2, 64).movedim(-1, 0)
                canvas[:, row * 3 : row * 3 + 3, column * 2 : column * 2 + 2] = tile
        canvas = modeling_llava_next.unpad_image(canvas, size)
        _, h, w = canvas.shape
        if (ratio := math.sqrt(h * w / (9 * 3 * 2))) > 1.1:
            assert size == (200, 190)
            canvas = torch.nn.functional.interpolate(
                canvas[None], [int(h // ratio), int(w // ratio)], mode="bilinear"
            )[0]
        expected = [tiles[0]]
        for row in canvas.unbind(1):
            expected += [row.T, newline[None]]
        (found,), _ = model.model.pack_image_features(
            [tiles], [size], image_newline=newline, vision_aspect_ratio="anyres_max_9"
        )
        assert torch.equal(found, torch.cat(expected))
        assert processor._get_number_of_features(*size, 48, 48) == len(found)


@pytest.mark.parametrize("host", HOSTS)
def test_tokens_of_a_sequence_follow_each_other(host: str) -> None:
    model, processor = swapped(host, "blip2")
    features = features_of(model, 5)
    newline = torch.randn(64, requires_grad=True)
    found, lengths = model.model.pack_image_features(features, SIZES, image_newline=newline)
    for size, tiles, y in zip(SIZES, features, found, strict=True):
        assert torch.equal(y, torch.cat(list(tiles)))
        assert processor._get_number_of_features(*size, 48, 48) == len(y) + DROPPED[host]
    assert lengths.tolist() == [len(y) for y in found]
    torch.cat(found).sum().backward()
    assert newline.grad is not None
    assert not newline.grad.any()


# ---------------------------------------------------------------------------- counts


@pytest.mark.quick(
    "llava_next-ldp",
    "llava_next-blip2",
    "llava_onevision-wide",
    "llava_onevision-blip2",
    "llava_next_video-ldp",
)
@pytest.mark.parametrize(
    ("host", "name"),
    [
        *itertools.product(["llava_next", "llava_onevision"], PROJECTORS),
        *itertools.product(["llava_next_video"], ["ldp", "blip2"]),
    ],
)
def test_prompts_hold_what_comes_out(host: str, name: str) -> None:
    model, processor = swapped(host, name)
    batch = alone(processor)
    features = model.model.get_image_features(batch.pixel_values, batch.image_sizes).pooler_output
    found = [len(tokens) for tokens in features]
    assert (batch.input_ids == processor.image_token_id).sum(-1).tolist() == found
    counted = processor._get_num_multimodal_tokens(image_sizes=SIZES)
    assert counted.num_image_tokens == found
    several = samples(processor, SIZES[:3], SIZES[3:])
    y = model(**several).logits
    assert y.shape[1] == several.input_ids.shape[1]
    if host == "llava_onevision":  # which does not cut images that are not alone
        one = model.model.multi_modal_projector.tokens(6, 6) + (name in GRIDS)
        counts = (several.input_ids == processor.image_token_id).sum(-1).tolist()
        assert counts == [3 * one, 2 * one]


@pytest.mark.parametrize("host", HOSTS)
def test_class_token_is_dropped_once(host: str) -> None:
    """By the model ("default") or by the projector ("full"); upstream takes the first only."""
    batches, outputs = [], []
    for strategy in ("default", "full"):
        torch.manual_seed(0)
        model, processor = VLMS[host](
            vision_config=transformers.CLIPVisionConfig(**CLIP),
            vision_feature_select_strategy=strategy,
        )
        projector = swap_projector(model, "ldp", processor=processor)
        assert projector.spec.prefix_tokens == (strategy == "full")
        batches.append(alone(processor))
        outputs.append(model(**batches[-1]).logits)
    assert torch.equal(batches[0].input_ids, batches[1].input_ids)
    assert torch.equal(*outputs)


def test_tokens_of_many_tiles_are_limited_by_area() -> None:
    counts = {}
    for ratio in ("anyres_max_9", "anyres_max_4"):
        model, processor = swapped("llava_onevision", "ldp", vision_aspect_ratio=ratio)
        batch = samples(processor, [(192, 192)])
        model(**batch)
        counts[ratio] = int((batch.input_ids == processor.image_token_id).sum())
    # 12x12 of 4x4 tiles, resized to 9x9 or 6x6 with newlines, after a base of 9.
    assert counts == {"anyres_max_9": 9 + 9 * 10, "anyres_max_4": 9 + 6 * 7}


@pytest.mark.parametrize("host", VIDEOS)
@pytest.mark.parametrize("name", PROJECTORS)
def test_videos_are_counted_or_refused(host: str, name: str) -> None:
    model, processor = swapped(host, name)
    refused = {"llava_onevision": ["blip2"], "llava_next_video": ["internvl", "wide"]}[host]
    if name in refused:
        with pytest.raises(ModelError, match=r"processor: a video; expected images: the model"):
            video(processor)
        counted = processor._get_num_multimodal_tokens(video_sizes=[(3, 48, 48)])
        assert counted.num_video_tokens is None
        return
    batch = video(processor)
    features = model.model.get_video_features(batch.pixel_values_videos).pooler_output
    count = int((batch.input_ids == processor.video_token_id).sum())
    assert count == features[0].shape[0]
    counted = processor._get_num_multimodal_tokens(video_sizes=[(3, 48, 48), (1, 48, 48)])
    assert counted.num_video_tokens[0] == count
    assert model(**batch).logits.shape[1] == batch.input_ids.shape[1]


def test_videos_are_pooled_on_the_grid_that_comes_out() -> None:
    model, _ = swapped("llava_onevision", "wide")
    frames = torch.randn(2, 6, 64)
    maps = frames.reshape(2, 3, 2, 64).permute(0, 3, 1, 2)
    pooled = torch.nn.functional.interpolate(maps, size=(2, 1), mode="bilinear")
    expected = pooled.flatten(2).transpose(1, 2)
    torch.testing.assert_close(model.model.apply_pooling(frames), expected)


REFUSALS = {
    ("llava_onevision", "blip2"): (
        "processor: a video; expected images: the model pools the frames of a video on the grid "
        "that comes out of its projector, and a sequence comes out of this one. Give the frames "
        "as images; each tile takes 5 tokens."
    ),
    ("llava_next_video", "internvl"): (
        "processor: a video; expected images: the model pools the frames of a video to 3x3 before "
        "its projector, and blocks[0] (patch-merge) refuses a grid of 3x3 does not divide into "
        "windows of 2x2. Give the frames as images; each tile takes 9 tokens."
    ),
}


@pytest.mark.parametrize(("host", "name"), REFUSALS)
def test_refusal_of_a_video_names_what_works(host: str, name: str) -> None:
    model, processor = swapped(host, name)
    with pytest.raises(ModelError) as refused:
        video(processor)
    assert str(refused.value) == REFUSALS[host, name]
    batch = samples(processor, [(48, 48)] * 3)
    assert model(**batch).logits.shape[1] == batch.input_ids.shape[1]


def test_video_is_refused_for_positions_of_a_whole_image() -> None:
    model, processor = llava_next_video()
    options = {"queries": 4, "depth": 1, "hidden": 16, "position": True}
    swap_projector(model, "c-abstractor", processor=processor, **options)
    batch = alone(processor)
    assert model(**batch).logits.shape[1] == batch.input_ids.shape[1]
    with pytest.raises(ModelError, match="whose learned positions are those of a whole image"):
        video(processor)


def test_model_refuses_a_video_that_has_no_grid() -> None:
    model, _ = swapped("llava_onevision", "blip2")
    with pytest.raises(ModelError, match="what comes out has no grid"):
        model.model.get_video_features(torch.randn(1, 2, 3, 48, 48))


# ---------------------------------------------------------------------------- swapping

PAIRS = [("llava_next", "ldp"), ("llava_next_video", "blip2"), ("llava_onevision", "internvl")]


def test_tower_of_images_that_are_no_squares_is_refused() -> None:
    model, processor = llava_next()
    model.config.vision_config.image_size = [48, 96]
    with pytest.raises(ModelError) as refused:
        swap_projector(model, "ldp", processor=processor)
    assert str(refused.value).startswith(
        "config.vision_config: a clip_vision_model of image_size [48, 96], whose grid is (6, 12); "
        "expected a vision tower of square images of one size"
    )
    assert type(model) is transformers.LlavaNextForConditionalGeneration
    assert type(processor) is transformers.LlavaNextProcessor


def test_copy_finds_a_projector_that_is_wrapped() -> None:
    model, processor = swapped("llava_next", "wide")
    model.model.multi_modal_projector = torch.nn.Sequential(model.model.multi_modal_projector)
    batch = samples(processor, [(200, 190)])
    expected = model(**batch).logits
    torch.testing.assert_close(copy.deepcopy(model)(**batch).logits, expected)


def test_second_swap_replaces_the_first() -> None:
    model, processor = swapped("llava_onevision", "wide")
    swap_projector(model, "blip2", processor=processor, queries=5, depth=1)
    fresh, counter = swapped("llava_onevision", "blip2")
    batch = alone(processor)
    assert torch.equal(batch.input_ids, alone(counter).input_ids)
    assert model(**batch).logits.shape == fresh(**batch).logits.shape


@pytest.mark.parametrize(("host", "name"), PAIRS)
def test_saved_model_comes_back(host: str, name: str, tmp_path: Path) -> None:
    model, processor = swapped(host, name)
    expected = model(**alone(processor)).logits
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    counter = transformers.AutoProcessor.from_pretrained(tmp_path)
    torch.testing.assert_close(again(**alone(counter)).logits, expected, rtol=0, atol=1e-6)
    if host in VIDEOS:
        batch = video(counter)
        torch.testing.assert_close(
            again(**batch).logits, model(**video(processor)).logits, rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("host", ["llava_next", "llava_onevision"])
def test_copy_packs_by_its_own_config(host: str) -> None:
    model, processor = swapped(host, "ldp")
    batch = samples(processor, [(200, 190)])
    expected = model(**batch).logits
    other = copy.deepcopy(model)
    torch.testing.assert_close(other(**batch).logits, expected)
    core = copy.deepcopy(model.model)
    for owner in (other.model, core):
        assert owner.pack_image_features.args[0] is owner


@pytest.mark.parametrize(("host", "name"), PAIRS)
def test_generation_with_a_cache_gives_the_same(host: str, name: str) -> None:
    model, processor = swapped(host, name)
    batch = samples(processor, [(40, 200), (48, 48)], [(200, 190)])
    special = [[processor.image_token_id], [processor.tokenizer.video_token_id]]
    options = {"max_new_tokens": 4, "do_sample": False, "bad_words_ids": special}
    texts = [model.generate(**batch, **options, use_cache=cached) for cached in (True, False)]
    assert torch.equal(*texts)


@pytest.mark.parametrize(("host", "name"), PAIRS)
def test_training_reaches_projector_and_newline(host: str, name: str) -> None:
    model, processor = swapped(host, name)
    model.activation_checkpointing_enable()
    batch = alone(processor)
    model.train()(**batch, labels=batch.input_ids).loss.backward()
    missing = [
        name
        for name, p in model.model.multi_modal_projector.named_parameters()
        if p.grad is None or not p.grad.any()
    ]
    assert missing == []
    assert model.model.image_newline.grad is not None
    assert model.model.image_newline.grad.any() == (name in GRIDS)
