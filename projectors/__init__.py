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
    "deco": "mobilevlm.projectors.zoo.deco:DeCo",
    "deepseek-vl2": "mobilevlm.projectors.zoo.deepseek_vl2:DeepseekVL2",
    "ernie4-5-vl": "mobilevlm.projectors.zoo.ernie4_5_vl:Ernie45VL",
    "flamingo": "mobilevlm.projectors.zoo.flamingo:Flamingo",
    "florence-2": "mobilevlm.projectors.zoo.florence_2:Florence2",
    "fuyu": "mobilevlm.projectors.zoo.fuyu:Fuyu",
    "gemma3": "mobilevlm.projectors.zoo.gemma3:Gemma3",
    "gemma3n": "mobilevlm.projectors.zoo.gemma3n:Gemma3n",
    "gemma4": "mobilevlm.projectors.zoo.gemma4:Gemma4",
    "gemma4-unified": "mobilevlm.projectors.zoo.gemma4_unified:Gemma4Unified",
    "git": "mobilevlm.projectors.zoo.git:Git",
    "glm-4v-9b": "mobilevlm.projectors.zoo.glm_4v_9b:Glm4v9b",
    "glm4v": "mobilevlm.projectors.zoo.glm4v:Glm4v",
    "got-ocr2": "mobilevlm.projectors.zoo.got_ocr2:GotOcr2",
    "granite-docling": "mobilevlm.projectors.zoo.granite_docling:GraniteDocling",
    "h-reducer": "mobilevlm.projectors.zoo.h_reducer:HReducer",
    "hunyuan-vl": "mobilevlm.projectors.zoo.hunyuan_vl:HunYuanVL",
    "idefics2": "mobilevlm.projectors.zoo.idefics2:Idefics2",
    "idefics3": "mobilevlm.projectors.zoo.idefics3:Idefics3",
    "identity": "mobilevlm.projectors.zoo.identity:Identity",
    "internvl": "mobilevlm.projectors.zoo.internvl:InternVL",
    "kosmos-2": "mobilevlm.projectors.zoo.kosmos_2:Kosmos2",
    "ldp": "mobilevlm.projectors.zoo.ldp:Ldp",
    "ldpnet": "mobilevlm.projectors.zoo.ldpnet:LdpNet",
    "ldpnetv2": "mobilevlm.projectors.zoo.ldpnetv2:LdpNetV2",
    "linear": "mobilevlm.projectors.zoo.linear:Linear",
    "llama4": "mobilevlm.projectors.zoo.llama4:Llama4",
    "llava-next-video": "mobilevlm.projectors.zoo.llava_next_video:LlavaNextVideo",
    "llava-onevision-video": "mobilevlm.projectors.zoo.llava_onevision_video:LlavaOnevisionVideo",
    "minicpmv": "mobilevlm.projectors.zoo.minicpmv:MiniCPMV",
    "minicpmv4-6": "mobilevlm.projectors.zoo.minicpmv4_6:MiniCPMV4_6",
    "minigpt-v2": "mobilevlm.projectors.zoo.minigpt_v2:MiniGPTv2",
    "minimax-m3-vl": "mobilevlm.projectors.zoo.minimax_m3_vl:MiniMaxM3VL",
    "mistral3": "mobilevlm.projectors.zoo.mistral3:Mistral3",
    "mlp": "mobilevlm.projectors.zoo.mlp:Mlp",
    "mlp-res": "mobilevlm.projectors.zoo.mlp_res:MlpRes",
    "molmo": "mobilevlm.projectors.zoo.molmo:Molmo",
    "moondream2": "mobilevlm.projectors.zoo.moondream2:Moondream2",
    "moss-transcribe": "mobilevlm.projectors.zoo.moss_transcribe:MossTranscribe",
    "muse-glimmer": "mobilevlm.projectors.zoo.muse_glimmer:MuseGlimmer",
    "nvila-lite": "mobilevlm.projectors.zoo.nvila_lite:NvilaLite",
    "oryx": "mobilevlm.projectors.zoo.oryx:Oryx",
    "ovis2": "mobilevlm.projectors.zoo.ovis2:Ovis2",
    "perception-lm": "mobilevlm.projectors.zoo.perception_lm:PerceptionLM",
    "phi-3-vision": "mobilevlm.projectors.zoo.phi_3_vision:Phi3Vision",
    "phi-4-multimodal": "mobilevlm.projectors.zoo.phi_4_multimodal:Phi4Multimodal",
    "pooler": "mobilevlm.projectors.zoo.pooler:Pooler",
    "pp-formulanet": "mobilevlm.projectors.zoo.pp_formulanet:PPFormulaNet",
    "prismatic": "mobilevlm.projectors.zoo.prismatic:Prismatic",
    "qwen-vl": "mobilevlm.projectors.zoo.qwen_vl:QwenVL",
    "qwen2-vl": "mobilevlm.projectors.zoo.qwen2_vl:Qwen2VL",
    "step3": "mobilevlm.projectors.zoo.step3:Step3",
    "step3p7": "mobilevlm.projectors.zoo.step3p7:Step3p7",
    "token-packer": "mobilevlm.projectors.zoo.token_packer:TokenPacker",
    "vibevoice": "mobilevlm.projectors.zoo.vibevoice:VibeVoice",
    "vipllava": "mobilevlm.projectors.zoo.vipllava:VipLlava",
    "voxtral": "mobilevlm.projectors.zoo.voxtral:Voxtral",
}
"""The built-in families, and where their presets are."""


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
"""The registry of projectors: their presets by name, built in, registered and of plugins."""
