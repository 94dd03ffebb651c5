"""The classes of transformers that take a projector: a row of facts each."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .errors import ModelError
from .host import TYPE_PREFIX, Host

if TYPE_CHECKING:
    from .counters.counter import Counter
    from .forms.form import Form

__all__ = ["HOSTS", "counter_of", "find_host", "form_of"]

_ROWS = (
    Host(
        model_type="llava",
        names="Llava",
        processor="LlavaProcessor",
        counter="lengths:Llava",
        length=("image_seq_length",),
    ),
    Host(
        model_type="vipllava",
        names="VipLlava",
        processor="LlavaProcessor",
        counter="lengths:Llava",
        length=("image_seq_length",),
    ),
    Host(
        model_type="paligemma",
        names="PaliGemma",
        processor="PaliGemmaProcessor",
        counter="lengths:PaliGemma",
    ),
    Host(
        model_type="gemma3",
        names="Gemma3",
        processor="Gemma3Processor",
        counter="lengths:Gemma3",
        length=("mm_tokens_per_image",),
    ),
    Host(
        model_type="internvl",
        names="InternVL",
        processor="InternVLProcessor",
        counter="lengths:Lengths",
        length=("image_seq_length",),
        switches={"downsample_ratio": 1.0},
    ),
    Host(
        model_type="idefics3",
        names="Idefics3",
        slot="connector",
        processor="Idefics3Processor",
        counter="lengths:Idefics3",
    ),
    Host(
        model_type="smolvlm",
        names="SmolVLM",
        slot="connector",
        processor="SmolVLMProcessor",
        counter="smolvlm:SmolVLM",
    ),
    Host(
        model_type="aya_vision",
        names="AyaVision",
        processor="AyaVisionProcessor",
        counter="tiles:AyaVision",
    ),
    Host(
        model_type="cohere2_vision",
        names="Cohere2Vision",
        processor="Cohere2VisionProcessor",
        counter="tiles:Cohere2Vision",
    ),
    Host(
        model_type="perception_lm",
        names="PerceptionLM",
        processor="PerceptionLMProcessor",
        counter="tiles:PerceptionLM",
    ),
    Host(
        model_type="fast_vlm",
        names="FastVlm",
        form="tokens:SquareTokens",
        processor="LlavaProcessor",
        counter="lengths:Llava",
    ),
    Host(
        model_type="got_ocr2",
        names="GotOcr2",
        form="maps:Maps",
        processor="GotOcr2Processor",
        counter="got_ocr2:GotOcr2",
        length=("image_seq_length",),
    ),
    Host(
        model_type="llava",
        tower="pixtral",
        names="Llava",
        form="sizes:Sizes",
        processor="PixtralProcessor",
        counter="pixtral:Pixtral",
    ),
    Host(
        model_type="mistral3",
        names="Mistral3",
        form="sizes:Sizes",
        processor="PixtralProcessor",
        counter="pixtral:Pixtral",
        switches={"spatial_merge_size": 1},
    ),
    Host(
        model_type="lfm2_vl",
        names="Lfm2Vl",
        form="channels_last:ChannelsLast",
        processor="Lfm2VlProcessor",
        counter="lfm2_vl:Lfm2Vl",
    ),
    Host(
        model_type="llava_next",
        names="LlavaNext",
        form="anyres:AnyRes",
        processor="LlavaNextProcessor",
        counter="anyres:AnyRes",
        length=("image_seq_length",),
    ),
    Host(
        model_type="llava_next_video",
        names="LlavaNextVideo",
        form="anyres:NextVideo",
        processor="LlavaNextVideoProcessor",
        counter="anyres:NextVideo",
        length=("image_seq_length",),
    ),
    Host(
        model_type="llava_onevision",
        names="LlavaOnevision",
        form="anyres:OneVision",
        processor="LlavaOnevisionProcessor",
        counter="anyres:OneVision",
    ),
    Host(
        model_type="qwen2_vl",
        names="Qwen2VL",
        slot="visual.merger",
        form="packed:Packed",
        processor="Qwen2VLProcessor",
        counter="packed:Packed",
    ),
    Host(
        model_type="qwen2_5_vl",
        names="Qwen2_5_VL",
        slot="visual.merger",
        form="packed:Packed",
        processor="Qwen2_5_VLProcessor",
        counter="packed:Packed",
    ),
    Host(
        model_type="qwen3_vl",
        names="Qwen3VL",
        slot="visual.merger",
        form="deepstack:Deepstack",
        processor="Qwen3VLProcessor",
        counter="packed:Packed",
    ),
    Host(
        model_type="qwen3_vl_moe",
        names="Qwen3VLMoe",
        slot="visual.merger",
        form="deepstack:Deepstack",
        processor="Qwen3VLProcessor",
        counter="packed:Packed",
    ),
    Host(
        model_type="qwen3_5",
        names="Qwen3_5",
        slot="visual.merger",
        form="packed:PackedOnce",
        processor="Qwen3VLProcessor",
        counter="packed:Packed",
    ),
    Host(
        model_type="qwen3_5_moe",
        names="Qwen3_5Moe",
        slot="visual.merger",
        form="packed:PackedOnce",
        processor="Qwen3VLProcessor",
        counter="packed:Packed",
    ),
)
HOSTS = {host.model_type: host for host in _ROWS if not host.tower}
_BY_TOWER = {(host.model_type, host.tower): host for host in _ROWS if host.tower}


def find_host(config: Any) -> Host:
    """Return what is known of a model, by its config, whether its projector is swapped or not.

    Raises:
        ModelError: It is not known; the message says what a row has to tell.
    """
    model_type = str(getattr(config, "model_type", None))
    model_type = model_type.removeprefix(TYPE_PREFIX)
    tower = getattr(getattr(config, "vision_config", None), "model_type", "")
    host = _BY_TOWER.get((model_type, tower)) or HOSTS.get(model_type)
    if host is None:
        raise ModelError(
            "no config of transformers" if config is None else f"model type {model_type!r}",
            "model.config",
            ", ".join(HOSTS),
            "slot='multi_modal_projector', or where else its projector stands, puts one there "
            "for training; a row in mobilevlm/models/hosts.py that says how it is called and how "
            "its processor counts makes it known.",
        )
    return host


def form_of(host: Host) -> Form:
    """Return how the model calls its projector."""
    form: Form = _load("forms", host.form)
    return form


def counter_of(host: Host) -> Counter:
    """Return how the processor counts."""
    counter: Counter = _load("counters", host.counter)
    return counter


def _load(folder: str, name: str) -> Any:
    module, _, cls = name.partition(":")
    return getattr(importlib.import_module(f".{folder}.{module}", __package__), cls)()
