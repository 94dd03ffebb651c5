"""Counting multiply-accumulates while a module runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

__all__ = ["count_macs", "macs_of"]


@contextmanager
def count_macs(root: nn.Module) -> Iterator[dict[str, int]]:
    """Count the MACs of convolutions and matrix products in this thread, in a ``with`` block.

    torch's FlopCounterMode hooks every module of the process, so that other threads' calls would
    count too. This one hooks only `root`'s modules, and uses torch's formulas.

    As modules with hooks stay in their places, this counts a chain as it is written.

    Yields:
        MACs by module path below `root`; the empty path is the total.
    """
    found: dict[str, int] = {"": 0}
    path: list[str] = []

    def enter(name: str, *_: object) -> None:
        path.append(name)

    def leave(*_: object) -> None:
        path.pop()

    with ExitStack() as stack:
        for name, module in root.named_modules():
            if name:
                stack.callback(module.register_forward_pre_hook(partial(enter, name)).remove)
                stack.callback(module.register_forward_hook(leave, always_call=True).remove)
        stack.enter_context(_MacCounter(found, path))
        yield found


def macs_of(run: Callable[[], Any]) -> int:
    """Return the MACs of a call as it runs: without hooks, which would keep a chain's order."""
    found = {"": 0}
    with _MacCounter(found, ()), torch.no_grad():
        run()
    return found[""]


class _MacCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, found: dict[str, int], path: Sequence[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = found
        self.path = path

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        if formula is None and func is not torch.ops.prim.device.default:
            with self:  # under inference mode composite operators arrive whole
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        if formula is not None:
            macs = formula(*args, **kwargs, out_val=out) // 2  # a multiply-add is two FLOPs
            for name in ("", *self.path):
                self.found[name] = self.found.get(name, 0) + macs
        return out
