"""Mistakes in attention and in the layers made of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ....blocks.attention import Attention
from ....blocks.cross_attention import CrossAttentionModule
from ....blocks.qformer import QFormerLayer, QFormerModule
from ....blocks.query_resampler import QueryResamplerModule
from ....blocks.region_attention import RegionAttentionModule
from ....blocks.resampler import ResamplerLayer, ResamplerModule
from .edit import Edit

__all__ = ["ATTENTION"]


def _attends(
    *,
    scale: Callable[[int], float] = lambda width: width**-0.5,
    interleaved: bool = False,
    tiled: bool = False,
    swapped: bool = False,
    normed: bool = True,
    exchanged: bool = False,
    joined: bool = True,
) -> Callable[..., Tensor]:
    """Return an attention that is right but for one thing.

    Args:
        scale: What the products are multiplied by, from the head's width.
        interleaved: Whether a head takes channels that are far apart.
        tiled: Whether the heads of keys and values are repeated all together, not one by one.
        swapped: Whether keys are taken for values.
        normed: Whether the norms of queries and keys are applied.
        exchanged: Whether the queries' layer makes the keys, and the keys' the queries.
        joined: Whether the heads of a token are put together again, not those of a channel.
    """

    def attend(
        attention: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        channels = "d heads" if interleaved else "heads d"

        def split(x: Tensor) -> Tensor:
            return rearrange(x, f"b n ({channels}) -> b heads n d", d=attention.head_dim)

        q_proj, k_proj = attention.q_proj, attention.k_proj
        if exchanged:
            q_proj, k_proj = k_proj, q_proj
        q, k, v = split(q_proj(q)), split(k_proj(k)), split(attention.v_proj(v))
        if normed:
            q, k = attention.q_norm(q), attention.k_norm(k)
        if swapped:
            k, v = v, k
        times = q.shape[1] // k.shape[1]
        if tiled:
            k, v = k.repeat(1, times, 1, 1), v.repeat(1, times, 1, 1)
        else:
            k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
        y = F.scaled_dot_product_attention(q, k, v, mask, scale=scale(q.shape[-1]))
        if not joined:
            y = y.reshape(len(y), y.shape[2], y.shape[1], y.shape[3]).transpose(1, 2)
        out: Tensor = attention.out_proj(rearrange(y, f"b heads n d -> b n ({channels})"))
        return out

    return attend


def _has_heads(attention: Attention) -> bool:
    return attention.q_proj.out_features > attention.head_dim


def _has_equal_layers(attention: Attention) -> bool:
    return attention.q_proj.weight.shape == attention.k_proj.weight.shape


def _has_layers(module: ResamplerModule | QFormerModule) -> bool:
    return len(module.layers) > 1


def _without_last_layer(module: ResamplerModule | QFormerModule) -> nn.Module:
    module.layers = module.layers[:-1]
    return module


def _is_grouped(attention: Attention) -> bool:
    return attention.grouped


def _has_norms(attention: Attention) -> bool:
    return not isinstance(attention.q_norm, nn.Identity)


def _resamples(
    *, keys: bool = True, one_norm: bool = False, skip: bool = True
) -> Callable[..., Tensor]:
    """Return a layer of a resampler that is right but for one thing.

    Args:
        keys: Whether the latents are among the keys.
        one_norm: Whether the tokens pass the latents' norm.
        skip: Whether there is a skip around the attention.
    """

    def layer(
        layer: ResamplerLayer, latents: Tensor, x: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        q = layer.latents_norm(latents)
        x = layer.latents_norm(x) if one_norm else layer.context_norm(x)
        kv = torch.cat([x, q], 1) if keys else x
        y: Tensor = layer.attention(q, kv, kv)
        y = latents + y if skip else y
        z: Tensor = y + layer.ffn(layer.ffn_norm(y))
        return z

    return layer


def _queries_again(*, norm_first: bool) -> Callable[..., Tensor]:
    """Return a Q-Former's layer that normalises before each sublayer, or has no skips."""

    def layer(layer: QFormerLayer, q: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        def sublayer(q: Tensor, norm: nn.Module, part: Callable[[Tensor], Tensor]) -> Tensor:
            y: Tensor = q + part(norm(q)) if norm_first else norm(part(q))
            return y

        q = sublayer(q, layer.self_norm, lambda q: layer.self_attention(q, q, q))
        cross = layer.cross_attention
        if cross is not None and layer.cross_norm is not None:
            q = sublayer(q, layer.cross_norm, lambda q: cross(q, x, x))
        return sublayer(q, layer.ffn_norm, layer.ffn)

    return layer


def _without_first_norm(module: QFormerModule) -> nn.Module:
    module.norm = nn.Identity()
    return module


def _other_keys(module: CrossAttentionModule) -> nn.Module:
    module.self_keys = not module.self_keys
    return module


def _with_skip(module: RegionAttentionModule, x: Tensor) -> Tensor:
    y: Tensor = module(x) + module.query(x)
    return y


def _places_in_values(module: QueryResamplerModule, x: Tensor) -> Tensor:
    x = module.context_norm(module.context_proj(x))
    q, k = module.places(module.queries_norm(module.queries), x)
    k = k.flatten(1, 2)
    return module._attend(q.expand(len(k), -1, -1), k, k)[:, None]


ATTENTION = (
    Edit(
        "attention-unscaled",
        "queries times keys are not divided by the root of the head's width",
        Attention,
        _attends(scale=lambda width: 1.0),
        kind="attention-scale",
    ),
    Edit(
        "attention-scaled-twice",
        "queries times keys are divided by the head's width, not its root",
        Attention,
        _attends(scale=lambda width: 1 / width),
        kind="attention-scale",
    ),
    Edit(
        "heads-interleaved",
        "a head takes channels that are far apart, not next to each other",
        Attention,
        _attends(interleaved=True),
        when=_has_heads,
        kind="heads",
    ),
    Edit(
        "heads-tiled",
        "the heads of keys and values are repeated all together, not one by one",
        Attention,
        _attends(tiled=True),
        when=_is_grouped,
        kind="heads",
    ),
    Edit(
        "heads-not-joined",
        "the heads' outputs are flattened head after head, not token after token",
        Attention,
        _attends(joined=False),
        when=_has_heads,
        kind="heads",
    ),
    Edit(
        "queries-and-keys-swapped",
        "the queries' layer makes the keys, and the keys' layer the queries",
        Attention,
        _attends(exchanged=True),
        when=_has_equal_layers,
        kind="queries-and-keys",
    ),
    Edit(
        "last-layer-forgotten",
        "there is one layer too few",
        (ResamplerModule, QFormerModule),
        change=_without_last_layer,
        when=_has_layers,
        kind="copies",
    ),
    Edit(
        "keys-and-values-swapped",
        "keys are taken for values",
        Attention,
        _attends(swapped=True),
        kind="keys-and-values",
    ),
    Edit(
        "query-norm-forgotten",
        "the norms of the heads' queries and keys are left out",
        Attention,
        _attends(normed=False),
        when=_has_norms,
        kind="norm-forgotten",
    ),
    Edit(
        "latents-not-keys",
        "the latents are not among the keys",
        ResamplerLayer,
        _resamples(keys=False),
        kind="queries-as-keys",
    ),
    Edit(
        "one-norm-for-both",
        "the tokens pass the latents' norm",
        ResamplerLayer,
        _resamples(one_norm=True),
        kind="norm-kind",
    ),
    Edit(
        "attention-skip-forgotten",
        "the skip around the attention is left out",
        ResamplerLayer,
        _resamples(skip=False),
        kind="residual-forgotten",
    ),
    Edit(
        "norm-before-sublayer",
        "the norms come before the sublayers, not after the sums",
        QFormerLayer,
        _queries_again(norm_first=True),
        kind="norm-order",
    ),
    Edit(
        "sublayer-skips-forgotten",
        "the skips around the sublayers are left out",
        QFormerLayer,
        _queries_again(norm_first=False),
        kind="residual-forgotten",
    ),
    Edit(
        "query-norm-forgotten-first",
        "the queries are not normalised before the first layer",
        QFormerModule,
        change=_without_first_norm,
        kind="norm-forgotten",
    ),
    Edit(
        "queries-among-keys",
        "the queries are left out of the keys, or are put among them",
        CrossAttentionModule,
        change=_other_keys,
        kind="queries-as-keys",
    ),
    Edit(
        "attention-skip-added",
        "there is a skip around the attention, which has none",
        RegionAttentionModule,
        _with_skip,
        kind="residual-added",
    ),
    Edit(
        "positions-in-values",
        "the positions are added to the values too",
        QueryResamplerModule,
        _places_in_values,
        kind="position-in-values",
    ),
)
