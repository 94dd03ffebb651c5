"""Put a projector at any place of a model whose class is not known."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NoReturn

from torch import nn

from ..projectors.build import build_projector
from ..projectors.lookup import name_of
from ..projectors.projector import Projector
from ..projectors.stack import Stack
from ..registry import did_you_mean, quote
from .arguments import check_options
from .dispatched import follow, like_of
from .errors import ModelError
from .original import start_from

__all__ = ["swap_at"]


def swap_at(
    model: Any,
    spec: str | Mapping[str, Any] | Stack | Projector,
    slot: str,
    tokens: int | None,
    options: dict[str, Any],
    from_original: bool,
) -> Projector:
    """Put a projector at any place of any model, which can then no longer be saved."""
    own = _module_at(model, slot)
    like = like_of(own, model)
    family = name_of(spec)
    check_options(options, ("device", "dtype"), "the slot")
    if isinstance(spec, str) and not {"in_", "in"} & options.keys():
        raise ModelError(
            "a name without widths",
            "swap_projector",
            "in_= and out= with slot=, as nothing is known of the model",
            f"swap_projector(model, {spec!r}, slot={slot!r}, in_=1024, out=2048).",
        )
    if not isinstance(spec, Projector):
        spec = build_projector(spec, tokens=tokens, device=like.device, dtype=like.dtype, **options)
    projector = spec
    if from_original:
        config = model.config.to_dict()
        start_from(own, projector, slot=slot, config=config, family=family)
    projector.to(like.device, like.dtype).train(own.training)
    parent, _, name = slot.rpartition(".")
    setattr(model.get_submodule(parent), name, projector)
    follow(model, own, projector, slot)
    model.save_pretrained = functools.partial(_refuse_to_save, type(model).__name__, slot)
    return projector


def _module_at(model: Any, slot: str) -> nn.Module:
    modules: dict[str, nn.Module] = {}
    if isinstance(model, nn.Module):
        modules = dict(model.named_modules())
        del modules[""]  # which has no parent
    if slot in modules:
        return modules[slot]
    raise ModelError(
        f"no module {quote(slot)} in a {type(model).__name__}",
        "slot",
        "the path of a module",
        f"{did_you_mean(slot, modules)} model.named_modules() lists them.".strip(),
    )


def _refuse_to_save(model: str, slot: str, *args: Any, **kwargs: Any) -> NoReturn:
    raise ModelError(
        f"the projector at {slot} was put there by slot=, and a {model} is not loaded with it",
        "save_pretrained",
        "a model that can be loaded again",
        f"save_projector(model.get_submodule({slot!r}), folder) saves the projector; a row in "
        "mobilevlm/models/hosts.py makes the class known.",
    )
