"""Which layers the language models of transformers have, by their model type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from ..projectors.model_config import ModelConfig
from .lm_gemma import (
    gemma3n_mlp,
    gemma3n_outside,
    gemma4_attention,
    gemma4_mlp,
    gemma4_outside,
    gemma_attention,
)
from .lm_layers import (
    CHUNKED,
    CONV,
    FULL,
    LINEAR,
    SLIDING,
    Kind,
    Mixer,
    Mlp,
    always,
    attention,
    behind,
    delta_net,
    every,
    experts,
    gated,
    gated_shared_expert,
    latent_attention,
    listed,
    plain,
    shared_experts,
    short_conv,
    sparse,
    stepped,
    width_of,
    windowed,
)
from .parts import Flag, Layer, Part, linear, norm
from .parts import gated as gated_mlp

__all__ = ["FAMILIES", "REFUSED", "Family"]


def _nothing(config: ModelConfig) -> Part:
    return Part()


_ATTENTION, _GATED_MLP, _ALL = attention(False, False), gated(), always(FULL)


@dataclass(frozen=True, kw_only=True)
class Family:
    """One kind of decoder.

    Attributes:
        mixer: What mixes tokens.
        mlp: What follows it in each layer.
        kinds: Of which kind each layer is, if the config does not list them.
        others: What mixes tokens in layers of other kinds than attention.
        norms: How many norms of the model's width each layer has.
        norm_bias: Whether they have a bias, and the last one too.
        final: Whether there is a norm behind the last layer.
        head_bias: Whether the logits have a bias.
        outside: Returns what else stands around the layers, such as embeddings of positions.
    """

    mixer: Mixer = _ATTENTION
    mlp: Mlp = _GATED_MLP
    kinds: Kind = _ALL
    others: Mapping[str, Mixer] = field(default_factory=dict)
    norms: int = 2
    norm_bias: bool = False
    final: Flag = True
    head_bias: bool = False
    outside: Callable[[ModelConfig], Part] = _nothing


def _lfm2_inner(config: ModelConfig) -> int:
    inner = config.width("intermediate_size")
    if not config.get("block_auto_adjust_ff_dim"):
        return inner
    inner = 2 * inner // 3
    if config.get("block_ffn_dim_multiplier") is not None:
        multiple = config.width("block_multiple_of")
        inner = int(config.ratio("block_ffn_dim_multiplier") * inner)
        inner = multiple * -(-inner // multiple)
    return inner


def _lfm2(config: ModelConfig, index: int) -> str:
    if config.get("full_attn_idxs") is None:
        return FULL
    return FULL if index in config.items("full_attn_idxs") else CONV


def _lfm3(config: ModelConfig, index: int) -> str:
    if index % 4 == 2:
        return FULL
    return SLIDING if index % 4 == 0 and index > 0 else CONV


def _llama4(config: ModelConfig, index: int) -> str:
    if config.get("no_rope_layers"):
        return CHUNKED if config.items("no_rope_layers", index + 1)[index] else FULL
    return every(4, CHUNKED, "no_rope_layer_interval")(config, index)


def _llama4_sparse(config: ModelConfig, index: int) -> bool:
    if config.get("moe_layers") is not None:
        return index in config.items("moe_layers")
    return (index + 1) % config.width("interleave_moe_layer_step") == 0


def _llama4_shared(config: ModelConfig) -> Part:
    return gated_mlp(width_of(config), config.width("intermediate_size"))


def _aria_shared(config: ModelConfig) -> Part:
    inner = config.width("intermediate_size") * config.count("moe_num_shared_experts")
    return gated_mlp(width_of(config), inner)


def _positions(key: str, more: int = 0) -> Callable[[ModelConfig], Part]:
    """Return an embedding of positions."""
    return lambda config: Part(parameters=(config.width(key) + more) * width_of(config))


def _opt_outside(config: ModelConfig) -> Part:
    part, width = _positions("max_position_embeddings", 2)(config), width_of(config)
    if config.get("word_embed_proj_dim") not in (None, width):
        part += linear(config.width("word_embed_proj_dim"), width) * 2
    return part


def _molmo2(config: ModelConfig, kind: str, index: int) -> Layer:
    qk_norm = "head" if config.get("qk_norm_type") == "qwen3" else "heads"
    return attention("attention_bias", False, qk_norm=qk_norm)(config, kind, index)


_LLAMA = Family(mixer=attention(), mlp=gated("mlp_bias"))
_QWEN2 = Family(mixer=attention(True, False), kinds=behind)
_QWEN3 = Family(mixer=attention(qk_norm="head"), kinds=behind)
_QWEN3_MOE = Family(
    mixer=attention(qk_norm="head"), mlp=sparse(experts(), gated(), stepped), kinds=windowed
)
_GEMMA2 = Family(mixer=attention(), kinds=every(2, key=""), norms=4)
_GLM = Family(mixer=attention("attention_bias", False))
_GLM_MOE = sparse(experts(shared_experts), gated(), listed())
_PHI3 = Family(kinds=windowed)
_DEEPSEEK = Family(mixer=latent_attention, mlp=_GLM_MOE)
_BIASED = attention(True, True)
_DELTA = {LINEAR: delta_net}
_GATED = attention(qk_norm="head", gate="full")
_LINEAR = every(4, LINEAR, "full_attention_interval")

FAMILIES: Mapping[str, Family] = {
    "aria_text": Family(
        mixer=attention(),
        mlp=experts(_aria_shared, "intermediate_size"),
    ),
    "bloom": Family(
        mixer=_BIASED,
        mlp=plain(True),
        norm_bias=True,
        outside=lambda config: norm(width_of(config), True),
    ),
    "cohere": Family(mixer=attention(), norms=1),
    "cohere2": Family(mixer=attention(), kinds=every(4), norms=1),
    "cosmos3_edge_text": Family(mixer=attention(), mlp=plain("mlp_bias")),
    "deepseek_ocr2_text": Family(mixer=attention(), mlp=_GLM_MOE),
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK,
    "exaone4": Family(mixer=attention(False, False, qk_norm="head"), kinds=every(4)),
    "gemma": Family(mixer=attention()),
    "gemma2": _GEMMA2,
    "gemma3_text": Family(mixer=attention(qk_norm="head"), kinds=every(6), norms=4),
    "gemma3n_text": Family(
        mixer=gemma_attention,
        mlp=gemma3n_mlp,
        kinds=every(5, key=""),
        norms=4,
        outside=gemma3n_outside,
    ),
    "gemma4_text": Family(
        mixer=gemma4_attention,
        mlp=gemma4_mlp,
        kinds=every(6, key=""),
        norms=4,
        outside=gemma4_outside,
    ),
    "gemma4_unified_text": Family(
        mixer=gemma4_attention, mlp=gemma4_mlp, kinds=every(6, key=""), norms=4
    ),
    "glm": _GLM,
    "glm4": Family(mixer=attention("attention_bias", False), norms=4),
    "glm4_moe": Family(mixer=attention("attention_bias", False), mlp=_GLM_MOE),
    "glm4v_moe_text": Family(mixer=attention("attention_bias", False), mlp=_GLM_MOE),
    "glm4v_text": Family(mixer=attention(True, False), norms=4),
    "glm_ocr_text": Family(norms=4),
    "gpt2": Family(
        mixer=_BIASED, mlp=plain(True), norm_bias=True, outside=_positions("n_positions")
    ),
    "gpt_neox": Family(mixer=attention(), mlp=plain(True), norm_bias=True),
    "gpt_oss": Family(
        mixer=attention(sinks=True),
        mlp=experts(None, "intermediate_size", True),
        kinds=every(2, key=""),
    ),
    "granite": _LLAMA,
    "granite4_vision_text": _LLAMA,
    "granite_docling_text": _LLAMA,
    "hunyuan_vl_text": Family(mixer=attention(qk_norm="head")),
    "hyperclovax": Family(mixer=attention(), mlp=gated("mlp_bias"), norms=4),
    "internlm3": _LLAMA,
    "kosmos_2_5_text_model": Family(
        mixer=_BIASED,
        mlp=plain(True, with_norm=True),
        norm_bias=True,
        outside=lambda config: norm(width_of(config)) * 2,  # two embeddings of segments
    ),
    "kosmos_2_text_model": Family(
        mixer=_BIASED, mlp=plain(True, with_norm=True), norms=3, norm_bias=True
    ),
    "lfm2": Family(
        mixer=attention(False, False, qk_norm="head"),
        mlp=gated(False, _lfm2_inner),
        kinds=_lfm2,
        others={CONV: short_conv},
    ),
    "lfm3": Family(
        mixer=attention(qk_norm="head", gate="head"),
        kinds=_lfm3,
        others={CONV: short_conv},
        norms=4,
    ),
    "llama": _LLAMA,
    "llama4_text": Family(
        mixer=attention(),
        mlp=sparse(
            experts(_llama4_shared, "intermediate_size"),
            gated(inner=lambda config: config.width("intermediate_size_mlp")),
            _llama4_sparse,
        ),
        kinds=_llama4,
    ),
    "minicpm3": Family(mixer=latent_attention, mlp=gated("mlp_bias")),
    "ministral3": _PHI3,
    "mistral": _PHI3,
    "mistral4": _DEEPSEEK,
    "mixtral": Family(mlp=experts(None, "intermediate_size"), kinds=windowed),
    "molmo2_text": Family(
        mixer=_molmo2,
        outside=lambda config: norm(width_of(config)) * config.count("additional_vocab_size"),
    ),
    "mpt": Family(mlp=plain()),
    "muse_glimmer_text": Family(mixer=attention(gate="full"), kinds=every(4, key=""), norms=4),
    "olmo": Family(mixer=attention(), norms=0, final=False),
    "olmo2": Family(mixer=attention(qk_norm="heads")),
    "olmo3": Family(mixer=attention(qk_norm="heads"), kinds=every(4, key="")),
    "opt": Family(
        mixer=attention("enable_bias", "enable_bias"),
        mlp=plain("enable_bias"),
        norm_bias=True,
        final="do_layer_norm_before",
        outside=_opt_outside,
    ),
    "paddleocr_vl_text": Family(mixer=attention("use_bias", "use_bias"), mlp=gated("use_bias")),
    "persimmon": Family(
        mixer=attention(True, True, qk_norm="head", norm_bias=True),
        mlp=plain(True),
        norm_bias=True,
    ),
    "phi": Family(mixer=_BIASED, mlp=plain(True), norms=1, norm_bias=True, head_bias=True),
    "phi3": _PHI3,
    "phi4_multimodal": _PHI3,
    "qwen2": _QWEN2,
    "qwen2_5_omni_text": _QWEN2,
    "qwen2_5_vl_text": _QWEN2,
    "qwen2_moe": Family(
        mixer=attention("qkv_bias", False),
        mlp=sparse(experts(gated_shared_expert), gated(), stepped),
        kinds=behind,
    ),
    "qwen2_vl_text": _QWEN2,
    "qwen3": _QWEN3,
    "qwen3_5_moe_text": Family(
        mixer=_GATED, mlp=experts(gated_shared_expert), kinds=_LINEAR, others=_DELTA
    ),
    "qwen3_5_text": Family(mixer=_GATED, kinds=_LINEAR, others=_DELTA),
    "qwen3_moe": _QWEN3_MOE,
    "qwen3_next": Family(
        mixer=_GATED,
        mlp=sparse(experts(gated_shared_expert), gated(), stepped),
        kinds=_LINEAR,
        others=_DELTA,
    ),
    "qwen3_omni_moe_text": _QWEN3_MOE,
    "qwen3_vl_moe_text": replace(_QWEN3_MOE, kinds=_ALL),
    "qwen3_vl_text": Family(mixer=attention(qk_norm="head")),
    "smollm3": Family(mixer=attention(), mlp=gated("mlp_bias")),
    "stablelm": Family(mixer=attention("use_qkv_bias", False), norm_bias=True),
    "starcoder2": Family(
        mixer=attention("use_bias", "use_bias"),
        mlp=plain("use_bias"),
        kinds=windowed,
        norm_bias=True,
    ),
    "unlimited_ocr_text": Family(
        mixer=attention(), mlp=sparse(experts(shared_experts), gated(), listed(1))
    ),
}
"""The decoders that can be counted, by their model type."""

_ENCODER_DECODER = "is an encoder and a decoder: images go into the encoder"
_CROSS = "reads images by cross-attention: they are no tokens of its own"
_ENCODER = "is an encoder: it writes no text"
_MAMBA = "has Mamba layers: their scan has no matrix products, and torch counts nothing of it"
_INDEXER = "chooses with an indexer which keys each query sees"

REFUSED: Mapping[str, str] = {
    "bart": _ENCODER_DECODER,
    "bamba": _MAMBA,
    "bert": _ENCODER,
    "deepseek_v32": _INDEXER,
    "dots3_note_text": _INDEXER,
    "ernie4_5_vl_moe_text": "has other experts for the tokens of images than for those of text",
    "falcon_h1": _MAMBA,
    "glm5_next_text": _INDEXER,
    "glm_moe_dsa": _INDEXER,
    "idefics": _CROSS,
    "minimax_m3_vl_text": _INDEXER,
    "mistral_large4_text": _INDEXER,
    "mllama_text_model": _CROSS,
    "modernbert": _ENCODER,
    "nemotron_h": _MAMBA,
    "qwen4_exp_text": _INDEXER,
    "t5": _ENCODER_DECODER,
    "t5gemma2_text": _ENCODER_DECODER,
    "ultrabert": _ENCODER,
}
"""Why others cannot."""
