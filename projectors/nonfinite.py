"""Find the block that produces the first NaN or infinity."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..registry import MobileVLMError

__all__ = ["NonFiniteError", "find_nonfinite"]


class NonFiniteError(MobileVLMError, ArithmeticError):
    """NaN or infinite values, and the block that produced them."""


@contextmanager
def find_nonfinite(projector: nn.Module) -> Iterator[None]:
    """Stop at the first block that produces a NaN or an infinity, within a ``with`` block.

    For example::

        with find_nonfinite(projector):
            projector(x)

    Otherwise a projector passes NaN and infinities on like any numbers. Every block is hooked, so
    that none is fused or reordered: this is for debugging, and slow.

    Args:
        projector: A projector, or any other module.

    Raises:
        NonFiniteError: A block returned such values, or the input holds them; it names the block
            by its path in the document.
    """

    def enter(_: nn.Module, args: tuple[Any, ...]) -> None:
        for x in _tensors(args):
            if bad := _describe_nonfinite(x):
                raise NonFiniteError(
                    bad, "x", "finite numbers", "The input of the projector holds them."
                )

    def leave(path: str, module: nn.Module, args: tuple[Any, ...], result: Any) -> None:
        for y in _tensors(result):
            if bad := _describe_nonfinite(y):
                raise NonFiniteError(bad, path, "finite numbers", _reason(module, args, y))

    with ExitStack() as hooks:
        hooks.callback(projector.register_forward_pre_hook(enter).remove)
        for path, module in projector.named_modules():
            hook = partial(leave, path or "the output")
            hooks.callback(module.register_forward_hook(hook).remove)
        yield


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values if isinstance(values, tuple | list) else (values,):
        if isinstance(value, Tensor) and not value.is_meta:
            yield value


def _describe_nonfinite(x: Tensor) -> str:
    """Say how many values are not finite, and the first; empty if all are finite."""
    bad = ~x.isfinite()
    count = int(bad.sum())
    if not count:
        return ""
    place = tuple(bad.nonzero()[0].tolist())
    return f"{count:,} of {x.numel():,} numbers are not finite, the first {x[place]:g} at {place}"


def _reason(module: nn.Module, args: tuple[Any, ...], y: Tensor) -> str:
    for key, tensor in module.state_dict().items():
        if _describe_nonfinite(tensor):
            return f"Its {key!r} holds such numbers: `inspect_values` finds them in a file."
    size = max((x.detach().abs().max().item() for x in _tensors(args) if x.numel()), default=0.0)
    text = f"Its weights and its input are finite, and the input reaches {size:g}"
    limit = torch.finfo(y.dtype).max
    return f"{text}; {y.dtype} ends at {limit:g}. A dtype of a wider range may hold them."
