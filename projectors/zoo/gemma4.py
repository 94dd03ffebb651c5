"""Gemma 4's pooler and embedder."""

from __future__ import annotations

from typing import ClassVar

from ...blocks.core.block import Block
from ...blocks.norm_act import NormAct
from ...blocks.pointwise import Pointwise
from ...blocks.pool import Pool
from ...blocks.scale import Scale
from ..preset import Aliases, Preset, TokensBy, UpTo64
from ..stack import Stack
from ..upstream import Checkpoint, Match, Name, Upstream

__all__ = ["Gemma4"]


def _names(stack: Stack) -> list[str | Name]:
    [scale] = [block for block in stack.blocks if isinstance(block, Scale)]
    first = [Name("vision_tower.std", join="_")] if scale.standardize else []
    return [*first, "embed_vision.embedding_projection"]


def _read(ckpt: Checkpoint) -> Match:
    out, in_ = ckpt.matrix("embed_vision.embedding_projection.weight")
    options = {
        "pool": ckpt.setting("vision_config.pooling_kernel_size", 3),
        "eps": ckpt.setting("vision_config.rms_norm_eps", 1e-6),
        "standardize": "vision_tower.std_bias" in ckpt.shapes,
    }
    return Match(in_, out, options)


def _read_audio(ckpt: Checkpoint) -> Match:
    out, in_ = ckpt.matrix("embedding_projection.weight")
    options = {"eps": ckpt.setting("audio_config.rms_norm_eps", 1e-6)}
    return Match(in_, out, options, preset="gemma4-audio")


class Gemma4(Preset):
    """``average pool s x s > * sqrt(width) > [standardise] > RMS norm without weight > Linear``.

    Used by Gemma 4, DiffusionGemma and EmbeddingGemma 2; for sound without pool and scale.

    Source: huggingface/transformers, ``models/gemma4/modeling_gemma4.py``
    (`Gemma4VisionPooler`, `Gemma4VisionModel.forward`, `Gemma4MultimodalEmbedder`).

    Traps: upstream pools by position ids over a padded batch; here the images are packed, each
    with its grid, and the output is upstream's valid tokens. The 26B and 31B models
    standardise. The scaled features may exceed fp16's range: run it in fp32 or bf16.

    Attributes:
        pool: The side s of the pooled windows; 1 does not pool.
        eps: Of the norm.
        scale: Whether the features are multiplied by the root of their width.
        standardize: Whether the scaled features are standardised.
    """

    pool: UpTo64 = 3
    eps: float = 1e-6
    scale: bool = True
    standardize: bool = False

    def expand(self, in_: int, out: int) -> Stack:
        pool: tuple[Block, ...] = (Pool(mode="avg", stride=self.pool),)
        scale: tuple[Block, ...] = (Scale(by="root-channels", standardize=self.standardize),)
        blocks = (
            *(pool if self.pool > 1 else ()),
            *(scale if self.scale else ()),
            NormAct(norm="rms", eps=self.eps, weight="none", act="none"),
            Pointwise(bias=False),
        )
        return Stack(in_=in_, out=out, blocks=blocks)

    aliases: ClassVar[Aliases] = {
        "gemma4-audio": {"pool": 1, "scale": False},
        "DiffusionGemmaMultimodalEmbedder": {"pool": 1, "scale": False},
        "EmbeddingGemma2MultimodalEmbedder": {"pool": 1, "scale": False},
        "Gemma4MultimodalEmbedder": {"pool": 1, "scale": False},
    }
    models: ClassVar[Aliases] = {"DiffusionGemma": {}, "EmbeddingGemma 2": {}, "Gemma 4": {}}
    tokens_by: ClassVar[TokensBy] = {"pool": range(1, 65)}
    upstream = (
        Upstream(
            "gemma4-model",
            _names,
            prefix="model|encoder",
            tensors=("embed_vision.embedding_projection.weight",),
            read=_read,
            model_types=("gemma4", "diffusion_gemma", "embedding_gemma2"),
            prefixes=("embed_vision.embedding_projection.", "vision_tower.std_"),
        ),
        Upstream(
            "gemma4",
            ("embedding_projection",),
            prefix="embed_audio",
            read=_read_audio,
            secondary=True,
            needs_prefix=True,
        ),
    )
