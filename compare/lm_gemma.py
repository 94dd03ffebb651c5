"""What Gemma 3n and 4 have besides: keys that layers share, and embeddings of each layer."""

from __future__ import annotations

from dataclasses import replace

from ..projectors.model_config import ModelConfig
from .lm_layers import FULL, width_of, windows
from .parts import Layer, Part, linear, norm
from .parts import gated as gated_mlp

__all__ = ["gemma3n_mlp", "gemma3n_outside", "gemma4_mlp", "gemma4_outside", "gemma_attention"]


def gemma_attention(config: ModelConfig, kind: str, index: int) -> Layer:
    """Attention with norms of queries and keys; the last layers may share an earlier one's keys.

    Layers that see all tokens may have other heads, and the same keys and values.
    """
    width, bias = width_of(config), config.get("attention_bias")
    heads, kv_heads = config.width("num_attention_heads"), config.width("num_key_value_heads")
    head, projections = config.width("head_dim"), 2
    if kind == FULL and config.get("attention_k_eq_v"):
        projections = 1
    layer = Layer(pair=2 * heads * head)
    layer += linear(width, heads * head, bias) + norm(head) + linear(heads * head, width, bias)
    if not _shares(config, index):
        layer += linear(width, kv_heads * head, bias) * projections + norm(head)
        layer = replace(layer, cache=2 * kv_heads * head)
    return windows(layer, config, kind)


def gemma4_attention(config: ModelConfig, kind: str, index: int) -> Layer:
    """Gemma 4's, whose config gives the heads of layers that see all tokens apart.

    Layers without keys of their own run on the last token alone, where transformers generates.
    """
    if kind == FULL and config.get("per_layer_config") is None:
        wide = config.get("global_head_dim") is not None
        changes = {"head_dim": config.width("global_head_dim") if wide else 512}
        if config.get("attention_k_eq_v") and config.get("num_global_key_value_heads") is not None:
            changes["num_key_value_heads"] = config.width("num_global_key_value_heads")
        config = config.with_changes(changes)
    return replace(gemma_attention(config, kind, index), last=_shares(config, index))


def _shares(config: ModelConfig, index: int) -> bool:
    """Return whether a layer reads the keys and values of an earlier one."""
    return index >= config.width("num_hidden_layers") - config.count("num_kv_shared_layers")


def _inputs(config: ModelConfig) -> Part:
    """Return how a layer takes its own embedding of each token in, if there are such."""
    width, size = width_of(config), config.count("hidden_size_per_layer_input")
    if not size:
        return Part()
    return linear(width, size) + linear(size, width) + norm(width)


def gemma4_mlp(config: ModelConfig, index: int) -> Part:
    """An MLP, perhaps twice as wide where keys are shared, and perhaps experts beside it."""
    width, inner = width_of(config), config.width("intermediate_size")
    double = config.get("use_double_wide_mlp") and _shares(config, index)
    part = gated_mlp(width, inner * (2 if double else 1)) + _inputs(config)
    if config.get("enable_moe_block"):
        number, active = config.width("num_experts"), config.width("top_k_experts")
        expert = gated_mlp(width, config.width("moe_intermediate_size"))
        part += Part(parameters=expert.parameters * number, macs=expert.macs * active)
        part += linear(width, number) + norm(width) * 4 + norm(number)
    return part


def gemma4_outside(config: ModelConfig) -> Part:
    """Return the table of each layer's embeddings, and their projection."""
    size, width = config.count("hidden_size_per_layer_input"), width_of(config)
    if not size:
        return Part()
    every = config.width("num_hidden_layers") * size
    table = Part(parameters=config.width("vocab_size_per_layer_input") * every)
    return table + linear(width, every) + norm(size)


def gemma3n_mlp(config: ModelConfig, index: int) -> Part:
    """An MLP, and what predicts and corrects the other streams of each token (AltUp, LAuReL)."""
    width, n, rank = width_of(config), config.width("altup_num_inputs"), config.width("laurel_rank")
    if isinstance(config.get("intermediate_size"), list | tuple):
        inners = config.widths("intermediate_size")
        inner = inners[min(index, len(inners) - 1)]
    else:
        inner = config.width("intermediate_size")
    part = gated_mlp(width, inner) + _inputs(config)
    part += linear(width, rank) + linear(rank, width) + norm(width)
    router = linear(width, n)  # asked twice
    part += router + Part(macs=router.macs) + linear(n, n * n) + linear(n, n) + norm(width) * 2
    return part + Part(macs=width * n * n)


def gemma3n_outside(config: ModelConfig) -> Part:
    """Return each layer's embeddings, and what opens and closes the other streams."""
    others = config.width("altup_num_inputs") - 1
    return gemma4_outside(config) + linear(width_of(config), width_of(config)) * (2 * others)
