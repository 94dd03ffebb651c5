"""Mistakes in norms and activations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ....blocks.core.activation import Act, QuickGELU, ReLU2, activation
from ....blocks.norm_act import NormActModule, RMSNorm
from .edit import Edit

__all__ = ["NORMS", "Norm", "activations", "eps", "scaled", "standardised"]

Norm: TypeAlias = nn.LayerNorm | RMSNorm
_NORMS = (nn.LayerNorm, RMSNorm)

# What is added is in practice one of these.
_EPS = (1e-12, 1e-6, 1e-5, 1e-3)


def eps(modules: Sequence[nn.Module]) -> Iterator[Edit]:
    """Yield the next smaller and the next larger eps of each that norms of a chain have."""
    parts = [part for module in modules for part in module.modules()]
    own = sorted({part.eps for part in parts if isinstance(part, _NORMS)})
    for right in own:
        smaller = [each for each in _EPS if each < right][-1:]
        larger = [each for each in _EPS if each > right][:1]
        for wrong in (*smaller, *larger):
            name = f"eps-{wrong:g}" + (f"-for-{right:g}" if len(own) > 1 else "")
            yield Edit(
                name,
                f"eps {wrong:g} in place of {right:g}",
                _NORMS,
                change=_with_eps(wrong),
                when=_has_eps(right),
                kind="eps",
            )


def _with_eps(wrong: float) -> Callable[[Norm], nn.Module]:
    def change(norm: Norm) -> nn.Module:
        norm.eps = wrong
        return norm

    return change


def _has_eps(right: float) -> Callable[[Norm], bool]:
    return lambda norm: norm.eps == right


def standardised(norm: Norm, x: Tensor) -> Tensor:
    """Apply a norm without its weight and bias."""
    y = _centred(norm, x)
    return y * torch.rsqrt(y.square().mean(-1, keepdim=True) + norm.eps)


def scaled(
    norm: Norm,
    y: Tensor,
    spread: Callable[[Tensor], Tensor] = lambda each: each,
    offset: float | None = None,
) -> Tensor:
    """Apply a norm's weight and bias.

    Args:
        norm: The norm.
        y: What is standardised.
        spread: Makes the weight and the bias as wide as it.
        offset: What is added to the weight, in place of the norm's own.
    """
    if norm.weight is not None:
        y = y * spread(norm.weight + (_offset(norm) if offset is None else offset))
    bias = getattr(norm, "bias", None)
    return y if bias is None else y + spread(bias)


def _centred(norm: Norm, x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True) if isinstance(norm, nn.LayerNorm) else x


def _offset(norm: Norm) -> float:
    return norm.offset if isinstance(norm, RMSNorm) else 0.0


def _rms_for_layer(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return scaled(norm, x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.eps))


def _layer_for_rms(norm: RMSNorm, x: Tensor) -> Tensor:
    y: Tensor = norm(x - x.mean(-1, keepdim=True))
    return y


def _eps_outside(norm: Norm, x: Tensor) -> Tensor:
    y = _centred(norm, x)
    return scaled(norm, y / (y.square().mean(-1, keepdim=True).sqrt() + norm.eps))


def _unbiased(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    variance = x.var(-1, keepdim=True)
    return scaled(norm, _centred(norm, x) * torch.rsqrt(variance + norm.eps))


def _over_all(norm: Norm, x: Tensor) -> Tensor:
    axes = (*range(1, x.dim()),)
    y = x - x.mean(axes, keepdim=True) if isinstance(norm, nn.LayerNorm) else x
    return scaled(norm, y * torch.rsqrt(y.square().mean(axes, keepdim=True) + norm.eps))


def _other_offset(norm: Norm, x: Tensor) -> Tensor:
    return scaled(norm, standardised(norm, x), offset=1.0 - _offset(norm))


def _without_weight(norm: Norm, x: Tensor) -> Tensor:
    y, bias = standardised(norm, x), getattr(norm, "bias", None)
    return y if bias is None else y + bias


def _without_bias(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return standardised(norm, x) * norm.weight


def _has_weight(norm: Norm) -> bool:
    return norm.weight is not None


def _act_first(block: NormActModule, x: Tensor) -> Tensor:
    y: Tensor = block.norm(block.act(x))
    return y


def _is_both(block: NormActModule) -> bool:
    return not (isinstance(block.norm, nn.Identity) or isinstance(block.act, nn.Identity))


NORMS = (
    Edit(
        "rms-for-layer",
        "the layer norm does not subtract the mean",
        nn.LayerNorm,
        _rms_for_layer,
        kind="norm-kind",
    ),
    Edit(
        "layer-for-rms",
        "the RMS norm subtracts the mean",
        RMSNorm,
        _layer_for_rms,
        kind="norm-kind",
    ),
    Edit("eps-outside", "eps is added after the square root, not before", _NORMS, _eps_outside),
    Edit(
        "unbiased-variance",
        "the layer norm's variance divides by n - 1, not by n",
        nn.LayerNorm,
        _unbiased,
    ),
    Edit(
        "norm-over-tokens",
        "the norm is over all tokens of an image, not over each token's channels",
        _NORMS,
        _over_all,
        kind="norm-axis",
    ),
    Edit(
        "norm-unit-offset",
        "the norm's weight is used as w where it is 1 + w, or as 1 + w where it is w",
        _NORMS,
        _other_offset,
        when=_has_weight,
    ),
    Edit("norm-forgotten", "the norm is left out", _NORMS, change=lambda norm: nn.Identity()),
    Edit(
        "norm-weight-forgotten",
        "the norm's weight is left out",
        _NORMS,
        _without_weight,
        when=_has_weight,
    ),
    Edit(
        "norm-bias-forgotten",
        "the norm's bias is left out",
        nn.LayerNorm,
        _without_bias,
        kind="bias-forgotten",
    ),
    Edit(
        "activation-before-norm",
        "the activation comes before the norm, not after it",
        NormActModule,
        _act_first,
        when=_is_both,
    ),
)

# What each activation is taken for.
_TAKEN_FOR: dict[Act | str, tuple[type[nn.Module], tuple[Act | str, ...]]] = {
    "gelu": (nn.GELU, ("gelu-tanh", "quick-gelu", "silu", "relu")),
    "gelu-tanh": (nn.GELU, ("gelu", "quick-gelu", "silu")),
    "quick-gelu": (QuickGELU, ("gelu", "gelu-tanh", "silu")),
    "silu": (nn.SiLU, ("gelu", "relu", "sigmoid")),
    "relu": (nn.ReLU, ("gelu", "relu2", "silu")),
    "relu2": (ReLU2, ("relu", "gelu")),
    "hardswish": (nn.Hardswish, ("silu", "relu")),
    "hardsigmoid": (nn.Hardsigmoid, ("sigmoid",)),
    "sigmoid": (nn.Sigmoid, ("hardsigmoid",)),
    "softmax": (nn.Softmax, ("sigmoid",)),
}
_KINDS_OF_THEIR_OWN = ("gelu-tanh", "quick-gelu")


def activations() -> Iterator[Edit]:
    """Yield the edits of activations: another one, or none."""
    for name, (of, others) in _TAKEN_FOR.items():
        for other in others:
            yield Edit(
                f"{other}-for-{name}",
                f"{other} in place of {name}",
                of,
                change=_to(other),
                when=_is(name),
                kind=other if other in _KINDS_OF_THEIR_OWN else "activation",
            )
        yield Edit(
            f"{name}-forgotten",
            f"the {name} is left out",
            of,
            change=_to("none"),
            when=_is(name),
            kind="activation-forgotten",
        )


def _to(name: Any) -> Callable[[nn.Module], nn.Module]:
    return lambda module: activation(name)


def _is(name: str) -> Callable[[nn.Module], bool]:
    form = {"gelu": "none", "gelu-tanh": "tanh"}.get(name, "")
    return lambda module: getattr(module, "approximate", "") == form
