"""The switch of the fast forms, and the conditions under which they may run."""

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


@dataclass(eq=False)  # removed by identity
class _Switch:
    on: bool


# The environment's, then those of the ``with`` blocks that are open; the last one counts.
_switches = [_Switch(os.environ.get("MOBILEVLM_FAST_PATHS", "1") != "0")]


@contextmanager
def fast_paths(on: bool = True) -> Iterator[None]:
    """Switch the fast forms on or off, for the whole process, within a ``with`` block.

    They compute the same numbers up to rounding: a pool runs before the pointwise layer that it
    follows; oneDNN multiplies matrices where torch would call a slower library; products in half
    precision go through fp32 where the processor has no units for them; activations and sums are
    computed in place. ``MOBILEVLM_FAST_PATHS=0`` in the environment switches them off. Of several
    open ``with`` blocks, in any threads, the last one entered counts.

    Args:
        on: Whether they may run.
    """
    switch = _Switch(on)
    _switches.append(switch)
    try:
        yield
    finally:
        _switches.remove(switch)


def enabled() -> bool:
    """Return whether the fast forms may run."""
    return _switches[-1].on


def hooked(module: nn.Module) -> bool:
    """Return whether a module has hooks or a patched forward, which a fast form would bypass."""
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
    """Return whether torch's operators are being intercepted, so that the plain ones must run.

    By autocast, a dispatch mode, a function transform, the tracer or forward differentiation.
    """
    return bool(
        torch.is_autocast_enabled("cpu")
        or torch._C._len_torch_dispatch_stack()
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_tracing_state() is not None
        or forward_ad._current_level >= 0
    )


def reusable(*tensors: Tensor | None) -> bool:
    """Return whether a result may overwrite one of these tensors, if nothing else holds it."""
    return (
        enabled()
        and not torch.compiler.is_compiling()
        and not recording(*tensors)
        and not torch._C._are_functorch_transforms_active()
        and torch._C._get_tracing_state() is None
    )
