"""Small towers of transformers, and how each takes images."""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": (32, 48),
    "patch_size": 8,
}
SQUARE = {**SIZES, "image_size": 32}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4, "image_size": (64, 96)}
PVT = {**STAGES, "num_attention_heads": [1] * 4}
SWIN = {
    "embed_dim": 8,
    "depths": [1, 1],
    "num_heads": [1, 2],
    "window_size": 2,
    "image_size": (32, 48),
    "patch_size": 4,
}
HIERA = {
    "embed_dim": 8,
    "depths": [1, 1, 1],
    "num_heads": [1, 1, 1],
    "image_size": [64, 96],
    "patch_stride": [4, 4],
    "query_stride": [2, 2],
    "num_query_pool": 2,
    "masked_unit_size": [4, 4],
}
SAM = {
    **SQUARE,
    "initializer_range": 0.2,
    "output_channels": 16,
    "global_attn_indexes": [1],
    "mlp_dim": 64,
    "window_size": 2,
}

# The folder of the class, with its file if that has another name; the class; its config's values.
TOWERS: list[tuple[str, str, dict[str, Any]]] = [
    ("aimv2", "Aimv2VisionModel", SQUARE),
    ("altclip", "AltCLIPVisionModel", SQUARE),
    ("beit", "BeitModel", SIZES),
    ("blip", "BlipVisionModel", SQUARE),
    ("blip_2", "Blip2VisionModel", SQUARE),
    ("bridgetower", "BridgeTowerVisionModel", {**SQUARE, "hidden_size": 64}),
    ("chinese_clip", "ChineseCLIPVisionModel", SQUARE),
    ("clip", "CLIPVisionModel", SQUARE),
    ("clipseg", "CLIPSegVisionModel", SQUARE),
    ("convnext", "ConvNextModel", STAGES),
    ("convnextv2", "ConvNextV2Model", STAGES),
    ("data2vec.modeling_data2vec_vision", "Data2VecVisionModel", SIZES),
    ("deit", "DeiTModel", SQUARE),
    ("dinov2", "Dinov2Model", SQUARE),
    ("dinov2_with_registers", "Dinov2WithRegistersModel", {**SQUARE, "num_register_tokens": 3}),
    ("dinov3_convnext", "DINOv3ConvNextModel", STAGES),
    ("dinov3_vit", "DINOv3ViTModel", {**SIZES, "num_register_tokens": 4}),
    ("donut.modeling_donut_swin", "DonutSwinModel", SWIN),
    ("flava", "FlavaImageModel", SQUARE),
    ("focalnet", "FocalNetModel", SWIN),
    ("git", "GitVisionModel", SQUARE),
    ("got_ocr2", "GotOcr2VisionEncoder", SAM),
    ("hiera", "HieraModel", HIERA),
    ("idefics3", "Idefics3VisionTransformer", SQUARE),
    ("ijepa", "IJepaModel", SQUARE),
    ("instructblip", "InstructBlipVisionModel", SQUARE),
    ("internvl", "InternVLVisionModel", SQUARE),
    ("janus", "JanusVisionModel", SQUARE),
    ("kosmos2", "Kosmos2VisionModel", SQUARE),
    ("metaclip_2", "MetaClip2VisionModel", SQUARE),
    ("mlcd", "MLCDVisionModel", SQUARE),
    ("owlv2", "Owlv2VisionModel", SQUARE),
    ("owlvit", "OwlViTVisionModel", SQUARE),
    ("pvt", "PvtModel", {**PVT, "image_size": 64}),
    ("pvt_v2", "PvtV2Model", PVT),
    ("sam", "SamVisionModel", SAM),
    ("siglip", "SiglipVisionModel", SQUARE),
    ("smolvlm", "SmolVLMVisionTransformer", SQUARE),
    ("swin", "SwinModel", SWIN),
    ("swinv2", "Swinv2Model", SWIN),
    ("vit", "ViTModel", SQUARE),
    ("vit_mae", "ViTMAEModel", {**SQUARE, "mask_ratio": 0.0}),
    ("vit_msn", "ViTMSNModel", SQUARE),
    ("vitdet", "VitDetModel", SIZES),
]


def make(file: str, name: str, values: dict[str, Any]) -> Any:
    """Return a small random model of transformers."""
    module = file if "." in file else f"{file}.modeling_{file}"
    cls = getattr(importlib.import_module(f"transformers.models.{module}"), name)
    torch.manual_seed(0)
    return cls(cls.config_class(**values)).eval()


def pixtral(model: Any, x: Tensor) -> Tensor:
    return torch.stack([model(each[None], image_sizes=[each.shape[1:]])[0][0] for each in x])


def idefics2(model: Any, x: Tensor) -> Tensor:
    h, w = x.shape[2] // 8, x.shape[3] // 8
    return model(x, patch_attention_mask=torch.ones(len(x), h, w, dtype=torch.bool))[0]


def siglip2(model: Any, x: Tensor) -> Tensor:
    b, _, h, w = x.shape
    patches = x.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 4, 5, 1).reshape(b, -1, 192)
    shapes = torch.tensor([[h // 8, w // 8]]).repeat(b, 1)
    mask = torch.ones(patches.shape[:2], dtype=torch.long)
    return model(patches, pixel_attention_mask=mask, spatial_shapes=shapes)[0]


def qwen(model: Any, x: Tensor) -> Tensor:
    """Run Qwen's tower on what its own processor makes of images."""
    rows = []
    for each in x:
        given = processed(each)
        y = model(given["pixel_values"], grid_thw=given["image_grid_thw"]).last_hidden_state
        if hasattr(model, "permute_input_for_window_attn"):
            y = out_of_windows(model, y, given["image_grid_thw"])
        rows.append(y)
    return torch.stack(rows)


def processed(image: Tensor) -> Any:
    """Return what Qwen's processor makes of an image ``(3, h, w)``."""
    from transformers import Qwen2VLImageProcessor

    raw = {"do_resize": False, "do_rescale": False, "do_normalize": False}
    processor = Qwen2VLImageProcessor(patch_size=8, merge_size=2, temporal_patch_size=2, **raw)
    return processor(images=[image], return_tensors="pt")


def out_of_windows(model: Any, y: Tensor, grid_thw: Tensor) -> Tensor:
    """Put the tokens of Qwen 2.5's windows back, as the tower itself does after its merger."""
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import get_vision_window_index

    index, _ = get_vision_window_index(
        grid_thw, spatial_merge_size=2, window_size=model.window_size, patch_size=8
    )
    assert index.tolist() != sorted(index.tolist())
    return y.unflatten(0, (-1, 4))[index.argsort()].flatten(0, 1)


QWEN = {"depth": 2, "num_heads": 2, "patch_size": 8, "temporal_patch_size": 2}
QWEN2 = {**QWEN, "embed_dim": 32, "hidden_size": 48, "mlp_ratio": 2}
QWEN2_5 = {
    **QWEN,
    "hidden_size": 32,
    "intermediate_size": 64,
    "out_hidden_size": 48,
    "window_size": 32,
    "fullatt_block_indexes": [1],
}
QWEN3 = {
    **QWEN,
    "hidden_size": 32,
    "intermediate_size": 64,
    "out_hidden_size": 48,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0],
}

FREE: list[tuple[str, str, dict[str, Any], Callable[[Any, Tensor], Tensor]]] = [
    ("pixtral", "PixtralVisionModel", {**SQUARE, "image_size": 64}, pixtral),
    ("idefics2", "Idefics2VisionTransformer", {**SQUARE, "image_size": 64}, idefics2),
    ("siglip2", "Siglip2VisionModel", {**SQUARE, "num_patches": 16}, siglip2),
    ("qwen2_vl", "Qwen2VisionTransformerPretrainedModel", QWEN2, qwen),
    ("qwen2_5_vl", "Qwen2_5_VisionTransformerPretrainedModel", QWEN2_5, qwen),
    ("qwen2_5_omni", "Qwen2_5OmniVisionEncoder", QWEN2_5, qwen),
    ("qwen3_vl", "Qwen3VLVisionModel", QWEN3, qwen),
    ("qwen3_vl_moe", "Qwen3VLMoeVisionModel", QWEN3, qwen),
    ("qwen3_5", "Qwen3_5VisionModel", QWEN3, qwen),
    ("qwen3_5_moe", "Qwen3_5MoeVisionModel", QWEN3, qwen),
    ("qwen3_omni_moe", "Qwen3OmniMoeVisionEncoder", QWEN3, qwen),
]
