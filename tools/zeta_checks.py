"""What a module of `zeta.nn` must pass to be a block."""

from __future__ import annotations

import copy
import dataclasses
import io
import os
import pickle
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn
from zeta_signatures import Fault, said

from mobilevlm.zeta.module import make
from mobilevlm.zeta.table import Row

CASES = ((64, 40), (96, 56))  # widths in and out
GRID = (5, 7)


def build(row: Row, options: Mapping[str, Any], c: int, out: int, device: str = "cpu") -> nn.Module:
    """Build it as a document would."""
    torch.manual_seed(1)
    out = out if row.out else c * row.ratio[0] // row.ratio[1]
    with torch.device(device):
        return make(row, {**row.example, **options}, c, out).eval()


def same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def world() -> tuple[object, ...]:
    return (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        sorted(os.environ.items()),
    )


def check(row: Row, options: Mapping[str, Any], *, thorough: bool = True) -> Row:
    """Put a module to every test that a block has to pass; return its row with what was seen.

    Raises:
        Fault: It fails one.
    """
    idle = 0
    mixes = False
    for c, out in CASES if thorough else CASES[:1]:
        try:
            module = build(row, options, c, out)
        except Exception as error:
            raise Fault(1, f"it cannot be built for {c} channels: {said(error)}") from None
        over = row.sides[1]
        check_eval(module, c, over, thorough)
        x = torch.randn(2, GRID[0] * over, GRID[1] * over, c)
        mixes |= mixes_tokens(module, x)
        check_state(row, options, module, x, out)
        idle = check_training(module, x)
    return dataclasses.replace(row, mixes_tokens=row.mixes_tokens or mixes, idle=idle)


def run(module: nn.Module, x: Tensor) -> Tensor:
    try:
        y: Tensor = module(x)
    except Exception as error:
        raise Fault(4, f"it fails for {tuple(x.shape)} (b, h, w, c): {said(error)}") from None
    return y


@torch.no_grad()
def check_eval(module: nn.Module, c: int, over: int, thorough: bool) -> None:
    """Look at what it computes."""
    keys = {key: value.clone() for key, value in module.state_dict().items()}
    for b, (h, w) in [(2, GRID), (3, (8, 6)), (1, (8, 8))] + [(1, (36, 36))] * thorough:
        for scale in (1.0, 1e-3):
            torch.manual_seed(2)
            x = torch.randn(b, h * over, w * over, c) * scale
            kept, before, seed = x.clone(), world(), torch.random.get_rng_state()
            with redirect_stdout(io.StringIO()) as printed:
                y = run(module, x)
            if printed.getvalue():
                raise Fault(5, "it prints when it runs")
            if not torch.equal(torch.random.get_rng_state(), seed):
                raise Fault(5, "it draws random numbers in eval mode")
            if world() != before:
                raise Fault(5, "it changes torch's settings or the environment")
            if not torch.equal(x, kept):
                raise Fault(5, "it changes its input")
            if y.dtype != x.dtype:
                raise Fault(5, f"it gives {y.dtype} for {x.dtype}")
            if not y.isfinite().all():
                raise Fault(5, f"it gives NaN or infinities for inputs of scale {scale}")
            if not torch.equal(y, run(module, x)):
                raise Fault(5, "it does not give the same twice in eval mode")
            if b > 1 and not same(y[:1], run(module, x[:1])):
                raise Fault(5, "what it makes of an image depends on the others in the batch")
    after = module.state_dict()
    if keys.keys() != after.keys() or any(not torch.equal(keys[k], after[k]) for k in keys):
        raise Fault(5, "it changes its state in eval mode")


def mixes_tokens(module: nn.Module, x: Tensor) -> bool:
    """Return whether tokens meet, or know their place.

    Follows gradients, which are exactly 0 where there is no way at all, through random weights,
    since those that start at 0 hide one.
    """
    module = copy.deepcopy(module)
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    x = x.clone().requires_grad_()
    y = run(module, x)
    spot = y[0, 0, -1] @ torch.randn(y.shape[-1])
    way = torch.autograd.grad(spot, x, allow_unused=True)[0] if spot.grad_fn else None
    if way is None or not way.any():
        raise Fault(5, "no gradient reaches its input")
    if way[1].any():
        raise Fault(5, "what it makes of an image depends on the others in the batch")
    if y.shape[1:3] != x.shape[1:3] or way[0].flatten(0, 1).any(1).sum() > 1:
        return True
    with torch.no_grad():
        place = run(module, torch.ones_like(x))[0].flatten(0, 1)
    return not same(place, place[:1].expand_as(place))


def check_state(
    row: Row, options: Mapping[str, Any], module: nn.Module, x: Tensor, out: int
) -> None:
    """Plan it on the meta device, move it, save and load it, copy and pickle it."""
    c = x.shape[3]
    y = run(module, x)
    state = module.state_dict()
    storages = [tensor.untyped_storage().data_ptr() for tensor in state.values() if tensor.numel()]
    if len(storages) != len(set(storages)):
        raise Fault(6, "tensors in its state dict share memory")
    for name, other in (
        ("it cannot be planned on the meta device", lambda: build(row, options, c, out, "meta")),
        ("it does not move to another device", lambda: copy.deepcopy(module).to("meta")),
    ):
        try:
            built = other()
            if any(not tensor.is_meta for tensor in built.state_dict().values()):
                raise Fault(6, f"{name}: it allocates there")
            built(x.to("meta"))
        except Fault:
            raise
        except Exception as error:
            raise Fault(6, f"{name}: {said(error)}") from None
    try:
        loaded = build(row, options, c, out, "meta")
        loaded.load_state_dict(state, strict=True, assign=True)
        if any(buffer.is_meta for buffer in loaded.buffers()):  # as load_projector does
            loaded = build(row, options, c, out)
            loaded.load_state_dict(state)
        for other in (loaded, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            if not torch.equal(other(x), y):
                raise Fault(6, "loaded or copied, it gives something else")
    except Fault:
        raise
    except Exception as error:
        raise Fault(6, f"it cannot be loaded or copied: {said(error)}") from None


def check_training(module: nn.Module, x: Tensor) -> int:
    """Train it a step; return how many parameters get no gradient."""
    x = torch.cat([x, x + 1]).requires_grad_()
    module.train()
    try:
        y = module(x)
        (y * torch.randn_like(y)).sum().backward()
    except Exception as error:
        raise Fault(7, f"it does not train: {said(error)}") from None
    if x.grad is None:
        raise Fault(7, "no gradient reaches its input")
    gradients = [x.grad, *(p.grad for p in module.parameters() if p.grad is not None)]
    if not all(gradient.isfinite().all() for gradient in gradients):
        raise Fault(7, "its gradients are NaN or infinite")
    return sum(p.grad is None for p in module.parameters())


def runs_in_bf16(row: Row, x: Tensor) -> bool:
    try:
        with torch.no_grad():
            y = build(row, {}, *CASES[0]).bfloat16()(x.bfloat16())
    except Exception:
        return False
    return y.dtype == torch.bfloat16 and bool(y.isfinite().all())


@torch.no_grad()
def check_graph(row: Row, x: Tensor) -> None:
    """Export it, and compile it in one graph."""
    module = build(row, {}, *CASES[0])
    try:
        exported = torch.export.export(module, (x,)).module()
    except Exception as error:
        raise Fault(8, f"torch.export does not take it: {said(error)}") from None
    if not same(exported(x), module(x)):
        raise Fault(8, "exported, it gives something else")
    try:
        compiled = torch.compile(module, fullgraph=True, backend="eager")(x)
    except Exception as error:
        line = said(error).partition(" Explanation")[0]
        raise Fault(8, f"torch.compile does not take it in one graph: {line}") from None
    if not same(compiled, module(x)):
        raise Fault(8, "compiled, it gives something else")
