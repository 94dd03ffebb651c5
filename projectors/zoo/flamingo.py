"""Flamingo's perceiver resampler and those of models that adopted it."""

from __future__ import annotations

from typing import ClassVar, Literal

from ...blocks.attention import Depth, HeadDim, Heads, Queries
from ...blocks.core.block import Block
from ...blocks.pointwise import Pointwise
from ...blocks.resampler import Resampler
from ..preset import Aliases, Preset, TokensBy
from ..stack import Stack
from ..upstream import Checkpoint, Fused, Match, Name, Upstream

__all__ = ["Flamingo"]


def _names(stack: Stack) -> list[str | Name | Fused]:
    names: list[str | Name | Fused] = [Name("latents", "bare")]
    for layer in range(_resampler(stack).depth):
        attention, ffn = f"layers.{layer}.0", f"layers.{layer}.1"
        names += [f"{attention}.{part}" for part in ("norm_media", "norm_latents", "to_q")]
        names += [Fused(f"{attention}.to_kv", (0, 1)), f"{attention}.to_out"]
        names += [f"{ffn}.{part}" for part in (0, 1, 3)]
    return [*names, "norm"]


def _names_of_idefics(stack: Stack) -> list[str | Name]:
    resampler = _resampler(stack)
    q, k = ["q_proj"], ["k_proj"]
    if resampler.qk_norm:
        q, k = [*q, "q_layer_norm"], [*k, "k_layer_norm"]
    attention = ["context_layer_norm", "latents_layer_norm", *q, *k, "v_proj", "output_proj"]
    names: list[str | Name] = [Name("latents", "bare")]
    for layer in range(resampler.depth):
        names += [f"blocks.{layer}.0.{part}" for part in attention]
        names += [f"blocks.{layer}.1.{part}" for part in ("ln", "fc", "c_proj")]
    return [*names, "layer_norm"]


def _resampler(stack: Stack) -> Resampler:
    [resampler] = [block for block in stack.blocks if isinstance(block, Resampler)]
    return resampler


def _read(ckpt: Checkpoint) -> Match:
    queries, width = ckpt.matrix("latents")
    q, _ = ckpt.matrix("layers.0.0.to_q.weight")
    # No config is saved along; its heads are always 64 wide.
    options = {"queries": queries, "depth": ckpt.layers("layers"), "heads": q // 64}
    return Match(width, width, options)


def _read_idefics(ckpt: Checkpoint) -> Match:
    queries, width = ckpt.matrix("latents")
    q, _ = ckpt.matrix("blocks.0.0.q_proj.weight")
    head_dim = ckpt.setting("perceiver_config.resampler_head_dim", 96)
    options = {
        "queries": queries,
        "depth": ckpt.layers("blocks"),
        "heads": q // head_dim,
        "head_dim": head_dim,
        "act": "relu",
        "qk_norm": "blocks.0.0.q_layer_norm.weight" in ckpt.shapes,
    }
    return Match(width, width, options)


_IDEFICS = {"heads": 16, "head_dim": 96, "act": "relu"}


class Flamingo(Preset):
    """``perceiver resampler [> Linear]``; 64 tokens come out of any number.

    Used by OpenFlamingo and, with ReLU and wider heads, Idefics (`idefics`). Both pass the vision
    width on to the language model's cross-attention; where the two widths differ, a linear layer
    follows.

    Source: mlfoundations/open_flamingo, ``open_flamingo/src/helpers.py`` (`PerceiverResampler`);
    huggingface/transformers, ``models/idefics/perceiver.py`` (`IdeficsPerceiverResampler`); Alayrac
    et al., "Flamingo", 2022.

    Traps: the keys and values include the latents; tokens and latents have a norm each; Idefics may
    normalise queries and keys too. OpenFlamingo's optional frame and media embeddings are left out.

    Attributes:
        queries: The number of latents, which is the number of tokens that come out.
        depth: The number of layers.
        heads: The number of heads.
        head_dim: The width of a head.
        act: The activation of the feed-forward layers.
        qk_norm: Whether each head's queries and keys pass a LayerNorm.
    """

    queries: Queries = 64
    depth: Depth = 6
    heads: Heads = 8
    head_dim: HeadDim = 64
    act: Literal["gelu", "relu"] = "gelu"
    qk_norm: bool = False

    def expand(self, in_: int, out: int) -> Stack:
        resampler = Resampler(
            queries=self.queries,
            depth=self.depth,
            heads=self.heads,
            head_dim=self.head_dim,
            ffn=self.act,
            qk_norm=self.qk_norm,
        )
        last: tuple[Block, ...] = (Pointwise(),) if in_ != out else ()
        return Stack(in_=in_, out=out, blocks=(resampler, *last))

    aliases: ClassVar[Aliases] = {
        "idefics": _IDEFICS,
        "IdeficsPerceiverResampler": _IDEFICS,
        "PerceiverResampler": {},
    }
    models: ClassVar[Aliases] = {"OpenFlamingo": {}, "Idefics": _IDEFICS}
    tokens_by: ClassVar[TokensBy] = {"queries": lambda tokens, _: tokens}
    upstream = (
        Upstream(
            "open-flamingo",
            _names,
            prefix="perceiver",
            tensors=("latents", "layers.0.0.to_kv.weight"),
            read=_read,
        ),
        Upstream(
            "idefics",
            _names_of_idefics,
            prefix="perceiver_resampler",
            tensors=("latents", "blocks.0.0.q_proj.weight"),
            read=_read_idefics,
            model_types=("idefics",),
        ),
    )
