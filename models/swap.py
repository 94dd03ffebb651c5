"""Put a projector where a model has its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from ..blocks.core.errors import SpecError
from ..projectors.build import plan_projector, spec_of
from ..projectors.document import dump_spec
from ..projectors.index import advising, keywords
from ..projectors.lookup import name_of
from ..projectors.projector import Projector
from ..projectors.stack import Stack
from .arguments import (
    check_arguments,
    check_no_processor,
    check_options,
    check_processor,
    check_weights,
    host_of,
)
from .auto import register_models
from .classes import config_class, model_class
from .dispatched import follow, like_of, rebind_forward
from .forms.form import Slot
from .host import KEY, Host
from .hosts import counter_of, form_of
from .original import start_from
from .processing import processor_class
from .quantised import SKIPPED, keep_plain
from .slots import core_of, get_slot, put, slot_path
from .unknown import swap_at
from .upstream import transformers

__all__ = ["swap_projector"]


def swap_projector(
    model: Any,
    spec: str | Mapping[str, Any] | Stack | Projector,
    *,
    processor: Any = None,
    slot: str | None = None,
    tokens: int | None = None,
    init: Literal["original"] | None = None,
    **options: Any,
) -> Projector:
    """Put a projector where a vision-language model of transformers has its own, in place.

    The widths, the grid, prefix tokens and the token order are read off the model's config. The
    projector takes the slot's device, dtype and training flag. The model becomes
    an instance of a subclass, ``MobileVLM...``, whose ``save_pretrained`` writes a folder that
    `mobilevlm.models.load_model` and the Auto classes read.

    Args:
        model: The model, with a head or without.
        spec: A registered name, a document, a stack or a projector.
        processor: The model's processor, which then counts the projector's tokens, in place.
        slot: Where the projector of a model of another class stands, such as
            ``"model.connector"``. It can be trained there, but not saved with the model.
        tokens: How many tokens an image, or a tile of it, is to take; see `build_projector`.
        init: ``"original"`` starts from what fits of the weights that the model's projector has:
            modules of the same name, if both are of one family, else modules of one kind and
            shape with the same place in the order of use. What was copied, and what was not, is
            logged to ``mobilevlm``, with a warning where some stay random. By default all are.
        **options: The options of a registered name.

    Returns:
        The projector, which stands in the model.

    Raises:
        ModelError: The model or its processor is not known, or cannot take the projector, or
            nothing of the original's weights fits; nothing has been changed.
        SpecError: An option, a width or the document does not fit.
        GridError: A block does not take the model's grid.
        TransformersMissing: Transformers is not installed.
    """
    transformers()
    check_arguments(spec, tokens, init, options)
    family = name_of(spec)
    if slot is not None:
        check_no_processor(processor)
        return swap_at(model, spec, slot, tokens, options, init is not None)
    host = host_of(model)
    form = form_of(host)
    facts = form.slot(model.config, host)
    own, path = get_slot(model, host.slot), slot_path(model, host)
    stack = _stack(spec, facts, tokens, options)
    seen = facts.seen_by(stack)
    seen.check(stack)
    form.check(stack, seen, model.config)
    if processor is not None:
        check_processor(processor, host, facts)
    like = like_of(own, model)
    if isinstance(spec, Projector):
        check_weights(spec, seen, like)
        projector = spec
    else:
        projector = Projector(
            stack, grid=seen.grid, device=like.device, dtype=like.dtype, name=family
        )
    if init is not None:
        config = {**model.config.to_dict(), "model_type": host.model_type}
        start_from(own, projector, slot=host.slot, config=config, family=family)
    # Nothing has been changed up to here.
    projector.to(like.device, like.dtype).train(own.training)
    projector.grid = seen.grid
    put(model, host, projector)
    follow(model, own, projector, path)
    _convert(model, host, projector, seen)
    if projector is not own:
        keep_plain(model, path)
    if processor is not None:
        processor.__class__ = processor_class(host)
        counter_of(host).apply(processor, stack, seen)
    return projector


def _convert(model: Any, host: Host, projector: Projector, facts: Slot) -> None:
    """Make a model, and its config, one of a swapped projector."""
    config = model.config
    config.__class__ = config_class(host)
    setattr(config, KEY, json.loads(dump_spec(projector.spec)))
    for key, value in host.switches.items():
        setattr(config, key, value)
    if facts.grid is not None:
        for key in host.length:
            setattr(config, key, projector.spec.tokens(*facts.grid))
    core = core_of(model)
    core.config = config
    setattr(config, SKIPPED, [host.slot])
    model.__class__ = model_class(host, head=core is not model)
    # How upstream's class names weights in files; ours names them as the modules are.
    vars(model).pop("_weight_conversions", None)
    rebind_forward(model)
    register_models(host)


_READ = ("in", "in_", "out", "grid", "tower", "lm", "device", "dtype")


def _stack(
    spec: str | Mapping[str, Any] | Stack | Projector,
    slot: Slot,
    tokens: int | None,
    options: dict[str, Any],
) -> Stack:
    """Return the specification that is asked for, for what reaches the slot."""
    if isinstance(spec, Projector):
        return spec.spec
    check_options(options, _READ, "the model's config")
    if not isinstance(spec, str):
        return plan_projector(spec, tokens=tokens, **options).stack
    try:
        with advising(spec, _swap_call):
            stack = spec_of(spec, slot.channels, slot.out, tokens=tokens, grid=slot.grid, **options)
    except SpecError as error:
        if error.where == "tokens" and slot.grid is None:
            error.hint = (
                "The images of this model differ in size: set an option of the name instead."
            )
        raise
    order = {"prefix_tokens": slot.prefix_tokens, "token_order": slot.token_order}
    return stack.model_copy(update={k: v for k, v in order.items() if k not in options})


def _swap_call(family: str, options: Mapping[str, Any]) -> str:
    return f"swap_projector(model, {family!r}{keywords(options)})"
