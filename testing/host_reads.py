"""Code that must not read values back from the device, as a captured graph cannot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ..registry import MobileVLMError

__all__ = ["HostReadError", "refuse_host_reads"]

# Of torch's functions and a tensor's methods, by name. On the CPU `tolist` and `numpy` reach no
# operator, so no dispatch mode sees them.
_FUNCTIONS = frozenset(
    {
        *("item", "tolist", "numpy", "nonzero", "argwhere", "masked_select", "unique"),
        *("unique_consecutive", "bincount", "equal", "allclose", "is_nonzero"),
        *("__bool__", "__int__", "__index__", "__float__", "__complex__", "__array__"),
        *("__contains__", "__format__", "__repr__"),
    }
)
# Of operators, which code in C++ calls too.
_OPERATORS = frozenset(
    {
        *("_local_scalar_dense", "nonzero", "equal", "masked_select", "bincount"),
        *("_unique2", "unique_dim", "unique_consecutive"),
    }
)


class HostReadError(MobileVLMError):
    """A value of a tensor was read on the host."""


class _Functions(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _FUNCTIONS:
            raise _error(name)
        if name == "where" and len(args) + len(kwargs) == 1:
            raise _error("where of one argument, which is nonzero")
        if name in ("__getitem__", "__setitem__") and _holds_mask(args[1]):
            raise _error("indexing by a mask")
        if name in ("tensor", "as_tensor", "new_tensor") and _lists_tensors(args):
            raise _error("a tensor made of others' numbers")
        return func(*args, **kwargs)


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # In inference mode, operators come whole that consist of others, which may read.
        with self:
            y = func.decompose(*args, **kwargs)
        if y is not NotImplemented:
            return y
        name = func._schema.name.removeprefix("aten::")
        if name in _OPERATORS:
            raise _error(name)
        if name in ("index", "index_put", "index_put_", "_unsafe_index") and _holds_mask(args[1]):
            raise _error("indexing by a mask")
        if name == "repeat_interleave" and kwargs.get("output_size") is None:
            raise _error("repeat_interleave without output_size")
        if name == "_to_copy" and _leaves(args[0], kwargs.get("device")):
            raise _error("a copy to the CPU")
        if name == "copy_" and _leaves(args[1], args[0].device):
            raise _error("a copy to the CPU")
        return func(*args, **kwargs)


def _holds_mask(index: Any) -> bool:
    each = index if isinstance(index, tuple | list) else (index,)
    masks = (torch.bool, torch.uint8)
    return any(isinstance(one, Tensor) and one.dtype in masks for one in each)


def _lists_tensors(data: Any) -> bool:
    return isinstance(data, tuple | list) and any(
        isinstance(each, Tensor) or _lists_tensors(each) for each in data
    )


def _leaves(source: Tensor, device: torch.device | None) -> bool:
    """Return whether a copy to a device is one from another to the CPU."""
    return device is not None and device.type == "cpu" and source.device.type != "cpu"


def _error(what: str) -> HostReadError:
    return HostReadError(
        f"{what} reads a tensor's values on the host",
        expected="code that a graph can capture",
        hint="Work it out before, from the grids: in a module's pack method.",
    )


@contextmanager
def refuse_host_reads() -> Iterator[None]:
    """Refuse, within a ``with`` block, whatever reads a tensor's values on the host.

    Such a read waits for an accelerator, cannot be captured in a CUDA graph, and breaks compiled
    code::

        with refuse_host_reads():
            projector(x, grid=projector.pack_grids(grids, budget=(1024, 8), device=x.device))

    Refused are ``item``, ``tolist``, ``numpy``, ``bool``, ``int``, ``nonzero`` and their like,
    indexing by masks, ``repeat_interleave`` without ``output_size``, and copies to the CPU.

    Raises:
        HostReadError: At the call that reads.
    """
    with _Functions(), _Operators():  # type: ignore[no-untyped-call]
        yield
