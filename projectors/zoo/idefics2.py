"""Idefics2's connector."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from ...blocks.attention import Depth, Heads, Queries
from ...blocks.core.activation import Act
from ...blocks.glu import Glu
from ...blocks.pointwise import Pointwise
from ...blocks.resampler import Resampler
from ..preset import Aliases, Channels, Preset, TokensBy
from ..stack import Stack
from ..upstream import Checkpoint, Match, Name, Upstream

__all__ = ["Idefics2"]


def _names(stack: Stack) -> list[str | Name]:
    mlp = ("gate_proj", "up_proj", "down_proj")
    layer_parts = (
        *("input_context_norm", "input_latents_norm"),
        *(f"self_attn.{part}" for part in ("q_proj", "k_proj", "v_proj", "o_proj")),
        "post_attention_layernorm",
        *(f"mlp.{part}" for part in mlp),
    )
    [resampler] = [block for block in stack.blocks if isinstance(block, Resampler)]
    return [
        *(f"modality_projection.{part}" for part in mlp),
        Name("perceiver_resampler.latents", "bare"),
        *(
            f"perceiver_resampler.layers.{layer}.{part}"
            for layer in range(resampler.depth)
            for part in layer_parts
        ),
        "perceiver_resampler.norm",
    ]


def _read(ckpt: Checkpoint) -> Match:
    hidden, in_ = ckpt.matrix("modality_projection.gate_proj.weight")
    queries, out = ckpt.matrix("perceiver_resampler.latents")
    attention = "perceiver_resampler.layers.0.self_attn"
    head_dim = ckpt.setting("perceiver_config.resampler_head_dim", 96)
    # With another width than its config says, transformers takes the language model's, eps and all.
    own = ckpt.setting("perceiver_config.hidden_size", 4096) == out
    options = {
        "hidden": hidden,
        "queries": queries,
        "depth": ckpt.layers("perceiver_resampler.layers"),
        "heads": ckpt.matrix(f"{attention}.q_proj.weight")[0] // head_dim,
        "kv_heads": ckpt.matrix(f"{attention}.k_proj.weight")[0] // head_dim,
        "head_dim": head_dim,
        "eps": ckpt.setting(f"{'perceiver' if own else 'text'}_config.rms_norm_eps", 1e-6),
        "act": ckpt.act("text_config.hidden_act", "silu"),
        "resampler_act": ckpt.act("perceiver_config.hidden_act", "silu"),
    }
    return Match(in_, out, options)


class Idefics2(Preset):
    """``SwiGLU > Linear > perceiver resampler``; 64 tokens come out of any number.

    Used by Idefics2.

    Source: huggingface/transformers, ``models/idefics2/modeling_idefics2.py``
    (`Idefics2Connector`); Laurençon et al., "What matters when building vision-language models?",
    2024.

    Traps: the tokens are brought to the language model's width before they are resampled; no layer
    has a bias; the eps is the perceiver's, not the language model's; keys and values have fewer
    heads. There is no padding mask: pass each image's own tokens only.

    Attributes:
        hidden: The inner width of the first SwiGLU, which is the language model's own.
        queries: The number of latents, which is the number of tokens that come out.
        depth: The number of layers.
        heads: The number of heads.
        kv_heads: The number of heads of keys and values.
        head_dim: The width of a head.
        eps: Of the norms.
        act: The activation of the first SwiGLU's gate, which is the language model's own.
        resampler_act: The activation of the gates in the resampler.
    """

    hidden: Channels = 14336
    queries: Queries = 64
    depth: Depth = 3
    heads: Heads = 16
    kv_heads: Heads = 4
    head_dim: Annotated[int, Field(ge=1, le=1024)] = 96
    eps: float = 1e-6
    act: Act = "silu"
    resampler_act: Act = "silu"

    def expand(self, in_: int, out: int) -> Stack:
        blocks = (
            Glu(out=self.hidden, act=self.act, bias=False),
            Pointwise(bias=False),
            Resampler(
                queries=self.queries,
                depth=self.depth,
                heads=self.heads,
                head_dim=self.head_dim,
                kv_heads=self.kv_heads,
                norm="rms",
                eps=self.eps,
                ffn="swiglu",
                gate=self.resampler_act,
            ),
        )
        return Stack(in_=in_, out=out, blocks=blocks)

    aliases: ClassVar[Aliases] = {"Idefics2Connector": {}}
    models: ClassVar[Aliases] = {"Idefics2": {}}
    tokens_by: ClassVar[TokensBy] = {"queries": lambda tokens, _: tokens}
    upstream = (
        Upstream(
            "idefics2",
            _names,
            prefix="connector",
            tensors=("modality_projection.gate_proj.weight", "perceiver_resampler.latents"),
            read=_read,
            model_types=("idefics2",),
        ),
    )
