"""The projector inside what training makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..registry import MobileVLMError
from .projector import Projector
from .stack import Stack

__all__ = ["WRAPPERS", "unwrap"]

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""What wrappers call the module inside them, in their attributes and in their keys."""


def unwrap(module: Any, error: type[MobileVLMError]) -> Projector:
    """Return the projector inside DataParallel, DDP, FSDP, torch.compile and the like.

    Args:
        module: A projector, wrapped any number of times or not at all.
        error: What to raise.

    Raises:
        MobileVLMError: There is no projector, or it is a part of a larger model.
    """
    inner = module
    while not isinstance(inner, Projector):
        children = inner._modules if isinstance(inner, nn.Module) else {}
        name = next(iter(children), "")
        if len(children) == 1 and name in WRAPPERS:
            inner = children[name]
            continue
        # Other wrappers, such as PEFT's and DeepSpeed's, hand on what they do not know.
        inner = getattr(getattr(inner, "native", None), "__self__", None)
        if not isinstance(inner, Projector):
            raise error(f"a {type(module).__name__}", "projector", "a Projector", _hint(module))
    return inner


def _hint(module: Any) -> str:
    if isinstance(module, nn.Module):
        for name, child in module.named_modules():
            if isinstance(child, Projector):
                return f"Pass the one that is inside it: .{name}"
    if isinstance(module, Stack):
        return "build_projector makes one of it."
    if isinstance(module, Mapping):
        return "Load it into one first: build_projector(...).load_state_dict(...)."
    return "build_projector and load_projector make one."
