"""Blocks put together: presets by name, stacks, plans and projectors. Nothing heavy here either.

To add a built-in preset: write its file, add its line to the table and to pyproject's entry points.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..blocks import BLOCKS
from ..registry import Registry

if TYPE_CHECKING:
    from .preset import Preset

__all__ = ["BLOCKS", "PROJECTORS"]


def _accepts(thing: object) -> bool:
    from .preset import Preset

    if isinstance(thing, type):
        return issubclass(thing, Preset) and not getattr(thing, "__abstractmethods__", None)
    return isinstance(thing, Preset)


PROJECTORS: Registry[Preset | type[Preset]] = Registry(
    "projector",
    group="mobilevlm.projectors",
    builtins={
        "aya-vision": "mobilevlm.projectors.zoo.aya_vision:AyaVision",
        "blip2": "mobilevlm.projectors.zoo.blip2:Blip2",
        "c-abstractor": "mobilevlm.projectors.zoo.c_abstractor:CAbstractor",
        "cohere2-vision": "mobilevlm.projectors.zoo.aya_vision:COHERE2_VISION",
        "deepseek-vl2": "mobilevlm.projectors.zoo.deepseek_vl2:DeepseekVL2",
        "flamingo": "mobilevlm.projectors.zoo.flamingo:Flamingo",
        "gemma3": "mobilevlm.projectors.zoo.gemma3:Gemma3",
        "gemma3n": "mobilevlm.projectors.zoo.gemma3n:Gemma3n",
        "gemma4": "mobilevlm.projectors.zoo.gemma4:Gemma4",
        "glm4v": "mobilevlm.projectors.zoo.glm4v:Glm4v",
        "got-ocr2": "mobilevlm.projectors.zoo.got_ocr2:GotOcr2",
        "granite-docling": "mobilevlm.projectors.zoo.granite_docling:GraniteDocling",
        "hunyuan-vl": "mobilevlm.projectors.zoo.hunyuan_vl:HunYuanVL",
        "idefics": "mobilevlm.projectors.zoo.flamingo:IDEFICS",
        "idefics2": "mobilevlm.projectors.zoo.idefics2:Idefics2",
        "idefics3": "mobilevlm.projectors.zoo.idefics3:Idefics3",
        "identity": "mobilevlm.projectors.zoo.identity:Identity",
        "internvl": "mobilevlm.projectors.zoo.internvl:InternVL",
        "kimi-k25": "mobilevlm.projectors.zoo.qwen2_vl:KIMI_K25",
        "ldp": "mobilevlm.projectors.zoo.ldp:Ldp",
        "ldpnet": "mobilevlm.projectors.zoo.ldpnet:LdpNet",
        "ldpnetv2": "mobilevlm.projectors.zoo.ldpnetv2:LdpNetV2",
        "lfm2-vl": "mobilevlm.projectors.zoo.internvl:LFM2_VL",
        "lfm3-vl": "mobilevlm.projectors.zoo.qwen2_vl:LFM3_VL",
        "linear": "mobilevlm.projectors.zoo.linear:Linear",
        "llama4": "mobilevlm.projectors.zoo.llama4:Llama4",
        "llava": "mobilevlm.projectors.zoo.mlp:LLAVA",
        "llava-next-video": "mobilevlm.projectors.zoo.perception_lm:LlavaNextVideo",
        "llava-onevision-video": "mobilevlm.projectors.zoo.perception_lm:LlavaOnevisionVideo",
        "minicpmv": "mobilevlm.projectors.zoo.minicpmv:MiniCPMV",
        "minicpmv4-6": "mobilevlm.projectors.zoo.minicpmv4_6:MiniCPMV4_6",
        "mistral3": "mobilevlm.projectors.zoo.mistral3:Mistral3",
        "mlp": "mobilevlm.projectors.zoo.mlp:Mlp",
        "mlp-res": "mobilevlm.projectors.zoo.mlp_res:MlpRes",
        "mlp1x-gelu": "mobilevlm.projectors.zoo.mlp:MLP1X_GELU",
        "mlp2x-gelu": "mobilevlm.projectors.zoo.mlp:MLP2X_GELU",
        "mlp2x-res2x-gelu": "mobilevlm.projectors.zoo.mlp_res:MLP2X_RES2X_GELU",
        "mlp3x-gelu": "mobilevlm.projectors.zoo.mlp:MLP3X_GELU",
        "mlp4x-gelu": "mobilevlm.projectors.zoo.mlp:MLP4X_GELU",
        "mlp5x-gelu": "mobilevlm.projectors.zoo.mlp:MLP5X_GELU",
        "mlp6x-gelu": "mobilevlm.projectors.zoo.mlp:MLP6X_GELU",
        "mlp7x-gelu": "mobilevlm.projectors.zoo.mlp:MLP7X_GELU",
        "mlp8x-gelu": "mobilevlm.projectors.zoo.mlp:MLP8X_GELU",
        "nemotron-omni": "mobilevlm.projectors.zoo.internvl:NEMOTRON_OMNI",
        "nvila": "mobilevlm.projectors.zoo.internvl:NVILA",
        "nvila-lite": "mobilevlm.projectors.zoo.nvila_lite:NvilaLite",
        "paddleocr-vl": "mobilevlm.projectors.zoo.qwen2_vl:PADDLEOCR_VL",
        "paligemma": "mobilevlm.projectors.zoo.linear:PALIGEMMA",
        "perception-lm": "mobilevlm.projectors.zoo.perception_lm:PerceptionLM",
        "qwen-vl": "mobilevlm.projectors.zoo.qwen_vl:QwenVL",
        "qwen2-5-vl": "mobilevlm.projectors.zoo.qwen2_vl:QWEN2_5_VL",
        "qwen2-vl": "mobilevlm.projectors.zoo.qwen2_vl:Qwen2VL",
        "qwen3-vl": "mobilevlm.projectors.zoo.qwen2_vl:QWEN3_VL",
        "qwen3-vl-deepstack": "mobilevlm.projectors.zoo.qwen2_vl:QWEN3_VL_DEEPSTACK",
        "vipllava": "mobilevlm.projectors.zoo.vipllava:VipLlava",
        "voxtral": "mobilevlm.projectors.zoo.voxtral:Voxtral",
    },
    accepts=_accepts,
    expected="a subclass of mobilevlm.Preset with an expand method, or an instance of one",
    sibling=BLOCKS,
)
