"""Linear layers by the fastest matrix product there is for them."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from .fast import enabled, hooked, recording

__all__ = ["fusable", "linear", "suits"]

# Multiply-accumulates below which the call costs more than it saves.
_MIN_WORK = 1 << 21

# The activations that the product can apply to its result: oneDNN's name and algorithm.
_FUSED: dict[type[nn.Module], tuple[str, str]] = {
    nn.Hardswish: ("hardswish", ""),
    nn.ReLU: ("relu", ""),
    nn.SiLU: ("swish", ""),
}


@cache
def _product() -> Any:
    """Return oneDNN's linear layer, or None where torch's own is as fast or it cannot be called.

    torch sends fp32 products to MKL, which takes a slower path on processors that are not Intel's.
    The operator is private: it is tried once, and done without if it is not what it was.
    """
    name = str(torch.cpu.get_capabilities().get("cpu_name", ""))
    if "AMD" not in name or not torch._C._has_mkldnn:
        return None
    try:
        operator = torch.ops.mkldnn._linear_pointwise.default
        x, weight, bias = torch.ones(2, 3), torch.ones(4, 3), torch.ones(4)
        fits = torch.equal(operator(x, weight, bias, "relu", [], ""), torch.full((2, 4), 4.0))
    except (AttributeError, RuntimeError, TypeError):
        return None
    return operator if fits else None


def suits(layer: nn.Linear, x: Tensor) -> bool:
    """Return whether the fast product may stand in for a linear layer's own call."""
    weight, bias = layer.weight, layer.bias
    if (
        torch.compiler.is_compiling()
        or not enabled()
        or x.numel() * weight.shape[0] < _MIN_WORK
        or type(x) is not Tensor
        or type(weight) is not nn.Parameter
        or x.device.type != "cpu"
        or weight.device.type != "cpu"
        or x.dtype != weight.dtype
        or not x.is_contiguous()
        or not torch.backends.mkldnn.enabled
    ):
        return False
    if x.dtype == torch.bfloat16:  # torch's own is as fast, but for what is fused
        if recording(x, weight, bias):
            return False
    elif x.dtype != torch.float32:
        return False
    return (
        (bias is None or (type(bias) is nn.Parameter and bias.dtype == x.dtype))
        and not hooked(layer)
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._are_functorch_transforms_active()
        and torch._C._get_tracing_state() is None
        and forward_ad._current_level < 0
        and _product() is not None
    )


def fusable(act: nn.Module) -> tuple[str, str] | None:
    """Return an activation as the fast product names it, if it can apply it to its result."""
    if hooked(act):
        return None
    if type(act) is nn.GELU:
        return "gelu", act.approximate
    return _FUSED.get(type(act))


def linear(layer: nn.Linear, x: Tensor, fused: tuple[str, str] | None = None) -> Tensor:
    """Run a linear layer that `suits`, and what is fused to it; ``(..., c) -> (..., out)``.

    Args:
        layer: The layer.
        x: Its input.
        fused: An activation from `fusable`, only where no gradient is recorded.
    """
    if recording(x, layer.weight, layer.bias):
        y: Tensor = _Linear.apply(x, layer.weight, layer.bias)  # type: ignore[no-untyped-call]
        return y
    name, algorithm = fused or ("none", "")
    y = _product()(x, layer.weight, layer.bias, name, [], algorithm)
    return y  # noqa: RET504, it is Any


class _Linear(torch.autograd.Function):
    """A linear layer whose three products are all the fast one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        y: Tensor = _product()(x, weight, bias, "none", [], "")
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        rows, tokens = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
        # A gradient of the gradient needs products that autograd can follow.
        product = _plain if torch.is_grad_enabled() else _fast
        return (
            product(rows, weight.t()).view(x.shape) if needs_x else None,
            product(rows.t(), tokens.t()) if needs_weight else None,
            rows.sum(0) if needs_bias else None,
        )


def _fast(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b.t()``; ``(m, k), (n, k) -> (m, n)``."""
    y: Tensor = _product()(a, b, None, "none", [], "")
    return y


def _plain(a: Tensor, b: Tensor) -> Tensor:
    return a @ b.t()
