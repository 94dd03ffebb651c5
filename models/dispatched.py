"""Models whose parts accelerate has dispatched to several devices, or offloaded to a disk."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .errors import ModelError

__all__ = ["follow", "home_of", "like_of", "rebind_forward", "state_of"]

_HOOK = "_hf_hook"  # where accelerate keeps what it does around a module's forward


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's tensors by name; those that are offloaded are read."""
    state = {key: t for key, t in module.state_dict().items() if isinstance(t, Tensor)}
    for path, child in module.named_modules():
        values = _offloaded(child)
        for name in child._parameters.keys() | child._buffers.keys() if values is not None else ():
            key = f"{path}.{name}".removeprefix(".")
            if key in state and state[key].is_meta and values is not None:
                state[key] = values[name]
    return state


def home_of(own: nn.Module, like: Tensor) -> torch.device:
    """Return the device on which what takes a module's place is to be.

    It is where the module's tensors are when it runs, though they are offloaded meanwhile.

    Args:
        own: The module.
        like: One of its tensors.
    """
    for module in own.modules():
        if _offloaded(module) is not None:
            return _device(_align(module).execution_device)
    return like.device


def like_of(own: nn.Module, model: nn.Module) -> Tensor:
    """Return an empty tensor of the device and the dtype that the projector takes.

    They are the slot's; where it is quantised or has no parameters, the model's.
    """
    for module in (own, model):
        for parameter in module.parameters():
            if parameter.is_floating_point():
                return torch.empty(0, dtype=parameter.dtype, device=home_of(own, parameter))
    raise ModelError(
        f"a {type(model).__name__} without floating-point parameters",
        "model",
        "some, whose device and dtype a projector takes",
    )


def follow(model: nn.Module, own: nn.Module, new: nn.Module, path: str) -> None:
    """Let a module run on its device as the one before it did, and the model know where it is.

    Args:
        model: The model.
        own: The module that stood there.
        new: The one that takes its place, on its device.
        path: The place in the model.
    """
    hook = _align(own)
    if hook is None:
        return
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    add_hook_to_module(
        new,
        AlignDevicesHook(
            hook.execution_device,
            io_same_device=hook.io_same_device,
            place_submodules=True,
            skip_keys=hook.skip_keys,
        ),
    )
    devices = getattr(model, "hf_device_map", None)
    if devices is not None:
        for key in [key for key in devices if f"{key}.".startswith(f"{path}.")]:
            del devices[key]
        devices[path] = hook.execution_device


def rebind_forward(model: nn.Module) -> None:
    """Let what accelerate has put around a model's forward call that of its new class."""
    if "_old_forward" in vars(model):
        model._old_forward = types.MethodType(type(model).forward, model)  # type: ignore[assignment]


def _align(module: nn.Module) -> Any:
    """Return the hook that moves a module's inputs to its device; None if there is none."""
    hook = getattr(module, _HOOK, None)
    hooks = getattr(hook, "hooks", (hook,))
    return next((each for each in hooks if hasattr(each, "execution_device")), None)


def _offloaded(module: nn.Module) -> Mapping[str, Tensor] | None:
    """Return the tensors of a module that are kept elsewhere until it runs."""
    hook = _align(module)
    if hook is None or not getattr(hook, "offload", False):
        return None
    values: Mapping[str, Tensor] | None = hook.weights_map
    return values


def _device(device: Any) -> torch.device:
    return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
