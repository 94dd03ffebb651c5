"""What `swap_projector` refuses of what it is given, before anything is changed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from ..projectors.projector import Projector
from ..registry import quote
from .classes import model_class
from .errors import ModelError
from .forms.form import Slot
from .host import Host
from .hosts import counter_of, find_host
from .slots import unwrapped
from .upstream import load_class

__all__ = [
    "check_arguments",
    "check_no_processor",
    "check_options",
    "check_processor",
    "check_weights",
    "host_of",
]


def check_arguments(spec: object, tokens: object, init: object, options: dict[str, Any]) -> None:
    """Refuse arguments that would have no effect on a projector that has weights."""
    if init not in (None, "original"):
        raise ModelError(quote(init), "init", "None, for random weights, or 'original'")
    if not isinstance(spec, Projector):
        return
    given = {"tokens": tokens, "init": init, **options}
    for name, value in given.items():
        if value is not None:
            raise ModelError(
                "a Projector, which is complete and has weights of its own",
                f"{name}={quote(value)}",
                "a name or a document",
                f"Leave out {name}, or pass its document, projector.spec.",
            )


def check_no_processor(processor: object) -> None:
    """Refuse a processor where it would not be told anything."""
    if processor is not None:
        raise ModelError(
            f"a {type(processor).__name__}",
            "processor",
            "none, with slot=: how many tokens it counts is known of known classes only",
            "Leave out slot, if the model is of one; leave out processor, if it is not.",
        )


def check_options(options: dict[str, Any], names: Iterable[str], source: str) -> None:
    """Refuse options that would say again what the model says itself."""
    for name in names:
        if name in options:
            raise ModelError(
                f"the option {name}",
                "swap_projector",
                f"none of that name: it is read off {source}",
                f"Leave out {name}.",
            )


def host_of(model: Any) -> Host:
    """Return the host of a model, which must be of a class that is known, and of no subclass."""
    bare = unwrapped(model)
    wrapped = bare is not model and isinstance(bare, load_class("PreTrainedModel"))
    if wrapped or not isinstance(model, load_class("PreTrainedModel")):
        raise ModelError(
            f"a {type(model).__name__}",
            "model",
            "a model of transformers",
            f"Swap the projector of the {type(bare).__name__} inside it, then wrap that."
            if wrapped
            else "AutoModelForImageTextToText.from_pretrained(folder) loads one.",
        )
    host = find_host(model.config)
    known = [load_class(host.head), load_class(host.base)]
    if type(model) not in (*known, model_class(host), model_class(host, head=False)):
        raise ModelError(
            f"a {type(model).__name__}",
            "model",
            f"a {host.head} or a {host.base}, whose class is exchanged",
            f"Load the model as a {host.head}, and shard it after its projector is swapped.",
        )
    return host


def check_processor(processor: Any, host: Host, slot: Slot) -> None:
    """Refuse a processor of another model."""
    if not isinstance(processor, load_class(host.processor)):
        raise ModelError(
            f"a {type(processor).__name__}",
            "processor",
            f"a {host.processor}, as {host.model_type} has it",
        )
    counter_of(host).check(processor, slot)


def check_weights(projector: Projector, slot: Slot, like: torch.Tensor) -> None:
    """Refuse a projector whose weights are of another grid, or would be lost on the way."""
    blank = Projector(projector.spec, grid=slot.grid, device="meta").state_dict()
    for key, tensor in projector.state_dict().items():
        if key in blank and tensor.shape != blank[key].shape and tensor.is_floating_point():
            raise ModelError(
                f"{tuple(tensor.shape)}, for a grid of {projector.grid}",
                f"projector.{key}",
                f"{tuple(blank[key].shape)}, for the model's grid, {slot.grid}",
                "swap_projector(model, projector.spec) builds it for the model.",
            )
    where = next((p.device for p in projector.parameters()), like.device)
    if (where.type == "meta") != like.is_meta:
        raise ModelError(
            f"weights on {where}",
            "projector",
            f"weights, as the model's on {like.device}"
            if where.type == "meta"
            else "weights on meta, as the model's, which would replace them",
            "Load the weights of both first.",
        )
