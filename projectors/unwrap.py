"""Find the projector inside the wrappers of training tools."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from ..registry import MobileVLMError
from .projector import Projector

__all__ = ["inside", "is_beside", "unwrap", "without_wrappers"]

# The names of the wrapped module in wrappers' attributes and keys.
_WRAPPERS = (
    "module",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
)
# In keys, PEFT's names too: that of the trained copy ends with the adapter's.
_IN_KEYS = re.compile(
    rf"(?<![^.])(?:{'|'.join(_WRAPPERS)}|base_model\.model|modules_to_save\.[^.]+)\."
)
# What wrappers keep beside it: the module as it was before training, and how often it was averaged.
_BESIDE = re.compile(r"(?<![^.])(?:original_module\.|n_averaged\Z)")

# Classes that only call the module inside them, by package and name, as none is imported.
_WRAPPER_CLASSES = frozenset(
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
# These have no fixed name for the module inside, but forward unknown attributes to it.
_FORWARDING_CLASSES = frozenset(
    {
        ("peft", "PeftModel"),
        ("peft", "PeftMixedModel"),
        ("peft", "BaseTuner"),
        ("peft", "AuxiliaryTrainingWrapper"),
        ("peft", "ModulesToSaveWrapper"),
    }
)


def inside(module: nn.Module) -> str | None:
    """Return the name of the module that a wrapper wraps; None if it is not a wrapper."""
    if _is_instance_by_name(module, _WRAPPER_CLASSES):
        return next((name for name in _WRAPPERS if name in module._modules), None)
    return None


def without_wrappers(key: str) -> str:
    """Return a key without the names of wrappers, wherever they stand in it.

    >>> without_wrappers("module.mm_projector.modules_to_save.default.0.weight")
    'mm_projector.0.weight'
    """
    return _IN_KEYS.sub("", key)


def is_beside(key: str) -> bool:
    """Return whether a key is of what a wrapper keeps beside the module, such as a stale copy."""
    return _BESIDE.search(key) is not None


def unwrap(module: Any, error: type[MobileVLMError]) -> Projector:
    """Return the projector inside DataParallel, DDP, FSDP, torch.compile and the like.

    A module of any other class may do more than call the projector inside it, so it is refused.

    Args:
        module: A projector, wrapped any number of times or not at all.
        error: The class of the error.

    Raises:
        MobileVLMError: There is no projector inside, or it is part of another module.
    """
    inner = module
    while isinstance(inner, nn.Module) and not isinstance(inner, Projector):
        name = inside(inner)
        if name is not None:
            inner = inner._modules[name]
        elif _is_instance_by_name(inner, _FORWARDING_CLASSES):
            inner = getattr(getattr(inner, "native", None), "__self__", None)
        else:
            break
    if not isinstance(inner, Projector):
        raise error(f"a {type(module).__name__}", "projector", "a Projector", _unwrap_hint(module))
    return inner


def _is_instance_by_name(module: nn.Module, classes: frozenset[tuple[str, str]]) -> bool:
    return any(
        (cls.__module__.partition(".")[0], cls.__name__) in classes for cls in type(module).__mro__
    )


def _unwrap_hint(module: Any) -> str:
    if isinstance(module, nn.Module):
        for name, child in module.named_modules():
            if isinstance(child, Projector):
                return f"Pass the projector inside it: .{name}"
    return "build_projector and load_projector make one."
