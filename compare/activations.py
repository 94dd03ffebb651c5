"""How much memory the activations of one forward take, counted on the meta device."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["peak_bytes"]


def peak_bytes(run: Callable[[], Any]) -> int:
    """Return the most bytes that tensors take at any moment of a call without gradients.

    All tensors count that the call makes, as long as something holds them; what was there before,
    such as parameters, does not. Attention is taken as torch's fused kernels compute it, without
    its table of scores. Memory that torch's kernels use inside is not seen: dense convolutions on
    the CPU may need a multiple of all else.

    Args:
        run: The call, of modules on the meta device; it makes its input itself.
    """
    alive = _Alive()
    with torch.no_grad(), alive, _FusedAttention():
        run()
    return alive.peak


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Add up the storages that operators make, and take off those that are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known: dict[int, weakref.ref[Any]] = {}
        self._now: int = 0
        self.peak: int = 0

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return

        def freed(_: object) -> None:
            del self._known[key]
            self._now -= size

        self._known[key] = weakref.ref(storage, freed)
        self._now += size
        self.peak = max(self.peak, self._now)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default and args[0].is_contiguous(
            memory_format=torch.channels_last
        ):  # as on every other device
            out = out.contiguous(memory_format=torch.channels_last)
        given = {leaf.untyped_storage()._cdata for leaf in _tensors((args, kwargs))}
        for tensor in _tensors(out):
            if tensor.untyped_storage()._cdata not in given:
                self._add(tensor)
        return out


class _FusedAttention(TorchFunctionMode):
    """Make the output of attention, and nothing else: on meta torch would write out the scores."""

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is nn.functional.scaled_dot_product_attention:
            q, _, v = args[:3]
            *batch, heads, n, _ = q.shape
            return q.new_empty(*batch, n, heads, v.shape[-1]).transpose(-3, -2)
        return func(*args, **(kwargs or {}))


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
