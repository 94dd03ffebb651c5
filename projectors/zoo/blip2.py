"""BLIP-2's Q-Former and the linear layer behind it."""

from __future__ import annotations

from typing import ClassVar

from ...blocks.attention import Depth, Heads, Queries
from ...blocks.core.activation import Act
from ...blocks.norm_act import Eps
from ...blocks.pointwise import Pointwise
from ...blocks.qformer import QFormer
from ..preset import Aliases, Channels, Preset, TokensBy
from ..stack import Stack
from ..upstream import Checkpoint, Match, Name, Upstream, refused

__all__ = ["Blip2"]


def _names(stack: Stack) -> list[str | Name]:
    inner = ("attention.query", "attention.key", "attention.value", "output.dense")
    attention = (*inner, "output.LayerNorm")
    ffn = ("intermediate_query.dense", "output_query.dense", "output_query.LayerNorm")
    names: list[str | Name] = [Name("query_tokens", "batch"), "qformer.layernorm"]
    [qformer] = [block for block in stack.blocks if isinstance(block, QFormer)]
    for layer in range(qformer.depth):
        path = f"qformer.encoder.layer.{layer}"
        names += [f"{path}.attention.{part}" for part in attention]
        if layer % qformer.cross_every == 0:
            names += [f"{path}.crossattention.{part}" for part in attention]
        names += [f"{path}.{part}" for part in ffn]
    return [*names, "language_projection"]


def _read(ckpt: Checkpoint) -> Match:
    first = "qformer.encoder.layer.0"
    _, queries, width = ckpt.shapes["query_tokens"]
    options = {
        "width": width,
        "queries": queries,
        "depth": ckpt.layers("qformer.encoder.layer"),
        "heads": ckpt.setting("qformer_config.num_attention_heads", 12),
        "hidden": ckpt.matrix(f"{first}.intermediate_query.dense.weight")[0],
        "cross_every": ckpt.setting("qformer_config.cross_attention_frequency", 2),
        "eps": ckpt.setting("qformer_config.layer_norm_eps", 1e-12),
        "act": ckpt.act("qformer_config.hidden_act"),
    }
    _, in_ = ckpt.matrix(f"{first}.crossattention.attention.key.weight")
    return Match(in_, ckpt.matrix("language_projection.weight")[0], options)


class Blip2(Preset):
    """``Q-Former > Linear``; 32 tokens come out of any number.

    Used by BLIP-2 and, with a linear layer of its own, MiniGPT-4.

    Source: huggingface/transformers, ``models/blip_2/modeling_blip_2.py``
    (`Blip2QFormerModel`); Li et al., "BLIP-2", 2023.

    Note: its authors count 188 M parameters for the Q-Former, with the layers and embeddings for
    text, which images do not use.

    Traps: the CLS token is kept; the norms follow the residual sums, with an eps of 1e-12; only
    every second layer attends to the image; released models keep it in fp32. InstructBLIP's
    Q-Former also reads text; it is not this one.

    Attributes:
        width: The queries' width.
        queries: The number of queries, which is the number of tokens that come out.
        depth: The number of layers.
        heads: The number of heads, which divides `width`.
        hidden: The inner width of the feed-forward layers; None is four times `width`.
        cross_every: Every how many layers one attends to the image.
        eps: Of the norms.
        act: The activation of the feed-forward layers; ``gelu`` is the exact form.
    """

    width: Channels = 768
    queries: Queries = 32
    depth: Depth = 12
    heads: Heads = 12
    hidden: Channels | None = None
    cross_every: Depth = 2
    eps: Eps = 1e-12
    act: Act = "gelu"

    def expand(self, in_: int, out: int) -> Stack:
        qformer = QFormer(
            out=self.width,
            queries=self.queries,
            depth=self.depth,
            heads=self.heads,
            hidden=self.hidden,
            cross_every=self.cross_every,
            eps=self.eps,
            act=self.act,
        )
        return Stack(in_=in_, out=out, blocks=(qformer, Pointwise()))

    aliases: ClassVar[Aliases] = {"Blip2QFormerModel": {}}
    models: ClassVar[Aliases] = {"BLIP-2": {}, "MiniGPT-4": {}}
    tokens_by: ClassVar[TokensBy] = {"queries": lambda tokens, _: tokens}
    upstream = (
        Upstream(
            "blip2",
            _names,
            prefix="model",
            tensors=("query_tokens", "qformer.layernorm.weight", "language_projection.weight"),
            read=_read,
            model_types=("blip-2",),
            prefixes=("query_tokens", "qformer.", "language_projection."),
        ),
        Upstream(
            "blip2",
            _names,
            prefix="model",
            tensors=("query_tokens", "qformer.embeddings.layernorm.weight"),
            read=refused("Q-Former reads the instruction too"),
            model_types=("instructblip", "instructblipvideo"),
        ),
    )
