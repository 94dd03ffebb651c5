"""Which parts the vision towers of transformers have, by their model type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from ..blocks.core.feature import Grid
from ..projectors.model_config import ModelConfig
from .parts import Part, norm
from .vision_layers import (
    Count,
    Vit,
    Work,
    attention_pool,
    convnext,
    gated,
    map_head,
    pooler,
    sam,
    swiglu,
    two,
    two_by_ratio,
    width_of,
    windows,
)

__all__ = ["FAMILIES", "REFUSED"]


def _of_width(config: ModelConfig) -> Part:
    return norm(width_of(config))


def _mask_token(config: ModelConfig) -> Part:
    return _of_width(config) if config.get("use_mask_token") else Part()


def _unless_mean(config: ModelConfig) -> Part:
    """Return the last norm of towers that have none if they average their tokens."""
    last = Part() if config.get("use_mean_pooling") else norm(width_of(config), True)
    return last + _mask_token(config)


def _table(config: ModelConfig) -> Part:
    """Return BEiT's table of relative positions."""
    (h, w), (down, right) = config.sides("image_size"), config.sides("patch_size")
    places = (2 * (h // down) - 1) * (2 * (w // right) - 1) + 3
    return norm(places) * config.width("num_attention_heads")


def _beit_inside(config: ModelConfig) -> Part:
    return _table(config) if config.get("use_relative_position_bias") else Part()


def _beit_outside(config: ModelConfig) -> Part:
    shared = config.get("use_shared_relative_position_bias")
    return _mask_token(config) + _table(config) if shared else _mask_token(config)


def _data2vec_outside(config: ModelConfig) -> Part:
    last = Part() if config.get("use_mean_pooling") else norm(width_of(config), True)
    return _beit_outside(config) + last


def _dinov3_mlp(config: ModelConfig) -> Part:
    return gated("mlp_bias")(config) if config.get("use_gated_mlp") else two(config)


def _mlcd_outside(config: ModelConfig) -> Part:
    """Return the position of its class token, which turns as those of patches do."""
    return norm(config.width("hidden_size") // config.width("num_attention_heads") // 2)


def _janus_inside(config: ModelConfig) -> Part:
    return norm(width_of(config), True) * 2 if config.get("use_qk_norm") else Part()


def _internvl(config: ModelConfig, grid: Grid) -> Work:
    """InternViT: the largest one has norms without a bias, and normalises queries and keys."""
    tower = Vit(
        classes=1,
        positions="use_absolute_position_embeddings",
        norms=0,
        norm_bias=config.get("norm_type") != "rms_norm",
        qkv="attention_bias",
        qk_norm="use_qk_norm",
        scales=True,
        outside=_unless_mean,
    )
    return tower(config, grid)


def _learned(config: ModelConfig) -> int:
    return config.width("num_position_embeddings", "num_patches")


_CLIP = Vit(classes=1, patch_bias=False, norms=2)
_VIT = Vit(classes=1, qkv="qkv_bias", outside=_mask_token)
_BEIT = Vit(
    classes=1,
    positions="use_absolute_position_embeddings",
    key=False,
    scales="layer_scale_init_value",
    inside=_beit_inside,
    outside=_beit_outside,
)
_DINOV2 = Vit(classes=1, qkv="qkv_bias", mlp=swiglu, scales=True, outside=_mask_token)
_QWEN2_5 = Vit(
    patch_bias=False,
    frames=True,
    positions=False,
    norms=0,
    norm_bias=False,
    mlp=gated(True),
    pairs=windows,
)
_QWEN3 = Vit(frames=True, places=_learned, norms=0)

FAMILIES: Mapping[str, Count] = {
    "aimv2_vision_model": Vit(
        norms=2,
        norm_bias=False,
        qkv="qkv_bias",
        out="qkv_bias",
        mlp=gated("mlp_bias"),
        head=attention_pool,
    ),
    "altclip_vision_model": _CLIP,
    "beit": _BEIT,
    "blip_2_vision_model": Vit(classes=1, qkv="qkv_bias"),
    "blip_vision_model": Vit(classes=1),
    "bridgetower_vision_model": replace(_CLIP, mlp=two_by_ratio),
    "chinese_clip_vision_model": _CLIP,
    "clip_vision_model": _CLIP,
    "clipseg_vision_model": _CLIP,
    "convnext": convnext,
    "convnextv2": partial(convnext, scaled=False, response=True),
    "data2vec-vision": replace(_BEIT, norms=0, outside=_data2vec_outside),
    "deit": replace(_VIT, classes=2, head=pooler),
    "dinov2": _DINOV2,
    "dinov2_with_registers": replace(_DINOV2, outside=_of_width),
    "dinov3_convnext": convnext,
    "dinov3_vit": Vit(
        classes=1,
        positions=False,
        key="key_bias",
        out="proj_bias",
        mlp=_dinov3_mlp,
        scales=True,
        outside=_of_width,
    ),
    "flava_image_model": replace(_VIT, outside=_of_width, head=pooler),
    "git_vision_model": _CLIP,
    "got_ocr2_vision": sam,
    "idefics2_vision": Vit(),
    "idefics3_vision": Vit(),
    "ijepa": Vit(qkv="qkv_bias", outside=_mask_token),
    "instructblip_vision_model": Vit(classes=1, qkv="qkv_bias"),
    "internvl_vision": _internvl,
    "janus_vision_model": Vit(qkv="attention_bias", mlp=two_by_ratio, inside=_janus_inside),
    "kosmos_2_vision_model": _CLIP,
    "llama4_vision_model": _CLIP,
    "metaclip_2_vision_model": _CLIP,
    "mlcd_vision_model": replace(_CLIP, positions=False, outside=_mlcd_outside),
    "owlv2_vision_model": _CLIP,
    "owlvit_vision_model": _CLIP,
    "pixtral": Vit(
        patch_bias=False,
        positions=False,
        norm_bias=False,
        qkv=False,
        out=False,
        mlp=gated(False),
    ),
    "qwen2_5_omni_vision_encoder": _QWEN2_5,
    "qwen2_5_vl_vision": _QWEN2_5,
    "qwen2_vl_vision": Vit(
        patch_bias=False, frames=True, positions=False, norms=0, mlp=two_by_ratio
    ),
    "qwen3_5_moe_vision": _QWEN3,
    "qwen3_5_vision": _QWEN3,
    "qwen3_omni_moe_vision_encoder": _QWEN3,
    "qwen3_vl_moe_vision": _QWEN3,
    "qwen3_vl_vision": _QWEN3,
    "sam_vision_model": sam,
    "siglip2_vision_model": Vit(places=_learned, head=map_head),
    "siglip_vision_model": Vit(head=map_head),
    "smolvlm_vision": Vit(),
    "vit": replace(_VIT, head=pooler),
    "vit_mae": _VIT,
    "vit_msn": _VIT,
}
"""The towers that can be counted, by their model type."""

_STAGES = "whose stages each have another form of attention"

REFUSED: Mapping[str, str] = {
    "donut-swin": _STAGES,
    "focalnet": "whose stages have convolutions of several sizes",
    "hiera": _STAGES,
    "mllama_vision_model": "which sees all tiles of an image at once",
    "pvt": _STAGES,
    "pvt_v2": _STAGES,
    "swin": _STAGES,
    "swinv2": _STAGES,
    "vitdet": "whose windows and residual convolutions the config may set by layer",
}
"""Why others cannot."""
