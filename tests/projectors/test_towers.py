"""`tower=` and `lm=`: what is read off a config, against the forward of the model it is of."""

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.towers import (
    FREE,
    QWEN2,
    QWEN2_5,
    QWEN3,
    SAM,
    SQUARE,
    TOWERS,
    make,
    out_of_windows,
    processed,
)
from torch import Tensor, nn

from mobilevlm.projectors.tower import Tower, read_tower, read_width

pytest.importorskip("transformers")
timm = pytest.importorskip("timm")


def read_everywhere(model: Any, folder: Path) -> Tower:
    """Return what is read off a model, which is the same off its config in every form."""
    tower = read_tower(model.config)
    model.config.save_pretrained(folder)
    for config in (model, model.config.to_dict(), folder, str(folder / "config.json")):
        assert read_tower(config) == tower
    return tower


def tokens_of(y: Tensor) -> Tensor:
    """Return the tokens ``(b, n, c)`` of a feature, which may be a map."""
    return y.flatten(2).transpose(1, 2) if y.ndim == 4 else y


def place(tower: Tower, row: int, column: int, columns: int) -> int:
    """Return which token is the patch in this row and column."""
    if tower.token_order == "raster":
        return tower.prefix_tokens + row * columns + column
    block = (row // 2) * (columns // 2) + column // 2
    return tower.prefix_tokens + 4 * block + 2 * (row % 2) + column % 2


@torch.no_grad()
def check(
    tower: Tower, grid: tuple[int, int], forward: Callable[[Tensor], Tensor], near: int = 0
) -> None:
    """Compare what is read with a forward: the shape, and where a patch's token stands.

    Args:
        tower: What is read.
        grid: The patches of the image to take.
        forward: Returns tokens ``(b, n, c)`` of images.
        near: How far convolutions at the end carry what is in a patch.
    """
    assert tower.patch is not None
    (h, w), (down, right) = grid, tower.patch
    image = torch.randn(1, 3, h * down, w * right)
    plain = forward(image)
    assert plain.shape == (1, tower.prefix_tokens + h * w, tower.channels)
    for row, column in ((0, w - 1), (h - 1, 0), (1, 1)):
        others = image.repeat(8, 1, 1, 1)
        patch = others[..., row * down : (row + 1) * down, column * right : (column + 1) * right]
        patch += 3 * torch.randn_like(patch)
        changed = (forward(others) - plain).norm(dim=-1).mean(0).argmax()
        around = [
            place(tower, y, x, w)
            for y in range(max(row - near, 0), min(row + near + 1, h))
            for x in range(max(column - near, 0), min(column + near + 1, w))
        ]
        assert changed in around, (row, column)


@pytest.mark.quick(
    "BeitModel",
    "CLIPVisionModel",
    "ConvNextModel",
    "Dinov2WithRegistersModel",
    "GotOcr2VisionEncoder",
    "HieraModel",
    "InternVLVisionModel",
    "SiglipVisionModel",
    "SwinModel",
    "ViTModel",
)
@pytest.mark.parametrize(("file", "name", "values"), TOWERS, ids=[name for _, name, _ in TOWERS])
def test_a_tower_of_transformers(
    file: str, name: str, values: dict[str, Any], tmp_path: Path
) -> None:
    model = make(file, name, values)
    tower = read_everywhere(model, tmp_path)
    assert tower.grid is not None
    more: dict[str, Any] = {}

    def forward(x: Tensor) -> Tensor:
        if name == "ViTMAEModel":  # which else shuffles the patches
            more["noise"] = torch.arange(x[0, 0].numel() // 64).repeat(len(x), 1)
        y = model(x, **more)
        if name == "BridgeTowerVisionModel":  # which returns every level
            return y[-1]
        return tokens_of(y if isinstance(y, Tensor) else y[0])

    near = 1 if values is SAM or name == "PvtV2Model" else 0
    check(tower, tower.grid, forward, near)
    takes = inspect.signature(type(model).forward).parameters
    if "interpolate_pos_encoding" in takes and tower.grid[0] == tower.grid[1]:
        more["interpolate_pos_encoding"] = True
        check(tower, (4, 6), forward)


@pytest.mark.quick(
    "PixtralVisionModel", "Siglip2VisionModel", "Qwen2_5_VisionTransformerPretrainedModel"
)
@pytest.mark.parametrize(
    ("file", "name", "values", "forward"), FREE, ids=[name for _, name, *_ in FREE]
)
def test_a_tower_of_images_of_any_size(
    file: str,
    name: str,
    values: dict[str, Any],
    forward: Callable[[Any, Tensor], Tensor],
    tmp_path: Path,
) -> None:
    model = make(file, name, values)
    tower = read_everywhere(model, tmp_path)
    assert tower.grid is None
    check(tower, (4, 6), lambda x: forward(model, x))
    check(tower, (4, 8), lambda x: forward(model, x))


def test_mllama_joins_levels_and_keeps_a_class_token_per_tile(tmp_path: Path) -> None:
    values = {**SQUARE, "attention_heads": 2, "num_global_layers": 1}
    values |= {"intermediate_layers_indices": [0, 1], "vision_output_dim": 96}
    model = make("mllama", "MllamaVisionModel", values)
    tower = read_everywhere(model, tmp_path)
    assert tower.grid == (4, 4)

    def forward(x: Tensor) -> Tensor:
        tiles = x[:, None, None].expand(-1, 1, 4, -1, -1, -1)
        first = torch.tensor([[[1, 0, 0, 0]]]).repeat(len(x), 1, 1)
        ids = torch.ones(len(x), 1, dtype=torch.long)
        y = model(tiles, aspect_ratio_ids=ids, aspect_ratio_mask=first)
        return y.last_hidden_state[:, 0, 0]

    check(tower, tower.grid, forward)


def test_llama4_is_read_before_its_own_shuffle() -> None:
    values = {**SQUARE, "pixel_shuffle_ratio": 0.5, "projector_input_dim": 48}
    values |= {"projector_output_dim": 48, "vision_output_dim": 48}
    model = make("llama4", "Llama4VisionModel", values)
    tower = read_tower(model.config)
    assert tower.grid == (4, 4)
    model.vision_adapter = nn.Identity()
    check(tower, tower.grid, lambda x: model(x).last_hidden_state)


TEXT = {
    "model_type": "llama",
    "hidden_size": 40,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 20,
    "vocab_size": 64,
    "pad_token_id": 0,
}
MROPE = {"rope_type": "default", "mrope_section": [2, 4, 4]}
TEXT_TYPES = {"paligemma": "gemma", "gemma3": "gemma3_text"}
CLIP = {**SQUARE, "model_type": "clip_vision_model", "num_hidden_layers": 3}
SIGLIP = {**SQUARE, "model_type": "siglip_vision_model", "vision_use_head": False}
PE = {"embed_dim": 32, "depth": 1, "num_heads": 2, "img_size": [64, 64], "ref_feat_shape": [4, 4]}
PE_TINY = {
    "model_type": "timm_wrapper",
    "architecture": "vit_pe_core_tiny_patch16_384",
    "model_args": {**PE, "global_pool": ""},
}
PE_GIGANTIC = {
    "model_type": "timm_wrapper",
    "architecture": "vit_pe_core_gigantic_patch14_448",
    "model_args": {**PE, "img_size": [56, 56], "global_pool": ""},
}
FASTVIT = {
    "model_type": "timm_wrapper",
    "architecture": "fastvit_mci3",
    "hidden_size": 64,
    "model_args": {"layers": [1] * 5, "embed_dims": [32] * 5},
}

# The folder, the class, the vision config, more of the config, and where the projector stands.
HOSTS: list[tuple[str, str, dict[str, Any], dict[str, Any], str]] = [
    ("llava", "Llava", CLIP, {}, ""),
    ("llava", "Llava", CLIP, {"vision_feature_layer": [-1, -2]}, ""),
    ("llava", "Llava", CLIP, {"vision_feature_select_strategy": "full"}, ""),
    ("vipllava", "VipLlava", CLIP, {"vision_feature_layer": [-1, -2, 1]}, ""),
    ("llava_next", "LlavaNext", CLIP, {"image_grid_pinpoints": [[32, 32]]}, ""),
    ("llava_next_video", "LlavaNextVideo", CLIP, {"image_grid_pinpoints": [[32, 32]]}, ""),
    ("llava_onevision", "LlavaOnevision", SIGLIP, {"image_grid_pinpoints": [[32, 32]]}, ""),
    ("paligemma", "PaliGemma", SIGLIP, {"projection_dim": 40}, ""),
    ("gemma3", "Gemma3", SIGLIP, {"mm_tokens_per_image": 4}, ""),
    ("internvl", "InternVL", {**SQUARE, "model_type": "internvl_vision"}, {}, "pixel_shuffle"),
    ("idefics3", "Idefics3", {**SQUARE, "model_type": "idefics3_vision"}, {}, "connector"),
    ("smolvlm", "SmolVLM", {**SQUARE, "model_type": "smolvlm_vision"}, {}, "connector"),
    ("mistral3", "Mistral3", {**SQUARE, "model_type": "pixtral"}, {}, ""),
    ("aya_vision", "AyaVision", SIGLIP, {}, ""),
    ("cohere2_vision", "Cohere2Vision", SIGLIP, {"alignment_intermediate_size": 64}, ""),
    ("lfm2_vl", "Lfm2Vl", {**SQUARE, "model_type": "siglip2_vision_model"}, {}, ""),
    ("got_ocr2", "GotOcr2", SAM, {}, ""),
    ("perception_lm", "PerceptionLM", PE_TINY, {}, ""),
    ("perception_lm", "PerceptionLM", PE_GIGANTIC, {"vision_use_cls_token": False}, ""),
    ("fast_vlm", "FastVlm", FASTVIT, {}, ""),
    ("video_llava", "VideoLlava", CLIP, {}, ""),
    ("qwen2_vl", "Qwen2VL", QWEN2, {}, "visual.merger"),
    ("qwen2_5_vl", "Qwen2_5_VL", QWEN2_5, {}, "visual.merger"),
    ("qwen3_vl", "Qwen3VL", QWEN3, {}, "visual.merger"),
    ("qwen3_vl_moe", "Qwen3VLMoe", QWEN3, {}, "visual.merger"),
]


def host(file: str, name: str, vision: dict[str, Any], more: dict[str, Any]) -> Any:
    """Return a small random vision-language model of transformers, without its head."""
    text = {**TEXT, "model_type": TEXT_TYPES.get(file, "llama")}
    if file.startswith("qwen"):
        text |= {"model_type": f"{file}_text", "rope_parameters": MROPE}
    module = importlib.import_module(f"transformers.models.{file}.modeling_{file}")
    cls = getattr(module, f"{name}Model")
    torch.manual_seed(0)
    return cls(cls.config_class(vision_config=vision, text_config=text, **more)).eval()


def image_inputs(file: str, x: Tensor) -> dict[str, Any]:
    """Return one image ``(3, h, w)`` as a model takes it."""
    _, h, w = x.shape
    size = torch.tensor([[h, w]])
    if file in ("llava_next", "llava_next_video", "llava_onevision"):  # a small view and one tile
        return {"pixel_values": torch.stack([x, x])[None], "image_sizes": size}
    if file in ("idefics3", "smolvlm", "perception_lm"):
        return {"pixel_values": x[None, None]}
    if file == "mistral3":
        return {"pixel_values": x[None], "image_sizes": size}
    if file == "lfm2_vl":
        patches = x.unfold(1, 8, 8).unfold(2, 8, 8).permute(1, 2, 3, 4, 0).reshape(1, -1, 192)
        mask = torch.ones(patches.shape[:2], dtype=torch.long)
        return {
            "pixel_values": patches,
            "spatial_shapes": size // 8,
            "pixel_attention_mask": mask,
        }
    if file.startswith("qwen"):
        made = processed(x)
        return {"pixel_values": made["pixel_values"], "image_grid_thw": made["image_grid_thw"]}
    return {"pixel_values_images" if file == "video_llava" else "pixel_values": x[None]}


@pytest.mark.quick(
    "llava-full",
    "vipllava-[-1, -2, 1]",
    "gemma3-4",
    "idefics3-",
    "mistral3-",
    "got_ocr2-",
    "perception_lm-False",
    "qwen3_vl-",
)
@pytest.mark.parametrize(
    ("file", "name", "vision", "more", "slot"),
    HOSTS,
    ids=[f"{file}-{'-'.join(map(str, more.values()))}" for file, _, _, more, _ in HOSTS],
)
def test_what_reaches_the_projector_of_a_whole_model(
    file: str,
    name: str,
    vision: dict[str, Any],
    more: dict[str, Any],
    slot: str,
    tmp_path: Path,
) -> None:
    model = host(file, name, vision, more)
    tower = read_everywhere(model, tmp_path)
    assert read_width(model) == read_width(tmp_path) == 40
    seen: list[Tensor] = []
    if slot == "pixel_shuffle":
        whole = model.pixel_shuffle
        model.pixel_shuffle = lambda x, **kwargs: seen.append(x) or whole(x, **kwargs)
    else:
        projector = model.get_submodule(slot or "multi_modal_projector")
        projector.register_forward_pre_hook(lambda _, args: seen.append(args[0]))

    def forward(images: Tensor) -> Tensor:
        ys = []
        for x in images:
            seen.clear()
            inputs = image_inputs(file, x)
            model.get_image_features(**inputs)
            y = seen[0]
            if file == "qwen2_5_vl":
                y = out_of_windows(model.visual, y, inputs["image_grid_thw"])
            if file == "got_ocr2":  # a map
                y = tokens_of(y)
            ys.append(y.flatten(0, -2) if len(y) == 1 or y.ndim == 2 else y[0])
        return torch.stack(ys)

    grid = tower.grid or (2, 2) if file == "fast_vlm" else tower.grid or (4, 6)
    check(tower, grid, forward, 1 if file in ("got_ocr2", "fast_vlm") else 0)


VIT = {"embed_dim": 48, "depth": 1, "num_heads": 2, "img_size": (64, 96)}
TIMM: list[tuple[str, dict[str, Any]]] = [
    ("beit_base_patch16_224", VIT),
    ("convnext_atto", {"depths": [1] * 4, "dims": [8, 16, 24, 32]}),
    ("deit_tiny_distilled_patch16_224", VIT),
    ("mobilenetv4_conv_small_035", {}),
    ("eva02_tiny_patch14_224", {**VIT, "img_size": (56, 84)}),
    ("fastvit_mci3", {"layers": [1] * 5, "embed_dims": [32] * 5}),
    ("mobilenetv3_small_050", {}),
    ("resnet18", {}),
    ("samvit_base_patch16", {**VIT, "img_size": 64, "global_attn_indexes": [0]}),
    (
        "swin_tiny_patch4_window7_224",
        {"embed_dim": 8, "depths": [1] * 4, "num_heads": [1] * 4, "img_size": (64, 96)},
    ),
    ("vit_base_patch14_reg4_dinov2", {**VIT, "img_size": (56, 84)}),
    ("vit_base_patch16_siglip_224", VIT),
    ("vit_medium_patch16_gap_240", VIT),
    ("vit_pe_core_gigantic_patch14_448", {**VIT, "img_size": (56, 84)}),
    ("vit_pe_core_tiny_patch16_384", VIT),
    ("vit_small_patch16_dinov3", VIT),
    ("vit_so150m_patch16_reg4_gap_256", VIT),
    ("vit_tiny_patch16_224", VIT),
]


@pytest.mark.quick(
    "convnext_atto",
    "deit_tiny_distilled_patch16_224",
    "resnet18",
    "vit_base_patch14_reg4_dinov2",
    "vit_tiny_patch16_224",
)
@pytest.mark.parametrize(("name", "values"), TIMM, ids=[name for name, _ in TIMM])
def test_a_tower_of_timm(name: str, values: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0, **values).eval()
    tower = read_tower(model)
    is_map = not hasattr(model, "num_prefix_tokens")

    def forward(x: Tensor) -> Tensor:
        y = model.forward_features(x)
        return y.flatten(1, 2) if getattr(model, "output_fmt", "") == "NHWC" else tokens_of(y)

    if "img_size" in values:
        assert tower.grid is not None
        check(tower, tower.grid, forward, near=is_map)
    else:
        check(tower, (2, 3), forward, near=2)
        assert tower.grid == tuple(model.pretrained_cfg["pool_size"])
    timm.models._hub.save_config_for_hf(model, str(tmp_path / "config.json"))
    assert read_tower(tmp_path) == tower
