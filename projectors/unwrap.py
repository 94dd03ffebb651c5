"""The projector inside what training makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..registry import MobileVLMError
from .projector import Projector
from .stack import Stack

__all__ = ["WRAPPERS", "inside", "unwrap"]

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""What wrappers call the module inside them, in their attributes and in their keys."""

# Classes that compute what is inside them and nothing else, by package and name: none is imported.
_CLASSES = frozenset(
    {
        ("torch", "AveragedModel"),
        ("torch", "CheckpointWrapper"),
        ("torch", "DataParallel"),
        ("torch", "DistributedDataParallel"),
        ("torch", "FullyShardedDataParallel"),
        ("torch", "OptimizedModule"),
        ("deepspeed", "DeepSpeedEngine"),
    }
)
# These have no one name for what is inside: they hand on what they do not know.
_HANDING = frozenset(
    {
        ("peft", "PeftModel"),
        ("peft", "PeftMixedModel"),
        ("peft", "BaseTuner"),
        ("peft", "AuxiliaryTrainingWrapper"),
        ("peft", "ModulesToSaveWrapper"),
    }
)


def inside(module: nn.Module) -> str | None:
    """Return the name of the child that a wrapper wraps; None if it is no wrapper."""
    if _is_one(module, _CLASSES):
        return next((name for name in WRAPPERS if name in module._modules), None)
    return None


def unwrap(module: Any, error: type[MobileVLMError]) -> Projector:
    """Return the projector inside DataParallel, DDP, FSDP, torch.compile and the like.

    A module of any other class may compute something else of the projector inside it, so it is
    none.

    Args:
        module: A projector, wrapped any number of times or not at all.
        error: What to raise.

    Raises:
        MobileVLMError: There is no projector, or it is a part of something else.
    """
    inner = module
    while isinstance(inner, nn.Module) and not isinstance(inner, Projector):
        name = inside(inner)
        if name is not None:
            inner = inner._modules[name]
        elif _is_one(inner, _HANDING):
            inner = getattr(getattr(inner, "native", None), "__self__", None)
        else:
            break
    if not isinstance(inner, Projector):
        raise error(f"a {type(module).__name__}", "projector", "a Projector", _hint(module))
    return inner


def _is_one(module: nn.Module, classes: frozenset[tuple[str, str]]) -> bool:
    return any(
        (cls.__module__.partition(".")[0], cls.__name__) in classes for cls in type(module).__mro__
    )


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
