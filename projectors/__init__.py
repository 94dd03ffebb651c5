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
        "aya-vision": "mobilevlm.projectors.aya_vision:AyaVision",
        "blip2": "mobilevlm.projectors.blip2:Blip2",
        "c-abstractor": "mobilevlm.projectors.c_abstractor:CAbstractor",
        "cohere2-vision": "mobilevlm.projectors.aya_vision:COHERE2_VISION",
        "deepseek-vl2": "mobilevlm.projectors.deepseek_vl2:DeepseekVL2",
        "flamingo": "mobilevlm.projectors.flamingo:Flamingo",
        "gemma3": "mobilevlm.projectors.gemma3:Gemma3",
        "gemma3n": "mobilevlm.projectors.gemma3n:Gemma3n",
        "gemma4": "mobilevlm.projectors.gemma4:Gemma4",
        "glm4v": "mobilevlm.projectors.glm4v:Glm4v",
        "got-ocr2": "mobilevlm.projectors.got_ocr2:GotOcr2",
        "granite-docling": "mobilevlm.projectors.granite_docling:GraniteDocling",
        "hunyuan-vl": "mobilevlm.projectors.hunyuan_vl:HunYuanVL",
        "idefics": "mobilevlm.projectors.flamingo:IDEFICS",
        "idefics2": "mobilevlm.projectors.idefics2:Idefics2",
        "idefics3": "mobilevlm.projectors.idefics3:Idefics3",
        "identity": "mobilevlm.projectors.identity:Identity",
        "internvl": "mobilevlm.projectors.internvl:InternVL",
        "kimi-k25": "mobilevlm.projectors.qwen2_vl:KIMI_K25",
        "ldp": "mobilevlm.projectors.ldp:Ldp",
        "ldpnet": "mobilevlm.projectors.ldpnet:LdpNet",
        "ldpnetv2": "mobilevlm.projectors.ldpnetv2:LdpNetV2",
        "lfm2-vl": "mobilevlm.projectors.internvl:LFM2_VL",
        "lfm3-vl": "mobilevlm.projectors.qwen2_vl:LFM3_VL",
        "linear": "mobilevlm.projectors.linear:Linear",
        "llama4": "mobilevlm.projectors.llama4:Llama4",
        "llava": "mobilevlm.projectors.mlp:LLAVA",
        "llava-next-video": "mobilevlm.projectors.perception_lm:LlavaNextVideo",
        "llava-onevision-video": "mobilevlm.projectors.perception_lm:LlavaOnevisionVideo",
        "minicpmv": "mobilevlm.projectors.minicpmv:MiniCPMV",
        "minicpmv4-6": "mobilevlm.projectors.minicpmv4_6:MiniCPMV4_6",
        "mistral3": "mobilevlm.projectors.mistral3:Mistral3",
        "mlp": "mobilevlm.projectors.mlp:Mlp",
        "mlp-res": "mobilevlm.projectors.mlp_res:MlpRes",
        "mlp1x-gelu": "mobilevlm.projectors.mlp:MLP1X_GELU",
        "mlp2x-gelu": "mobilevlm.projectors.mlp:MLP2X_GELU",
        "mlp2x-res2x-gelu": "mobilevlm.projectors.mlp_res:MLP2X_RES2X_GELU",
        "mlp3x-gelu": "mobilevlm.projectors.mlp:MLP3X_GELU",
        "mlp4x-gelu": "mobilevlm.projectors.mlp:MLP4X_GELU",
        "mlp5x-gelu": "mobilevlm.projectors.mlp:MLP5X_GELU",
        "mlp6x-gelu": "mobilevlm.projectors.mlp:MLP6X_GELU",
        "mlp7x-gelu": "mobilevlm.projectors.mlp:MLP7X_GELU",
        "mlp8x-gelu": "mobilevlm.projectors.mlp:MLP8X_GELU",
        "nemotron-omni": "mobilevlm.projectors.internvl:NEMOTRON_OMNI",
        "nvila": "mobilevlm.projectors.internvl:NVILA",
        "nvila-lite": "mobilevlm.projectors.nvila_lite:NvilaLite",
        "paddleocr-vl": "mobilevlm.projectors.qwen2_vl:PADDLEOCR_VL",
        "paligemma": "mobilevlm.projectors.linear:PALIGEMMA",
        "perception-lm": "mobilevlm.projectors.perception_lm:PerceptionLM",
        "qwen-vl": "mobilevlm.projectors.qwen_vl:QwenVL",
        "qwen2-5-vl": "mobilevlm.projectors.qwen2_vl:QWEN2_5_VL",
        "qwen2-vl": "mobilevlm.projectors.qwen2_vl:Qwen2VL",
        "qwen3-vl": "mobilevlm.projectors.qwen2_vl:QWEN3_VL",
        "qwen3-vl-deepstack": "mobilevlm.projectors.qwen2_vl:QWEN3_VL_DEEPSTACK",
        "vipllava": "mobilevlm.projectors.vipllava:VipLlava",
        "voxtral": "mobilevlm.projectors.voxtral:Voxtral",
    },
    accepts=_accepts,
    expected="a subclass of mobilevlm.Preset with an expand method, or an instance of one",
    sibling=BLOCKS,
)
