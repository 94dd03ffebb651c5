"""Where the projector stands in a model: find it, and put another one there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from ..projectors.projector import Projector
from ..projectors.unwrap import inside
from .errors import ModelError
from .host import Host
from .hosts import find_host, form_of

if TYPE_CHECKING:
    from .forms.form import Form

__all__ = [
    "STALE",
    "core_of",
    "find_projector",
    "get_slot",
    "projector_in",
    "put",
    "slot_path",
    "unwrapped",
]

STALE = "original_module"  # what PEFT keeps beside the copy that it trains


def unwrapped(model: Any) -> Any:
    """Return the model of transformers inside DDP, torch.compile, PEFT and the like."""
    while True:
        name = inside(model) if isinstance(model, nn.Module) else None
        if name is not None:
            model = model._modules[name]
        elif hasattr(model, "get_base_model"):
            model = model.get_base_model()
        else:
            return model


def core_of(model: Any) -> nn.Module:
    """Return the base model of a model: itself, where it has no head."""
    core: nn.Module = model.base_model
    return core


def get_slot(model: Any, slot: str) -> nn.Module:
    """Return what stands in the slot of a model."""
    return core_of(model).get_submodule(slot)


def slot_path(model: Any, host: Host) -> str:
    """Return where the slot of a model is, from the model itself."""
    slot = get_slot(model, host.slot)
    paths: list[str] = [path for path, module in model.named_modules() if module is slot]
    return paths[0]


def projector_in(slot: nn.Module) -> Projector:
    """Return the projector in a slot, which an adapter may have wrapped.

    Raises:
        ModelError: Another module has been put there.
    """
    for module in slot.modules():
        if isinstance(module, Projector):
            return module
    raise ModelError(
        f"a {type(slot).__name__} in the projector's place",
        "model",
        "a Projector, as its config says",
        "Put one there by swap_projector(model, ...).",
    )


def find_projector(model: nn.Module) -> tuple[str, nn.Module]:
    """Return the projector of a model, and its name there: swapped in, or a known class's own.

    The model may be wrapped by DDP, torch.compile or PEFT. Of a projector in PEFT's
    ``modules_to_save`` the copy that is trained is returned.

    Raises:
        ModelError: There is none.
    """
    for name, module in model.named_modules():
        if isinstance(module, Projector) and STALE not in name.split("."):
            return name, module
    bare = unwrapped(model)
    own = get_slot(bare, find_host(getattr(bare, "config", None)).slot)
    copies = getattr(own, "modules_to_save", None)
    if isinstance(copies, nn.ModuleDict) and len(copies):
        own = next(iter(copies.values()))
    return next(name for name, module in model.named_modules() if module is own), own


def put(model: Any, host: Host, projector: Projector) -> None:
    """Put a projector in the slot of a model, and let the model call it there."""
    core, form = core_of(model), form_of(host)
    parent, _, name = host.slot.rpartition(".")
    _prepare(form, projector)
    setattr(core.get_submodule(parent), name, projector)
    form.bind(core, host)


_HOOKS = ("_forward_pre_hooks", "_forward_hooks")


def _prepare(form: Form, projector: Projector) -> None:
    """Register a form's hooks, in place of those of a model in which the projector has stood."""
    kinds = [getattr(projector, kind) for kind in _HOOKS]
    for hooks, keys in zip(kinds, vars(projector).get("_form_hooks", ((), ())), strict=True):
        for key in keys:
            hooks.pop(key, None)
            projector._forward_hooks_with_kwargs.pop(key, None)
            projector._forward_pre_hooks_with_kwargs.pop(key, None)
    before = [set(hooks) for hooks in kinds]
    form.prepare(projector)
    new = [tuple(set(hooks) - old) for hooks, old in zip(kinds, before, strict=True)]
    projector._form_hooks = new  # type: ignore[assignment]
