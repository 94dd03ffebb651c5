"""The linear layer, with the fastest matrix product for its dtype on this processor."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .activation import activate_
from .fast import enabled, observed, recording

__all__ = [
    "PROCESSOR_UNITS",
    "UNITS",
    "Linear",
    "call_linear",
    "capabilities",
    "is_linear",
    "products",
    "project",
    "widened",
]

# Multiply-accumulates below which choosing a product costs more than it saves.
_MIN_WORK = 1 << 21

# Rows from which casting a half-precision weight to fp32 pays: with 16 it is 1.1 to 3 times as
# fast, with one half as fast.
_MIN_ROWS = 16

# Capabilities of which one lets a processor multiply numbers of a dtype. Without any, torch
# computes bf16 and fp16 products at a seventh of fp32's speed.
UNITS = {
    torch.bfloat16: ("avx512_bf16", "amx_bf16", "avx_ne_convert"),
    torch.float16: ("avx512_fp16", "amx_fp16", "avx_ne_convert"),
}
PROCESSOR_UNITS = {
    "avx2": "AVX2",
    **dict.fromkeys(("avx512_f", "avx512_bw", "avx512_vl", "avx512_dq"), "AVX-512"),
    **dict.fromkeys(("avx_vnni", "avx512_vnni"), "VNNI"),
    "amx_int8": "AMX",
    **dict.fromkeys(("avx512_bf16", "amx_bf16", "bf16"), "bf16"),
    "dot": "dot products",
    "i8mm": "i8mm",
    "sve": "SVE",
    **dict.fromkeys(("avx512_fp16", "avx_ne_convert", "amx_fp16", "neon", "fp16_arith"), ""),
    **dict.fromkeys(("sve2", "sve_bf16", "sme", "sme2"), ""),
}
"""The flags of `capabilities` that decide how fast low-precision products are, with the name of the
unit where sums depend on it."""
_HAS_MKL: bool = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
_AVX512 = ("avx512_f", "avx512_bw", "avx512_vl", "avx512_dq")


class Linear(nn.Linear):
    """An `nn.Linear` that chooses its matrix product; ``(..., c) -> (..., out)``.

    It is used inside modules of several layers. A chain holds plain `nn.Linear` layers and makes
    the same choice itself, because some tools replace exactly that class: bitsandbytes in
    transformers, and torch's dynamic quantisation.

    On the CPU, for layers of some size: fp32 goes to oneDNN on AMD processors with AVX-512, where
    torch's own library takes a slower path; bf16 and fp16 go through fp32 where the processor has
    no units for them and no gradient is recorded. Otherwise torch's own product runs: on other
    processors and devices, for subclasses of tensors, under autocast, in compiled, traced or
    exported code, within function transforms, and where `fast_paths` are off.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Project; ``(..., c) -> (..., out)``."""
        return _linear(x, self.weight, self.bias)


def project(layer: nn.Linear, x: Tensor, act: nn.Module | None = None) -> Tensor:
    """Return ``act(layer(x))`` for a layer and an activation without hooks.

    Args:
        layer: A layer of exactly the class `Linear` or `nn.Linear`.
        x: The input ``(..., c)``.
        act: An elementwise activation without parameters; only where no gradient is recorded.
    """
    return _linear(x, layer.weight, layer.bias, act)


def is_linear(module: object) -> TypeGuard[nn.Linear]:
    """Return whether a module is exactly a `Linear` or `nn.Linear`, not a subclass."""
    return type(module) in (Linear, nn.Linear)


def call_linear(module: nn.Module, x: Tensor) -> Tensor:
    """Call what may have replaced a linear layer; ``(b, ..., c) -> (b, ..., out)``.

    Quantised layers and adapters get ``(b, n, c)``, which all of them take; many refuse or misread
    a fourth axis.
    """
    if x.ndim <= 3 or is_linear(module):
        y: Tensor = module(x)
    else:
        y = module(x.flatten(1, -2)).unflatten(1, x.shape[1:-1])
    return y


def products() -> dict[torch.dtype, str]:
    """Return how large linear layers are computed on this CPU, without gradients, by dtype."""
    if not enabled():
        return dict.fromkeys((torch.float32, torch.bfloat16, torch.float16), "torch")
    return {
        dtype: "oneDNN" if _onednn(dtype) else "through fp32" if _lacks_units(dtype) else "torch"
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
    }


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, act: nn.Module | None = None) -> Tensor:
    y = None
    if _free(x, weight, bias) and _is_large(x, weight):
        if (operator := _onednn(x.dtype)) is not None:
            y = _by_onednn(operator, x, weight, bias, act)
        elif (wide := _widened(x, weight, bias)) is not None:
            y = _through_fp32(*wide, act, x.dtype)
    return _activated(F.linear(x, weight, bias), act) if y is None else y


def _activated(y: Tensor, act: nn.Module | None) -> Tensor:
    return y if act is None else activate_(act, y)


def _free(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Return whether another kernel than torch's may be called without side effects."""
    return (
        not torch.compiler.is_compiling()
        and enabled()
        and type(x) is Tensor
        and type(weight) is nn.Parameter
        and (bias is None or type(bias) is nn.Parameter)
        and x.is_cpu
        and weight.is_cpu
        and x.dtype == weight.dtype
        and (bias is None or bias.dtype == x.dtype)
        and not observed()
    )


def _is_large(x: Tensor, weight: Tensor) -> bool:
    return x.numel() * weight.shape[0] >= _MIN_WORK and x.is_contiguous()


def capabilities() -> dict[str, Any]:
    """Return what torch reports about the processor, by torch's names; older versions know less."""
    if hasattr(torch.cpu, "get_capabilities"):
        return dict(torch.cpu.get_capabilities())
    return {
        "avx2": torch.cpu._is_avx2_supported(),
        "avx512_f": torch.cpu._is_avx512_supported(),
        "avx512_vnni": torch.cpu._is_vnni_supported(),
    }


# ------------------------------------------------------------------------------- oneDNN


@cache
def _onednn(dtype: torch.dtype) -> Any:
    """Return oneDNN's linear layer where it is faster than torch's own product, else None.

    In fp32 that is so on AMD processors with AVX-512: torch calls MKL, which keeps to AVX2 there.
    Measured, GFLOP/s on one core, MKL / oneDNN: Zen 3 76-86 / 61-73; Zen 4 98 / 110; Zen 5 109 /
    236-250. In bf16 both are oneDNN's, which can apply the activation too. The operator is private
    to torch, and the environment may limit oneDNN's instruction sets, so it is tried once.
    """
    if dtype not in (torch.float32, torch.bfloat16) or _lacks_units(dtype):
        return None
    if not (_HAS_MKL and torch.backends.mkldnn.is_available()):  # type: ignore[no-untyped-call]
        return None
    found = capabilities()
    if "AMD" not in str(found.get("cpu_name", "")) or not all(map(found.get, _AVX512)):
        return None
    if not _has_primitives(torch.bfloat16):
        return None
    try:
        operator = torch.ops.mkldnn._linear_pointwise.default
        x, weight, bias = (torch.ones(*shape, dtype=dtype) for shape in ((2, 3), (4, 3), (4,)))
        y = operator(x, weight, bias, "gelu", [], "none")
    except (AttributeError, RuntimeError, TypeError):
        return None
    fits = torch.allclose(y.float(), torch.full((2, 4), 4.0), rtol=1e-2)
    return operator if fits else None


def _by_onednn(
    operator: Any, x: Tensor, weight: Tensor, bias: Tensor | None, act: nn.Module | None
) -> Tensor | None:
    """Call oneDNN, with a GELU if asked; None if it refuses or torch is as fast."""
    if not torch.backends.mkldnn.enabled:
        return None
    try:
        if recording(x, weight, bias):
            if x.dtype != torch.float32:
                return None
            y: Tensor = _Product.apply(operator, x, weight, bias)  # type: ignore[no-untyped-call]
        elif type(act) is nn.GELU:  # the only one that is faster and keeps NaN
            y = operator(x, weight, bias, "gelu", [], act.approximate)
        else:
            y = _activated(operator(x, weight, bias, "none", [], ""), act)
    except RuntimeError:  # no primitive for this shape; torch's product reports real errors
        return None
    return y


class _Product(torch.autograd.Function):
    """A linear layer whose forward and backward products are oneDNN's."""

    @staticmethod
    def forward(ctx: Any, operator: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.operator = operator
        y: Tensor = operator(x, weight, bias, "none", [], "")
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        _, needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        rows, tokens = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])

        def product(a: Tensor, b: Tensor) -> Tensor:  # (m, k), (n, k) -> (m, n)
            if torch.is_grad_enabled():  # second derivatives: autograd must record it
                return a @ b.t()
            y: Tensor = ctx.operator(a, b, None, "none", [], "")
            return y

        return (
            None,
            product(rows, weight.t()).view(x.shape) if needs_x else None,
            product(rows.t(), tokens.t()) if needs_weight else None,
            rows.sum(0) if needs_bias else None,
        )


# ------------------------------------------------------------------- half precision


@cache
def _lacks_units(dtype: torch.dtype) -> bool:
    """Return whether this is an x86 processor that cannot multiply numbers of a half precision.

    Speed-up through fp32, measured on Zen 3: bf16 4.4-5 at 64 rows and 4.9-7 from 144 on, fp16
    2.5-3.9 and 3.7-5.5. The environment may keep oneDNN from using the units.
    """
    if dtype not in UNITS or not _HAS_MKL:
        return False
    found = capabilities()
    if found.get("architecture") != "x86_64":
        return False
    return not (_has_primitives(dtype) and any(map(found.get, UNITS[dtype])))


def _has_primitives(dtype: torch.dtype) -> bool:
    """Return whether oneDNN computes in a half precision: with AVX-512, unless it is limited."""
    name = "bf16" if dtype == torch.bfloat16 else "fp16"
    try:
        return bool(getattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported")())
    except (AttributeError, RuntimeError):
        return False


def widened(
    x: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """Return the three in fp32 if a layer of their half precision should go through it, else None.

    Args:
        x: A feature ``(..., c)``.
        weight: The layer's weight, of any shape.
        bias: Its bias.
    """
    return _widened(x, weight, bias) if _free(x, weight, bias) else None


def _widened(
    x: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None] | None:
    if not _lacks_units(x.dtype) or recording(x, weight, bias):
        return None
    if x.numel() < _MIN_ROWS * x.shape[-1]:
        return None
    return x.float(), weight.float(), None if bias is None else bias.float()


def _through_fp32(
    x: Tensor, weight: Tensor, bias: Tensor | None, act: nn.Module | None, dtype: torch.dtype
) -> Tensor:
    """Multiply and activate in fp32, and round once."""
    operator = _onednn(torch.float32)
    y = None if operator is None else _by_onednn(operator, x, weight, bias, None)
    y = F.linear(x, weight, bias) if y is None else y
    if act is not None:
        if dtype == torch.float16:
            # fp16 would round these to minus infinity, of which activations make NaN; of plus
            # infinity torch's GELU makes NaN only in fp32.
            y.masked_fill_(y <= -65520, -math.inf).clamp_(max=torch.finfo(y.dtype).max)
        y = activate_(act, y)
    return y.to(dtype)
