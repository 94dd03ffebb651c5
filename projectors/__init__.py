"""Blocks put together: presets by name, stacks, plans and projectors. Nothing heavy here either.

To add a built-in family: write its file in `zoo/`, add its line to the table, and run
``python tools/index.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..registry import INSTALLED, Registry
from .index import advice, aliases

if TYPE_CHECKING:
    from .preset import Preset

__all__ = ["FAMILIES", "PROJECTORS"]


def _specialise(preset: Preset | type[Preset], options: Mapping[str, Any]) -> Preset | type[Preset]:
    return preset(**options) if isinstance(preset, type) else preset


def _accepts(thing: object) -> bool:
    from .preset import Preset

    if isinstance(thing, type):
        return issubclass(thing, Preset) and not getattr(thing, "__abstractmethods__", None)
    return isinstance(thing, Preset)


FAMILIES = {
    "aya-vision": "mobilevlm.projectors.zoo.aya_vision:AyaVision",
    "blip2": "mobilevlm.projectors.zoo.blip2:Blip2",
    "c-abstractor": "mobilevlm.projectors.zoo.c_abstractor:CAbstractor",
    "deepseek-vl2": "mobilevlm.projectors.zoo.deepseek_vl2:DeepseekVL2",
    "flamingo": "mobilevlm.projectors.zoo.flamingo:Flamingo",
    "fuyu": "mobilevlm.projectors.zoo.fuyu:Fuyu",
    "gemma3": "mobilevlm.projectors.zoo.gemma3:Gemma3",
    "gemma3n": "mobilevlm.projectors.zoo.gemma3n:Gemma3n",
    "gemma4": "mobilevlm.projectors.zoo.gemma4:Gemma4",
    "glm4v": "mobilevlm.projectors.zoo.glm4v:Glm4v",
    "got-ocr2": "mobilevlm.projectors.zoo.got_ocr2:GotOcr2",
    "granite-docling": "mobilevlm.projectors.zoo.granite_docling:GraniteDocling",
    "hunyuan-vl": "mobilevlm.projectors.zoo.hunyuan_vl:HunYuanVL",
    "idefics2": "mobilevlm.projectors.zoo.idefics2:Idefics2",
    "idefics3": "mobilevlm.projectors.zoo.idefics3:Idefics3",
    "identity": "mobilevlm.projectors.zoo.identity:Identity",
    "internvl": "mobilevlm.projectors.zoo.internvl:InternVL",
    "ldp": "mobilevlm.projectors.zoo.ldp:Ldp",
    "ldpnet": "mobilevlm.projectors.zoo.ldpnet:LdpNet",
    "ldpnetv2": "mobilevlm.projectors.zoo.ldpnetv2:LdpNetV2",
    "linear": "mobilevlm.projectors.zoo.linear:Linear",
    "llama4": "mobilevlm.projectors.zoo.llama4:Llama4",
    "llava-next-video": "mobilevlm.projectors.zoo.llava_next_video:LlavaNextVideo",
    "llava-onevision-video": "mobilevlm.projectors.zoo.llava_onevision_video:LlavaOnevisionVideo",
    "minicpmv": "mobilevlm.projectors.zoo.minicpmv:MiniCPMV",
    "minicpmv4-6": "mobilevlm.projectors.zoo.minicpmv4_6:MiniCPMV4_6",
    "mistral3": "mobilevlm.projectors.zoo.mistral3:Mistral3",
    "mlp": "mobilevlm.projectors.zoo.mlp:Mlp",
    "mlp-res": "mobilevlm.projectors.zoo.mlp_res:MlpRes",
    "nvila-lite": "mobilevlm.projectors.zoo.nvila_lite:NvilaLite",
    "perception-lm": "mobilevlm.projectors.zoo.perception_lm:PerceptionLM",
    "pooler": "mobilevlm.projectors.zoo.pooler:Pooler",
    "qwen-vl": "mobilevlm.projectors.zoo.qwen_vl:QwenVL",
    "qwen2-vl": "mobilevlm.projectors.zoo.qwen2_vl:Qwen2VL",
    "vipllava": "mobilevlm.projectors.zoo.vipllava:VipLlava",
    "voxtral": "mobilevlm.projectors.zoo.voxtral:Voxtral",
}


PROJECTORS: Registry[Preset | type[Preset]] = Registry(
    "projector",
    group="mobilevlm.projectors",
    builtins=FAMILIES,
    aliases=aliases,
    specialise=_specialise,
    accepts=_accepts,
    expected="a subclass of mobilevlm.Preset with an expand method, or an instance of one",
    installed=INSTALLED,
    other="mobilevlm.blocks:BLOCKS",
    advise=advice,
)
