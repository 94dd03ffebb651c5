"""The one switch of the fast forms, and when they must stand aside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as torch_module

__all__ = ["enabled", "fast_paths", "hooked", "observed", "recording", "reusable"]


@dataclass(eq=False)
class _Wish:
    on: bool


_on = os.environ.get("MOBILEVLM_FAST_PATHS", "1") != "0"
# The one from the start, then those of the open ``with`` blocks; the last one counts.
_wishes = [_Wish(_on)]


@contextmanager
def fast_paths(on: bool = True) -> Iterator[None]:
    """Switch the fast forms on or off, for the whole process, within a ``with`` block.

    They compute the same numbers up to rounding: a pool that runs before the pointwise layer it
    follows, matrix products by oneDNN where torch would take a slower library, products of half
    precision through fp32 where the processor has no units for it, activations and sums in place.
    ``MOBILEVLM_FAST_PATHS=0`` in the environment turns them off from the start. Of several ``with``
    blocks that are open, in whatever threads, the last one entered counts.

    Args:
        on: Whether they may run.
    """
    wish = _Wish(on)
    _wishes.append(wish)
    _settle()
    try:
        yield
    finally:
        _wishes.remove(wish)
        _settle()


def _settle() -> None:
    # Not under a lock, which torch.compile cannot trace: whoever writes last looks once more.
    global _on
    while _on is not _wishes[-1].on:
        _on = _wishes[-1].on


def enabled() -> bool:
    """Return whether the fast forms may run."""
    return _on


def hooked(module: nn.Module) -> bool:
    """Return whether somebody watches a module, who must see it called as it stands."""
    return bool(
        module._forward_pre_hooks
        or module._forward_hooks
        or module._backward_pre_hooks
        or module._backward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_forward_hooks
        or torch_module._global_backward_pre_hooks
        or torch_module._global_backward_hooks
        or "forward" in module.__dict__
    )


def recording(*tensors: Tensor | None) -> bool:
    """Return whether autograd would record what is done to these tensors."""
    return torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in tensors
    )


def observed() -> bool:
    """Return whether something follows or changes torch's operators, and must see the plain ones.

    That is autocast, a dispatch mode, a function transform, the tracer or forward differentiation.
    """
    return bool(
        torch.is_autocast_enabled("cpu")
        or torch._C._len_torch_dispatch_stack()
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_tracing_state() is not None
        or forward_ad._current_level >= 0
    )


def reusable(*tensors: Tensor | None) -> bool:
    """Return whether a result may be written over one of these tensors, if it is nobody else's."""
    return (
        enabled()
        and not torch.compiler.is_compiling()
        and not recording(*tensors)
        and not torch._C._are_functorch_transforms_active()
        and torch._C._get_tracing_state() is None
    )
