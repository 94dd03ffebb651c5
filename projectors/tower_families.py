"""What the configs of vision and language models do not say themselves, by their model type.

A ``config.json`` may leave out what equals its class's default, so those defaults are here too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from ..blocks.core.errors import SpecError
from ..blocks.core.feature import Grid
from ..registry import quote
from .model_config import ModelConfig

__all__ = ["HOSTS", "LM_WIDTHS", "TOWERS", "Host", "TowerFamily"]


def _hidden_size(config: ModelConfig) -> int:
    return config.width("hidden_size")


def _patch_size(config: ModelConfig) -> Grid:
    return config.sides("patch_size")


@dataclass(frozen=True)
class TowerFamily:
    """How the configs of one kind of vision model are read.

    Attributes:
        defaults: The values that the class has for keys that a config leaves out.
        prefix: How many class tokens stand before the patches, without registers.
        channels: The width of the last feature.
        patch: The height and width in pixels of what one token stands for.
        free: Whether images have any size, so that no grid is the default.
        packed: Whether tokens come in blocks of ``spatial_merge_size``, for a merge.
    """

    defaults: Mapping[str, object] = field(default_factory=dict)
    prefix: int = 0
    channels: Callable[[ModelConfig], int] = _hidden_size
    patch: Callable[[ModelConfig], Grid] = _patch_size
    free: bool = False
    packed: bool = False

    @property
    def staged(self) -> bool:
        """Whether the grid is halved from stage to stage."""
        return self.patch is not _patch_size


@dataclass(frozen=True)
class Host:
    """How a whole vision-language model treats its tower's output before its projector.

    Attributes:
        tower: The model type of its tower, where the tower's config does not say its own.
        layer: The level or levels of the tower that it takes, unless the config says so itself.
        select: ``"default"`` drops the first token of each level, ``"full"`` none; unless the
            config says so itself.
        always: Whether it does so whatever the config says.
        free: Whether its processor sets the size of images, whatever the tower's config says.
    """

    tower: str
    layer: int | Sequence[int] = -1
    select: str = "full"
    always: bool = False
    free: bool = False


def _vit(prefix: int = 0, patch: int = 16, width: int = 768, image: object = 224) -> TowerFamily:
    """Return a plain vision transformer: one width, one grid, class tokens first."""
    return TowerFamily({"hidden_size": width, "image_size": image, "patch_size": patch}, prefix)


def _with_registers(registers: int, patch: int = 16, width: int = 768) -> TowerFamily:
    defaults = {**_vit(0, patch, width).defaults, "num_register_tokens": registers}
    return TowerFamily(defaults, prefix=1)


def _any_size(patch: int, width: int) -> TowerFamily:
    return TowerFamily({"hidden_size": width, "patch_size": patch}, free=True)


def _packed(width: int, patch: int, channels: str = "hidden_size") -> TowerFamily:
    """Return a tower of any size whose tokens come block by block, as Qwen's."""
    return TowerFamily(
        {channels: width, "patch_size": patch, "spatial_merge_size": 2},
        channels=lambda config: config.width(channels),
        free=True,
        packed=True,
    )


def _sam(image: int = 1024) -> TowerFamily:
    return TowerFamily(
        {"output_channels": 256, "image_size": image, "patch_size": 16},
        channels=lambda config: config.width("output_channels"),
    )


def _doubling(**defaults: object) -> TowerFamily:
    """Return stages that double the width and halve the grid, as Swin's."""

    def times(config: ModelConfig) -> int:
        return int(2 ** (len(config.widths("depths")) - 1))

    def patch(config: ModelConfig) -> Grid:
        h, w = config.sides("patch_size")
        return h * times(config), w * times(config)

    return TowerFamily(
        {"embed_dim": 96, "depths": (2, 2, 6, 2), "image_size": 224, "patch_size": 4, **defaults},
        channels=lambda config: config.width("embed_dim") * times(config),
        patch=patch,
    )


def _last_stage(config: ModelConfig) -> int:
    return config.widths("hidden_sizes")[-1]


def _convnext(prefix: int = 0) -> TowerFamily:
    def patch(config: ModelConfig) -> Grid:
        h, w = config.sides("patch_size")
        times = int(2 ** (len(config.widths("hidden_sizes")) - 1))
        return h * times, w * times

    defaults = {"hidden_sizes": (96, 192, 384, 768), "image_size": 224, "patch_size": 4}
    return TowerFamily(defaults, prefix, _last_stage, patch)


def _pvt(widths: Sequence[int], prefix: int = 0) -> TowerFamily:
    def patch(config: ModelConfig) -> Grid:
        stride = prod(config.widths("strides"))
        return stride, stride

    defaults = {"hidden_sizes": widths, "strides": (4, 2, 2, 2), "image_size": 224}
    return TowerFamily(defaults, prefix, _last_stage, patch)


def _hiera() -> TowerFamily:
    def channels(config: ModelConfig) -> int:
        ratio = config.get("embed_dim_multiplier")
        if type(ratio) not in (int, float) or not 1 <= ratio <= 16:
            where = f"{config.where}.embed_dim_multiplier"
            raise SpecError(quote(ratio), where, "a number from 1 to 16")
        return int(config.width("embed_dim") * ratio ** (len(config.widths("depths")) - 1))

    def patch(config: ModelConfig) -> Grid:
        pools = config.count("num_query_pool")
        (h, w), (down, right) = config.sides("patch_stride"), config.sides("query_stride")
        return h * down**pools, w * right**pools

    defaults = {
        "embed_dim": 96,
        "embed_dim_multiplier": 2.0,
        "depths": (2, 3, 16, 3),
        "image_size": 224,
        "patch_stride": 4,
        "query_stride": 2,
        "num_query_pool": 3,
    }
    return TowerFamily(defaults, channels=channels, patch=patch)


def _mllama() -> TowerFamily:
    def channels(config: ModelConfig) -> int:
        return config.width("hidden_size") * (1 + len(config.items("intermediate_layers_indices")))

    defaults = {**_vit(patch=14, width=1280, image=448).defaults}
    defaults["intermediate_layers_indices"] = (3, 7, 15, 23, 30)
    return TowerFamily(defaults, prefix=1, channels=channels)


_CLIP = _vit(prefix=1, patch=32)
_QWEN3 = _packed(1152, 16)

TOWERS: Mapping[str, TowerFamily] = {
    "aimv2_vision_model": _vit(patch=14, width=1024),
    "altclip_vision_model": _CLIP,
    "beit": _vit(prefix=1),
    "blip_2_vision_model": _vit(prefix=1, patch=14, width=1408),
    "blip_vision_model": _vit(prefix=1, image=384),
    "bridgetower_vision_model": _vit(prefix=1, image=288),
    "chinese_clip_vision_model": _CLIP,
    "clip_vision_model": _CLIP,
    "clipseg_vision_model": _CLIP,
    "convnext": _convnext(),
    "convnextv2": _convnext(),
    "data2vec-vision": _vit(prefix=1),
    "deit": _vit(prefix=2),
    "dinov2": _vit(prefix=1, patch=14),
    "dinov2_with_registers": _with_registers(4),
    "dinov3_convnext": _convnext(prefix=1),
    "dinov3_vit": _with_registers(0, width=384),
    "donut-swin": _doubling(),
    "flava_image_model": _vit(prefix=1),
    "focalnet": _doubling(),
    "git_vision_model": _vit(prefix=1),
    "got_ocr2_vision": _sam(),
    "hiera": _hiera(),
    "idefics2_vision": _any_size(32, 768),
    "idefics3_vision": _vit(patch=32, width=1152),
    "ijepa": _vit(),
    "instructblip_vision_model": _vit(prefix=1, patch=14, width=1408),
    "internvl_vision": _vit(prefix=1, patch=14, width=1024, image=448),
    "janus_vision_model": _vit(width=1024, image=384),
    "kosmos_2_vision_model": _vit(prefix=1, patch=14, width=1024),
    "llama4_vision_model": _vit(patch=14, image=448),
    "metaclip_2_vision_model": _CLIP,
    "mlcd_vision_model": _vit(prefix=1, patch=14, width=1664, image=336),
    "mllama_vision_model": _mllama(),
    "owlv2_vision_model": _vit(prefix=1, image=768),
    "owlvit_vision_model": _vit(prefix=1, patch=32, image=768),
    "pixtral": _any_size(16, 1024),
    "pvt": _pvt((64, 128, 320, 512), prefix=1),
    "pvt_v2": _pvt((32, 64, 160, 256)),
    "qwen2_5_omni_vision_encoder": _packed(3584, 14),
    "qwen2_5_vl_vision": _packed(3584, 14),
    "qwen2_vl_vision": _packed(1280, 14, channels="embed_dim"),
    "qwen3_5_moe_vision": _QWEN3,
    "qwen3_5_vision": _QWEN3,
    "qwen3_omni_moe_vision_encoder": _QWEN3,
    "qwen3_vl_moe_vision": _QWEN3,
    "qwen3_vl_vision": _QWEN3,
    "sam_vision_model": _sam(),
    "siglip2_vision_model": _any_size(16, 768),
    "siglip_vision_model": _vit(),
    "smolvlm_vision": _vit(patch=32, width=1152),
    "swin": _doubling(),
    "swinv2": _doubling(),
    "vit": _vit(prefix=1),
    "vit_mae": _vit(prefix=1),
    "vit_msn": _vit(prefix=1),
    "vitdet": _vit(),
}
"""How vision models of transformers are read, by their model type."""

HOSTS: Mapping[str, Host] = {
    "aya_vision": Host("siglip_vision_model"),
    "cohere2_vision": Host("siglip_vision_model"),
    "fast_vlm": Host("timm_wrapper", free=True),
    "gemma3": Host("siglip_vision_model"),
    "got_ocr2": Host("got_ocr2_vision"),
    "idefics2": Host("idefics2_vision"),
    "idefics3": Host("idefics3_vision"),
    "internvl": Host("internvl_vision", select="default"),
    "lfm2_vl": Host("siglip2_vision_model"),
    "llama4": Host("llama4_vision_model"),
    "llava": Host("clip_vision_model", -2, "default"),
    "llava_next": Host("clip_vision_model", -2, "default"),
    "llava_next_video": Host("clip_vision_model", -2, "default"),
    "llava_onevision": Host("siglip_vision_model"),
    "mistral3": Host("pixtral"),
    "mllama": Host("mllama_vision_model"),
    "paligemma": Host("siglip_vision_model"),
    "perception_lm": Host("timm_wrapper", select="default"),
    "qwen2_5_vl": Host("qwen2_5_vl_vision"),
    "qwen2_vl": Host("qwen2_vl_vision"),
    "qwen3_vl": Host("qwen3_vl_vision"),
    "qwen3_vl_moe": Host("qwen3_vl_moe_vision"),
    "smolvlm": Host("smolvlm_vision"),
    "video_llava": Host("clip_vision_model", -2, "default"),
    "vipllava": Host("clip_vision_model", (-2, -5, -8, -11, 6), "default", always=True),
}
"""What vision-language models of transformers take of their towers, by their model type."""

LM_WIDTHS: Mapping[str, int] = {
    "bart": 1024,
    "cohere": 8192,
    "cohere2": 8192,
    "gemma": 3072,
    "gemma2": 2304,
    "gemma3_text": 2304,
    "lfm2": 2560,
    "llama": 4096,
    "llama4_text": 5120,
    "ministral3": 4096,
    "mistral": 4096,
    "mixtral": 4096,
    "mllama_text_model": 4096,
    "olmo2": 4096,
    "opt": 768,
    "phi": 2048,
    "phi3": 3072,
    "qwen2": 4096,
    "qwen2_5_vl_text": 8192,
    "qwen2_vl_text": 8192,
    "qwen3": 4096,
    "qwen3_vl_text": 4096,
    "smollm3": 2048,
    "t5": 512,
}
"""The widths of language models whose config leaves theirs out, by their model type."""
