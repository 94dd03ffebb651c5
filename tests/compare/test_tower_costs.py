"""What vision towers cost, against small ones that transformers and timm build and run."""

import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.towers import FREE, QWEN2_5, SAM, SQUARE, STAGES, TOWERS, make, processed
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from mobilevlm import GridError, SpecError
from mobilevlm.compare.defaults import defaults_of
from mobilevlm.compare.vision import VisionCost, vision_cost
from mobilevlm.compare.vision_families import FAMILIES, REFUSED
from mobilevlm.projectors import tower_families
from mobilevlm.projectors.macs import count_macs
from mobilevlm.projectors.tower import read_tower

pytest.importorskip("transformers")
timm = pytest.importorskip("timm")

BY_HAND = "Give what it costs by hand: VisionCost(macs=191_000_000_000, tokens=576)."
# What stands inside a tower and is a projector's.
MERGER = r"(?:.*\.)?(?:merger|vision_adapter|(?:deepstack_)?merger_list\.\d+)"
CLIP_L = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}


@contextmanager
def counted(model: Any) -> Iterator[dict[str, int]]:
    # torch has no formula for the fused kernel of CPUs.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), count_macs(model) as macs:
        yield macs


def check(
    row: tuple[Any, ...], grid: tuple[int, int] | None = None, **changes: Any
) -> tuple[Any, VisionCost]:
    """Compare what is read of a small tower with what it holds and does."""
    file, name, values, *more = row
    model = make(file, name, {**values, "attn_implementation": "eager", **changes})
    tower = read_tower(model.config)
    h, w = grid or tower.grid or (4, 6)
    cost = vision_cost(model.config, (h, w))
    assert vision_cost(model.config.to_dict(), (h, w)) == cost
    assert tower.patch is not None
    image = torch.randn(1, 3, h * tower.patch[0], w * tower.patch[1])
    forward: Callable[[Any, Tensor], object] = more[0] if more else lambda model, x: model(x)
    with counted(model) as macs:
        forward(model, image)
    inside = sum(n for path, n in macs.items() if re.fullmatch(MERGER, path))
    assert cost.macs == macs[""] - inside
    parameters = [x for path, x in model.named_parameters() if not re.match(rf"{MERGER}\.", path)]
    assert cost.parameters == sum(x.numel() for x in parameters)
    assert cost.tokens == h * w
    return model, cost


CASES = [row for row in [*TOWERS, *FREE] if row[1] != "ViTMAEModel"]


@pytest.mark.quick(
    "CLIPVisionModel",
    "ConvNextModel",
    "GotOcr2VisionEncoder",
    "PixtralVisionModel",
    "Qwen2_5_VisionTransformerPretrainedModel",
    "SiglipVisionModel",
)
@pytest.mark.parametrize("row", CASES, ids=[row[1] for row in CASES])
def test_a_tower_costs_what_transformers_runs(row: tuple[Any, ...]) -> None:
    file, name, values, *_ = row
    kind = make(file, name, values).config.model_type
    if kind in FAMILIES:
        check(row)
        return
    with pytest.raises(SpecError) as caught:
        vision_cost({"model_type": kind}, (8, 8))
    found = f"a tower of type '{kind}', {REFUSED[kind]}, cannot be counted"
    assert str(caught.value) == f"tower: {found}. {BY_HAND}"


def test_vit_mae_is_counted_with_all_of_its_patches() -> None:
    row = next(row for row in TOWERS if row[1] == "ViTMAEModel")
    check((*row, lambda model, x: model(x, noise=torch.arange(16)[None])))


BEIT = next(row for row in TOWERS if row[1] == "BeitModel")
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "aimv2-without-head": ("Aimv2VisionModel", {"use_head": False, "qkv_bias": True}),
    "beit-shared": ("BeitModel", {"use_shared_relative_position_bias": True}),
    "beit-relative": (
        "BeitModel",
        {
            "use_relative_position_bias": True,
            "use_absolute_position_embeddings": True,
            "use_mask_token": True,
            "image_size": 32,
            "layer_scale_init_value": 0.0,
        },
    ),
    "data2vec-mean": ("Data2VecVisionModel", {"use_mean_pooling": False}),
    "dinov2-giant": ("Dinov2Model", {"use_swiglu_ffn": True}),
    "dinov3-gated": ("DINOv3ViTModel", {"use_gated_mlp": True, "key_bias": True}),
    "internvl-6b": (
        "InternVLVisionModel",
        {"norm_type": "rms_norm", "use_qk_norm": True, "attention_bias": True},
    ),
    "internvl-norm": ("InternVLVisionModel", {"use_mean_pooling": False, "use_mask_token": True}),
    "janus": ("JanusVisionModel", {"attention_bias": False}),
    "qwen2_5-everywhere": (
        "Qwen2_5_VisionTransformerPretrainedModel",
        {"fullatt_block_indexes": [0, 1]},
    ),
    "sam-plain": (
        "SamVisionModel",
        {"use_rel_pos": False, "use_abs_pos": False, "qkv_bias": False},
    ),
    "siglip-without-head": ("SiglipVisionModel", {"vision_use_head": False}),
    "vit-plain": ("ViTModel", {"qkv_bias": False}),
}


@pytest.mark.quick("siglip-without-head")
@pytest.mark.parametrize("name", OTHERS)
def test_so_do_other_settings(name: str) -> None:
    tower, changes = OTHERS[name]
    check(next(row for row in CASES if row[1] == tower), **changes)


def run_qwen(model: Any, image: Tensor) -> None:
    given = processed(image[0])
    model(given["pixel_values"], grid_thw=given["image_grid_thw"])


@pytest.mark.parametrize("grid", [(2, 2), (4, 6), (6, 10), (8, 4)])
def test_windows_at_the_border_are_smaller(grid: tuple[int, int]) -> None:
    """Qwen 2.5's: two by two merged patches here."""
    row = next(row for row in FREE if row[1].startswith("Qwen2_5_Vision"))
    _, cost = check((*row[:3], run_qwen), grid)
    alone = vision_cost({**QWEN2_5, "model_type": "qwen2_5_vl_vision"}, grid)
    assert alone == cost


@pytest.mark.parametrize("size", [32, 40, 64])
def test_windows_of_sam_are_padded(size: int) -> None:
    row = next(row for row in TOWERS if row[1] == "SamVisionModel")
    check(row, image_size=size, window_size=3, **{k: SAM[k] for k in ("global_attn_indexes",)})


def test_clip_l_of_336_pixels() -> None:
    assert vision_cost(CLIP_L) == VisionCost(
        macs=190_959_108_096, tokens=576, parameters=303_507_456
    )
    # Which reads the last layer but one, and yet runs all of them.
    llava = {"model_type": "llava", "vision_config": {**CLIP_L, "model_type": ""}}
    assert vision_cost(llava) == vision_cost(CLIP_L)
    twice = vision_cost(llava, (24, 48))
    assert twice.tokens == 1152
    assert 2 * 190_959_108_096 < twice.macs < 2.2 * 190_959_108_096
    assert twice.parameters == 303_507_456


@pytest.mark.quick("convnext_atto")
@pytest.mark.parametrize(
    "name",
    [
        *("convnext_atto", "fastvit_mci3", "resnet18", "swin_tiny_patch4_window7_224"),
        *("vit_large_patch14_clip_336", "vit_so400m_patch14_siglip_384"),
    ],
)
def test_a_model_of_timm_is_run(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0).eval()
    cost = vision_cost(model)
    image = torch.empty(1, *model.pretrained_cfg["input_size"], device="meta")
    with counted(model) as macs:
        model.forward_features(image)
    assert cost.macs == macs[""] > 0
    assert cost.parameters == sum(x.numel() for x in model.parameters())
    assert vision_cost(model, read_tower(model).grid) == cost
    if "clip" in name:
        assert cost == vision_cost(CLIP_L)


def test_a_model_of_timm_keeps_its_weights() -> None:
    model = timm.create_model("resnet18", num_classes=0)
    before = {key: x.clone() for key, x in model.state_dict().items()}
    small, large = vision_cost(model, (2, 3)), vision_cost(model, (4, 6))
    assert (small.tokens, large.tokens) == (6, 24)
    assert 3.9 < large.macs / small.macs < 4.1
    for key, x in model.state_dict().items():
        assert torch.equal(x, before[key])


def test_a_tower_of_a_whole_model_without_its_type() -> None:
    whole = {"model_type": "qwen2_5_vl", "vision_config": {**QWEN2_5, "model_type": "qwen2_5_vl"}}
    alone = {**QWEN2_5, "model_type": "qwen2_5_vl_vision"}
    assert vision_cost(whole, (4, 4)) == vision_cost(alone, (4, 4))


def test_what_is_written_by_hand_is_taken() -> None:
    given = BY_HAND[BY_HAND.index("VisionCost") : -1]
    cost = eval(given)
    assert vision_cost(cost) is cost
    assert (cost.macs, cost.tokens, cost.parameters) == (191_000_000_000, 576, None)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            read_tower(CLIP_L),
            "tower: a Tower does not say what it costs. Give its config in place of what "
            "read_tower made of it.",
        ),
        (
            {"model_type": "pixtral"},
            "tower: the tower takes images of any size. Give the grid of patches: grid=(24, 24).",
        ),
        (
            {"architecture": "vit_base_patch16_224", "num_features": 768},
            "tower: timm's config does not say which layers its tower has. Give timm's model "
            f"itself, with or without weights. {BY_HAND}",
        ),
        (
            {"model_type": "paligemma", "vision_config": {"model_type": "swin"}},
            "tower.vision_config: a tower of type 'swin', whose stages each have another form of "
            f"attention, cannot be counted. {BY_HAND}",
        ),
        (
            {"model_type": "dinov2", "mlp_ratio": "4"},
            f"tower.mlp_ratio: '4'; expected a number above 0, up to 64. {BY_HAND}",
        ),
        (
            {**STAGES, "model_type": "convnext", "depths": [1, 1]},
            f"tower.depths: [1, 1]; expected 4 numbers. {BY_HAND}",
        ),
        (
            {**SQUARE, "model_type": "vit", "num_hidden_layers": -1},
            f"tower.num_hidden_layers: -1; expected a number from 0 to 1024. {BY_HAND}",
        ),
    ],
)
def test_what_cannot_be_counted_is_refused(config: Any, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        vision_cost(config)
    assert str(caught.value) == message


def test_a_model_of_timm_that_does_not_take_the_size_is_refused() -> None:
    with torch.device("meta"):
        model = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1)
    with pytest.raises(SpecError) as caught:
        vision_cost(model, (3, 4))
    assert str(caught.value) == (
        "tower: it does not take images of 48x64 pixels. Give timm's model for that size."
    )


@pytest.mark.parametrize("grid", [(0, 4), 24, (4, 4, 4)])
def test_what_is_no_grid_is_refused(grid: Any) -> None:
    with pytest.raises(GridError, match="is not a grid"):
        vision_cost({"model_type": "clip_vision_model"}, grid)


def test_every_tower_that_is_read_is_counted_or_refused() -> None:
    assert {*FAMILIES, *REFUSED} == set(tower_families.TOWERS)
    assert not FAMILIES.keys() & REFUSED.keys()


@pytest.mark.quick("clip_vision_model", "qwen3_vl_vision", "siglip_vision_model")
@pytest.mark.parametrize("kind", FAMILIES)
def test_what_a_config_leaves_out_is_what_its_class_has(kind: str, tmp_path: Path) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = CONFIG_MAPPING[kind]()
    config.save_pretrained(tmp_path)
    expected = vision_cost(config, (8, 8))
    for source in ({"model_type": kind}, config.to_diff_dict(), tmp_path):
        assert vision_cost(source, (8, 8)) == expected


def test_whatever_stands_in_a_config_is_read_or_refused() -> None:
    values: list[Any] = [None, 0, 3, -1, 2**70, 1.5, float("nan"), "x", True, [], [0], [3, 4, 5]]
    values += [{}, [1] * 100, [7, 7], "patch0"]
    keys = sorted({key for kind in FAMILIES for key in defaults_of(kind)})
    draw = random.Random(0)
    read, places = 0, set()
    for _ in range(3000):
        config = {key: draw.choice(values) for key in draw.sample(keys, draw.randint(0, 4))}
        config["model_type"] = draw.choice([*FAMILIES])
        try:
            read += vision_cost(config, (5, 7)).macs > 0
        except SpecError as error:
            places.add(error.where.partition(".")[0])
    assert read > 500
    assert places <= {"tower", "token_order"}
