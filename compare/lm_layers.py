"""What the layers of language models hold, read off a config: what mixes tokens, and MLPs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..blocks.core.errors import SpecError
from ..projectors.model_config import ModelConfig
from ..registry import quote
from .parts import Flag, Layer, Part, flag, linear, norm
from .parts import gated as gated_mlp

__all__ = [
    "CHUNKED",
    "CONV",
    "FULL",
    "LINEAR",
    "SLIDING",
    "Kind",
    "Mixer",
    "Mlp",
    "always",
    "attention",
    "behind",
    "delta_net",
    "every",
    "experts",
    "gated",
    "gated_shared_expert",
    "kind_of",
    "latent_attention",
    "listed",
    "plain",
    "shared_experts",
    "short_conv",
    "sparse",
    "stepped",
    "width_of",
    "windowed",
    "windows",
]

Kind = Callable[[ModelConfig, int], str]
Mixer = Callable[[ModelConfig, str, int], Layer]
Mlp = Callable[[ModelConfig, int], Part]
FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"
LINEAR, CONV = "linear_attention", "conv"
# Of Unlimited-OCR: windows for the tokens that it writes, none for those that it is given.
REFERENCE = "reference_sliding_attention"


def width_of(config: ModelConfig) -> int:
    """Return the width of a language model's layers."""
    return config.width("hidden_size", "n_embd", "d_model", "embed_dim")


# ---------------------------------------------------------------------------- kinds of layers


def kind_of(config: ModelConfig, index: int, rule: Kind) -> str:
    """Return the kind of a layer, in the words of transformers' ``layer_types``.

    Args:
        config: The language model's config.
        index: Which layer.
        rule: Returns its kind if the config does not list them.
    """
    if config.get("layer_types") is None:
        return rule(config, index)
    kinds = config.items("layer_types", index + 1)
    return str(kinds[index])


def always(kind: str) -> Kind:
    """Every layer is of one kind."""
    return lambda config, index: kind


def windowed(config: ModelConfig, index: int) -> str:
    """Every layer has a window, if the config gives one and does not switch it off."""
    off = config.get("sliding_window") is None or config.get("use_sliding_window") is False
    return FULL if off else SLIDING


def behind(config: ModelConfig, index: int) -> str:
    """The layers from ``max_window_layers`` on have a window, if windows are switched on."""
    if not config.get("use_sliding_window"):
        return FULL
    return FULL if index < config.count("max_window_layers") else SLIDING


def every(n: int, other: str = SLIDING, key: str = "sliding_window_pattern") -> Kind:
    """Every n-th layer, or as often as the config says, sees all tokens."""

    def kind(config: ModelConfig, index: int) -> str:
        step = n if config.get(key) is None else config.width(key)
        return other if (index + 1) % step else FULL

    return kind


# ---------------------------------------------------------------------------- what mixes tokens


def attention(
    qkv: Flag = "attention_bias",
    out: Flag = "attention_bias",
    *,
    qk_norm: str = "",
    norm_bias: bool = False,
    gate: str = "",
    sinks: bool = False,
) -> Mixer:
    """Return attention, of heads that may share keys and values.

    Args:
        qkv: Whether queries, keys and values have a bias.
        out: Whether the output has one.
        qk_norm: Whether queries and keys are normalised: ``"head"`` with weights that heads share,
            ``"heads"`` with weights of each head, or not.
        norm_bias: Whether these norms have a bias.
        gate: What multiplies the output: ``"full"`` a number for each of its channels, ``"head"``
            one for each head, or nothing.
        sinks: Whether each head has a weight that attention may go to.
    """

    def mixer(config: ModelConfig, kind: str, index: int) -> Layer:
        heads, kv_heads, head = heads_of(config)
        width, biased = width_of(config), flag(config, qkv)
        layer = Layer(pair=2 * heads * head, cache=2 * kv_heads * head)
        layer += linear(width, heads * head, biased)
        layer += linear(width, kv_heads * head, biased) * 2
        if gate:
            layer += linear(width, heads if gate == "head" else heads * head, biased)
        layer += linear(heads * head, width, flag(config, out))
        if qk_norm == "head":
            layer += norm(head, norm_bias) * 2
        elif qk_norm:
            layer += norm(heads * head, norm_bias) + norm(kv_heads * head, norm_bias)
        if sinks:
            layer += norm(heads)
        return windows(layer, config, kind)

    return mixer


def heads_of(config: ModelConfig) -> tuple[int, int, int]:
    """Return how many heads of queries there are, how many of keys, and how wide each is."""
    heads = config.width("num_attention_heads", "n_head", "n_heads", "attention_heads")
    kv_heads = heads
    if config.get("num_key_value_heads") is not None:
        kv_heads = config.width("num_key_value_heads")
    if config.get("head_dim") is not None:
        return heads, kv_heads, config.width("head_dim")
    return heads, kv_heads, width_of(config) // heads


def windows(layer: Layer, config: ModelConfig, kind: str) -> Layer:
    """Return attention with the window that its kind of layer has."""
    if kind == SLIDING:
        return replace(layer, window=config.width("sliding_window"))
    if kind == CHUNKED:
        return replace(layer, window=config.width("attention_chunk_size"), chunked=True)
    if kind in (FULL, REFERENCE):
        return layer
    raise SpecError(f"a layer of kind {quote(kind)}", config.where, "one that can be counted")


def latent_attention(config: ModelConfig, kind: str, index: int) -> Layer:
    """Multi-head latent attention, as DeepSeek's: what is cached is the compressed latent.

    Prefill expands it to keys and values of every head, as transformers does.
    """
    heads, width = config.width("num_attention_heads"), width_of(config)
    plain_dim, rope = config.width("qk_nope_head_dim"), config.width("qk_rope_head_dim")
    rank, bias = config.width("kv_lora_rank"), config.get("attention_bias")
    value = width // heads
    if config.get("v_head_dim") is not None:
        value = config.width("v_head_dim")
    query = heads * (plain_dim + rope)
    layer = Layer(pair=query + heads * value, cache=rank + rope)
    if config.get("q_lora_rank") is None:
        layer += linear(width, query)
    else:
        low = config.width("q_lora_rank")
        layer += linear(width, low, bias) + norm(low) + linear(low, query)
    layer += linear(width, rank + rope, bias) + norm(rank)
    layer += linear(rank, heads * (plain_dim + value)) + linear(heads * value, width, bias)
    return windows(layer, config, kind)


def delta_net(config: ModelConfig, kind: str, index: int) -> Layer:
    """Gated delta rule, as Qwen3-Next's: a state of fixed size, 64 tokens at a time.

    Its work is that of transformers' own form. The triangular systems in it count nothing, as in
    torch's counts.
    """
    width, kernel = width_of(config), config.width("linear_conv_kernel_dim")
    key_heads, heads = config.width("linear_num_key_heads"), config.width("linear_num_value_heads")
    key, value = config.width("linear_key_head_dim"), config.width("linear_value_head_dim")
    mixed = 2 * key_heads * key + heads * value
    layer = Layer(
        chunk=heads * (64 * 64 * (2 * key + value) + 3 * 64 * key * value),
        state=mixed * kernel,
        state_fp32=heads * key * value,
    )
    layer += linear(width, mixed + heads * value) + linear(width, 2 * heads)
    layer += linear(kernel, mixed) + norm(heads) * 2 + norm(value)
    return layer + linear(heads * value, width)


def short_conv(config: ModelConfig, kind: str, index: int) -> Layer:
    """LFM2's gated convolution: it keeps as many tokens as its kernel has."""
    width, kernel, bias = width_of(config), config.width("conv_L_cache"), config.get("conv_bias")
    layer = Layer(state=width * kernel) + linear(width, 3 * width, bias)
    return layer + linear(kernel, width, bias) + linear(width, width, bias)


# ---------------------------------------------------------------------------- MLPs


def _inner(config: ModelConfig) -> int:
    """Return the width inside of an MLP; without one it is four times that of the layer."""
    keys = ("intermediate_size", "ffn_dim", "n_inner")
    if all(config.get(key) is None for key in keys):
        return 4 * width_of(config)
    return config.width(*keys)


def gated(bias: Flag = False, inner: Callable[[ModelConfig], int] = _inner) -> Mlp:
    """Return an MLP of three layers: gate, up and down."""

    def mlp(config: ModelConfig, index: int) -> Part:
        return gated_mlp(width_of(config), inner(config), flag(config, bias))

    return mlp


def plain(bias: Flag = False, *, with_norm: bool = False) -> Mlp:
    """Return an MLP of two layers, perhaps with a norm between them."""

    def mlp(config: ModelConfig, index: int) -> Part:
        width, inner, biased = width_of(config), _inner(config), flag(config, bias)
        part = linear(width, inner, biased) + linear(inner, width, biased)
        return part + norm(inner, True) if with_norm else part

    return mlp


def experts(
    shared: Callable[[ModelConfig], Part] | None = None,
    inner: str = "moe_intermediate_size",
    bias: bool = False,
) -> Mlp:
    """Return a mixture of gated experts. Each token's work is that of the experts that it is given.

    Args:
        shared: Returns what every token passes besides.
        inner: The key of the experts' width.
        bias: Whether experts and the choice of them have biases.
    """

    def mlp(config: ModelConfig, index: int) -> Part:
        width = width_of(config)
        number = config.width(
            "num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"
        )
        active = config.width("num_experts_per_tok", "moe_topk", "moe_k")
        expert = gated_mlp(width, config.width(inner), bias)
        part = Part(parameters=expert.parameters * number, macs=expert.macs * active)
        part += linear(width, number, bias)
        return part + shared(config) if shared else part

    return mlp


def shared_experts(config: ModelConfig) -> Part:
    """DeepSeek's shared experts: together one MLP."""
    number = config.count("n_shared_experts")
    return gated_mlp(width_of(config), number * config.width("moe_intermediate_size"))


def gated_shared_expert(config: ModelConfig) -> Part:
    """Qwen's shared expert, and its gate."""
    width = width_of(config)
    return gated_mlp(width, config.width("shared_expert_intermediate_size")) + linear(width, 1)


def sparse(moe: Mlp, dense: Mlp, is_sparse: Callable[[ModelConfig, int], bool]) -> Mlp:
    """Return experts in some layers and an MLP in the others."""
    return lambda config, index: (moe if is_sparse(config, index) else dense)(config, index)


def listed(first: int = 0) -> Callable[[ModelConfig, int], bool]:
    """Layers are sparse as the config lists them; else from a number on, which it may give."""

    def is_sparse(config: ModelConfig, index: int) -> bool:
        if config.get("mlp_layer_types") is not None:
            return bool(config.items("mlp_layer_types", index + 1)[index] == "sparse")
        given = config.get("first_k_dense_replace")
        return index >= (first if given is None else config.count("first_k_dense_replace"))

    return is_sparse


def stepped(config: ModelConfig, index: int) -> bool:
    """Qwen's choice: every n-th layer, but for some."""
    if config.get("mlp_only_layers") and index in config.items("mlp_only_layers"):
        return False
    step = config.get("decoder_sparse_step")
    return step is None or (index + 1) % config.width("decoder_sparse_step") == 0
