"""What a language model costs, read off its config: parameters, prefill and KV cache."""

from __future__ import annotations

from dataclasses import dataclass

from ..blocks.core.errors import SpecError
from ..projectors.model_config import ModelConfig, open_config
from ..projectors.tower import TEXT_KEYS
from ..registry import did_you_mean, quote
from .defaults import defaults_of, hosts
from .lm_families import FAMILIES, REFUSED, Family
from .lm_layers import kind_of, width_of
from .parts import Layer, Part, flag, linear, norm

__all__ = ["LanguageModel", "read_lm"]

# Whole models whose config stands among that of their language model, as LLaVA's own format.
_FLAT = {"llava_llama": "llama", "llava_mistral": "mistral", "llava_qwen": "qwen2"}
_FLAT |= {"mobilevlm": "llama", "bunny-phi": "phi"}
_BY_HAND = (
    "Give the sizes of one by hand that costs the same, in Llama's words: {'model_type': 'llama', "
    "'hidden_size': 4096, 'intermediate_size': 11008, 'num_hidden_layers': 32, "
    "'num_attention_heads': 32, 'num_key_value_heads': 8, 'vocab_size': 32000}."
)


@dataclass(frozen=True, kw_only=True)
class LanguageModel:
    """What a decoder costs, on paper.

    Attributes:
        width: The width of its embeddings.
        vocabulary: How many tokens it knows.
        layers: Its layers, the first one first.
        outside: What stands around the layers and works on each token: embeddings, norms.
        head: What makes the next token's logits. It has no parameters if it shares those of the
            embeddings.
    """

    width: int
    vocabulary: int
    layers: tuple[Layer, ...]
    outside: Part
    head: Part

    @property
    def parameters(self) -> int:
        """How many parameters it has, embeddings and head included; shared ones count once."""
        parts: tuple[Part, ...] = (*self.layers, self.outside, self.head)
        return sum(part.parameters for part in parts)

    def prefill_macs(self, tokens: int, text: int = 0, *, causal: bool = False) -> int:
        """Return the multiply-accumulates until the first token is there.

        Every weight works once for each token; of the logits only the last token's are computed.
        Attention computes every pair of a query and a key, also those that the mask hides, as the
        eager and the SDPA form of transformers do and as torch counts SDPA. Norms, softmax and
        rotations have no matrix product and count nothing.

        Args:
            tokens: How many tokens images have.
            text: How many tokens text has, before and behind them.
            causal: Whether attention skips the pairs that the mask hides, as FlashAttention does:
                those of later tokens, and those outside of a sliding window. Tokens of an image
                that see each other both ways, as Gemma 3's and PaliGemma's, count as others.
        """
        n = tokens + text
        if not n:
            return 0
        macs = self.outside.macs * n + self.head.macs
        return macs + sum(layer.prefill(n, causal=causal) for layer in self.layers)

    def kv_bytes(self, tokens: int, dtype_bytes: int = 2) -> int:
        """Return the bytes that its cache takes after `tokens` tokens.

        Args:
            tokens: How many tokens there are, of images and text.
            dtype_bytes: How many bytes a number takes: 2 in bfloat16 and float16.
        """
        return sum(layer.kept(tokens, dtype_bytes) for layer in self.layers)


def read_lm(config: object) -> LanguageModel:
    """Read what a language model costs. Neither weights nor a library are needed.

    >>> read_lm({"model_type": "llama"}).parameters
    6738415616

    Args:
        config: The config of a language model, or of a whole vision-language model of transformers,
            as an object or a mapping; a model that has it as ``config``; the path of a model's
            folder or of its ``config.json``; or a `LanguageModel`.

    Raises:
        SpecError: It cannot be read, it does not say what must be known, or models of this type
            cannot be counted.
    """
    if isinstance(config, LanguageModel):
        return config
    whole = open_config(config, "lm")
    text = whole.child(*TEXT_KEYS) or whole
    host = hosts().get(whole.model_type, {})
    kind = text.model_type
    if kind in ("", whole.model_type) and kind not in FAMILIES:
        kind = host.get("text") or _FLAT.get(kind, kind)
    family = FAMILIES.get(kind)
    if family is None:
        raise _unknown(text, kind)
    tied = whole.completed(host).get("tie_word_embeddings") if host else None
    text = text.completed(defaults_of(kind))
    try:
        return _read(text, family, text.get("tie_word_embeddings") if tied is None else tied)
    except SpecError as error:
        error.hint = _BY_HAND
        raise


def _read(config: ModelConfig, family: Family, tied: object) -> LanguageModel:
    both_ways = config.get("use_bidirectional_attention") not in (None, False, "vision")
    if both_ways and config.get("sliding_window") is not None:  # PaliGemma's has none, and writes
        where = f"{config.where}.use_bidirectional_attention"
        raise SpecError("its tokens see later ones", where, "a decoder")
    width, vocabulary = width_of(config), config.width("vocab_size")
    embedded = width
    if config.get("word_embed_proj_dim") is not None:
        embedded = config.width("word_embed_proj_dim")
    outside = Part(parameters=vocabulary * embedded) + family.outside(config)
    if flag(config, family.final):
        outside += norm(width, family.norm_bias)
    head = linear(embedded, vocabulary, family.head_bias)
    if tied:
        head = Part(parameters=head.parameters - head.macs, macs=head.macs)
    layers = config.count("num_hidden_layers", "n_layer", "n_layers", "layers")
    return LanguageModel(
        width=embedded,
        vocabulary=vocabulary,
        layers=tuple(_layer(config, family, i) for i in range(layers)),
        outside=outside,
        head=head,
    )


def _layer(config: ModelConfig, family: Family, index: int) -> Layer:
    kind = kind_of(config, index, family.kinds)
    mixer = family.others.get(kind, family.mixer)
    layer = mixer(config.layer(index), kind, index) + family.mlp(config.layer(index), index)
    return layer + norm(width_of(config), family.norm_bias) * family.norms


def _unknown(config: ModelConfig, kind: str) -> SpecError:
    if not kind:
        found = "no 'model_type' or 'text_config'"
        return SpecError(found, config.where, "the config of a language model", _BY_HAND)
    if kind in REFUSED:
        found = f"model type {quote(kind)} {REFUSED[kind]}; this is not counted"
        return SpecError(found, config.where, hint=_BY_HAND)
    hint = f"{did_you_mean(kind, FAMILIES)} {_BY_HAND}".strip()
    found = f"model type {quote(kind)} is no language model that can be counted"
    return SpecError(found, config.where, hint=hint)
