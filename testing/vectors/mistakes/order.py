"""Mistakes in how blocks follow each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ....blocks.depthwise import ConvModule
from ....blocks.norm_act import NormActModule
from ....blocks.patch_merge import PatchMergeModule
from ....blocks.residual import ResidualModule
from .edit import Computes
from .norms import Norm, scaled, standardised

__all__ = ["ORDER"]

_LAYERS = (nn.Linear, ConvModule)


class _Remembers(nn.Module):
    """Compute what a module does, and keep what entered it for the next one."""

    entered: Tensor

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        self.entered = x
        y: Tensor = self.module(x)
        return y


def _after(modules: Sequence[nn.Module], place: int) -> nn.Module | None:
    """Return the module after a place, if there is one."""
    return modules[place + 1] if place + 1 < len(modules) else None


def _norm_of(block: nn.Module) -> Norm | None:
    if isinstance(block, NormActModule) and isinstance(block.act, nn.Identity):
        norm = block.norm
        return norm if isinstance(norm, Norm) else None
    return None


class NormAfterMerge:
    """The norm is computed over merged tokens, where it is each token's."""

    name, kind = "norm-after-merge", ""
    cause = "the norm follows the merge, where it comes before it"

    def apply(self, modules: Sequence[nn.Module], place: int) -> Mapping[int, nn.Module]:
        norm, merge = _norm_of(modules[place]), _after(modules, place)
        if norm is None or not isinstance(merge, PatchMergeModule):
            return {}
        first = _Remembers(modules[place])

        def merged(_: Tensor) -> Tensor:
            x = first.entered
            return scaled(norm, standardised(norm, merge(x)), lambda each: merge(each.expand_as(x)))

        return {place: first, place + 1: Computes(merged)}


class NormBeforeMerge:
    """Each token is normalised, where the norm is the merged tokens'."""

    name, kind = "norm-before-merge", "norm-after-merge"
    cause = "the norm comes before the merge, where it follows it"

    def apply(self, modules: Sequence[nn.Module], place: int) -> Mapping[int, nn.Module]:
        merge, block = modules[place], _after(modules, place)
        norm = None if block is None else _norm_of(block)
        if norm is None or not isinstance(merge, PatchMergeModule):
            return {}
        wide = "b h w (p c)" if merge.order == "hwc" else "b h w (c p)"

        def apart(x: Tensor) -> Tensor:
            tokens = rearrange(x, f"{wide} -> b h w p c", p=math.prod(merge.size))
            return scaled(norm, rearrange(standardised(norm, tokens), f"b h w p c -> {wide}"))

        return {place + 1: Computes(apart)}


class ActivationAdded:
    """There is a GELU between two layers that follow each other."""

    name, kind = "activation-added", ""
    cause = "there is an activation between two layers that have none"

    def apply(self, modules: Sequence[nn.Module], place: int) -> Mapping[int, nn.Module]:
        layer = modules[place]
        if isinstance(layer, _LAYERS) and isinstance(_after(modules, place), _LAYERS):
            return {place: Computes(lambda x: F.gelu(layer(x)))}
        return {}


class ResidualFromBefore:
    """A residual starts before the norm, not after it."""

    name, kind = "residual-before-norm", "residual-start"
    cause = "the skip starts before the norm, not after it"

    def apply(self, modules: Sequence[nn.Module], place: int) -> Mapping[int, nn.Module]:
        residual = _after(modules, place)
        if _norm_of(modules[place]) is None or not isinstance(residual, ResidualModule):
            return {}
        first = _Remembers(modules[place])
        return {
            place: first,
            place + 1: Computes(lambda x: first.entered + residual.body(x)),
        }


ORDER = (NormAfterMerge(), NormBeforeMerge(), ActivationAdded(), ResidualFromBefore())
