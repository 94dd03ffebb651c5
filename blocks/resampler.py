"""The perceiver resampler: learned latents that attend to the image and to each other."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from .attention import Attention, Depth, FeedForward, Ffn, HeadDim, Heads, Queries, queries
from .core.activation import Act
from .core.block import Block
from .core.errors import SpecError
from .core.feature import Feature
from .core.masks import PackedQueries, attend_apart, pack_queries
from .core.packing import Packing
from .norm_act import RMSNorm

__all__ = ["Resampler", "ResamplerLayer", "ResamplerModule"]

Norm = Literal["layer", "rms"]


class Resampler(Block):
    """Cross-attend from a fixed number of latents to the tokens; ``(b, h, w, c) -> (b, 1, n, c)``.

    `depth` layers of ``z = z + attention(norm(z), [norm(x), norm(z)])`` and
    ``z = z + ffn(norm(z))``, then a norm; no linear layer has a bias, and the feed-forward layers
    are four times as wide as the tokens. The input may have any number of tokens, in any order.
    Source: Alayrac et al., "Flamingo", 2022; `IdeficsPerceiverResampler` and
    `Idefics2PerceiverResampler` of transformers. Keys: ``latents`` (n, c), then for each layer
    ``layers.<i>.context_norm``, ``.latents_norm``, ``.attention``, ``.ffn_norm``, ``.ffn``, then
    ``norm``.

    Attributes:
        queries: The number n of latents.
        depth: The number of layers.
        heads: The number of heads.
        head_dim: The width of a head; `heads` times it need not be the tokens' width.
        kv_heads: The number of heads of keys and values, which divides `heads`; None is `heads`.
        norm: ``layer`` (Flamingo) or ``rms`` (Idefics2).
        eps: The eps of the norms.
        ffn: The feed-forward layers: two linear layers and ``gelu`` (OpenFlamingo) or ``relu``
            (Idefics), or ``swiglu`` (Idefics2).
        gate: The activation of the gate of ``swiglu``.
        qk_norm: Whether a LayerNorm normalises each head's queries and keys, as in some Idefics
            models.
    """

    needs_grid: ClassVar[bool] = False
    mixes_tokens: ClassVar[bool] = True

    queries: Queries = 64
    depth: Depth = 6
    heads: Heads = 8
    head_dim: HeadDim = 64
    kv_heads: Heads | None = None
    norm: Norm = "layer"
    eps: Annotated[float, Field(gt=0, le=1)] = 1e-5
    ffn: Ffn = "gelu"
    gate: Act = "silu"
    qk_norm: bool = False

    @model_validator(mode="after")
    def _check_kv_heads(self) -> Resampler:
        if self.kv_heads is not None and self.heads % self.kv_heads:
            raise SpecError(
                f"{self.kv_heads} 'kv_heads' do not divide {self.heads} 'heads'",
                hint="Leave it out to use 'heads'.",
            )
        return self

    @property
    def counts_as(self) -> int:
        return 5 * self.depth  # three norms, an attention and a feed-forward layer

    def flow(self, x: Feature) -> Feature:
        return x.replace(grid=(1, self.queries), layout="sequence")

    def build(self, x: Feature) -> nn.Module:
        def norm() -> nn.Module:
            if self.norm == "rms":
                return RMSNorm(x.channels, self.eps, "plain", "before")
            return nn.LayerNorm(x.channels, self.eps)

        layers = (
            ResamplerLayer(
                norm(),
                norm(),
                Attention(
                    x.channels,
                    x.channels,
                    self.heads,
                    self.head_dim,
                    kv_heads=self.kv_heads,
                    bias=False,
                    qk_norm=self.qk_norm,
                ),
                norm(),
                FeedForward(x.channels, 4 * x.channels, self.ffn, bias=False, gate=self.gate),
            )
            for _ in range(self.depth)
        )
        return ResamplerModule(queries(self.queries, x.channels, 1.0), *layers, norm=norm())


class ResamplerModule(nn.Module):
    """Latents through the layers of a resampler, then a norm; ``(b, h, w, c) -> (b, 1, n, c)``.

    Args:
        latents: The learned latents (n, c).
        *layers: Modules that take the latents (b, n, c), the tokens (b, m, c) and a mask
            (n, m + n), or None.
        norm: The last norm.
    """

    by_size = True
    tp_styles: ClassVar[dict[str, str]] = {}

    def __init__(self, latents: nn.Parameter, *layers: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.number = len(latents)
        self.latents = latents
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        # A copy: torch's FLOP counter refuses a module that is given a view of a parameter.
        latents = self.latents.repeat(x.shape[0], 1, 1)
        return self._resample(latents, x.flatten(1, 2))[:, None]

    def pack(self, images: Packing) -> tuple[Packing, PackedQueries]:
        return pack_queries(images, self.number, self_keys=True)

    def forward_packed(self, x: Tensor, index: PackedQueries) -> Tensor:
        """``(rows, c) -> (images * n, c)``, at a budget."""
        latents = self.latents.repeat(len(index.mask), 1)[None]
        return attend_apart(lambda x, mask: self._resample(latents, x[None], mask)[0], x, index)

    def _resample(self, latents: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            latents = layer(latents, x, mask)
        y: Tensor = self.norm(latents)
        return y


class ResamplerLayer(nn.Module):
    """Latents attend to tokens and latents, then an FFN; ``(b, n, c), (b, m, c) -> (b, n, c)``.

    A mask (n, m + n) is true for what each latent sees: tokens, then latents.
    """

    tp_styles: ClassVar[dict[str, str]] = {}

    def __init__(
        self,
        context_norm: nn.Module,
        latents_norm: nn.Module,
        attention: nn.Module,
        ffn_norm: nn.Module,
        ffn: nn.Module,
    ) -> None:
        super().__init__()
        self.context_norm = context_norm
        self.latents_norm = latents_norm
        self.attention = attention
        self.ffn_norm = ffn_norm
        self.ffn = ffn

    def forward(self, latents: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.context_norm(x)
        q = self.latents_norm(latents)
        kv = torch.cat([x, q], 1)
        latents = latents + self.attention(q, kv, kv, mask)
        y: Tensor = latents + self.ffn(self.ffn_norm(latents))
        return y
