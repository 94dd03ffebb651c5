"""The classes of models and configs whose projector has been swapped, made when asked for.

``MobileVLMLlavaForConditionalGeneration`` is a subclass of transformers'
``LlavaForConditionalGeneration``, and so on for each row of ``hosts``: any of them can be imported
from here by name, and only its own modeling file is imported for it.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch

from ..projectors.projector import Projector
from ..projectors.stack import Stack
from .errors import ModelError
from .host import KEY, PREFIX, TYPE_PREFIX, Host
from .hosts import HOSTS, find_host, form_of
from .quantised import keeping_plain
from .saved import MODELING, write_code
from .slots import core_of, get_slot, projector_in, put
from .upstream import load_class

__all__ = ["AUTO", "SwappedConfig", "SwappedModel", "config_class", "model_class"]

AUTO = ("AutoModel", "AutoModelForImageTextToText", "AutoModelForMultimodalLM")


class SwappedConfig:
    """What the configs add: the projector's document, and where the classes are found."""

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)  # type: ignore[misc]
        from .auto import register_models

        register_models(find_host(self))

    def to_dict(self) -> dict[str, Any]:
        """Add ``auto_map``, for those who load the folder with ``trust_remote_code=True``."""
        data: dict[str, Any] = super().to_dict()  # type: ignore[misc]
        data.pop("auto_map", None)
        if data.get(KEY) is not None:
            host = find_host(self)
            data["auto_map"] = {"AutoConfig": f"{MODELING}.{PREFIX}{host.config}"}
            for auto in AUTO:
                name = host.base if auto == "AutoModel" else host.head
                data["auto_map"][auto] = f"{MODELING}.{PREFIX}{name}"
        return data

    def to_json_file(self, json_file_path: Any, use_diff: bool = True) -> None:
        """Write the file, and beside it the code that ``auto_map`` names."""
        super().to_json_file(json_file_path, use_diff)  # type: ignore[misc]
        if getattr(self, KEY, None) is not None:
            host = find_host(self)
            names = [PREFIX + name for name in (host.config, host.base, host.head)]
            write_code(json_file_path, MODELING, names)

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoConfig") -> None:
        """Do nothing: transformers would copy this file beside the weights."""


class SwappedModel:
    """What the models add: the projector in its slot, and batches without an image."""

    config: Any

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]
        document = getattr(config, KEY, None)
        if document is None:
            raise ModelError(
                f"no {KEY!r}",
                "config",
                "the document of a projector",
                f"Build upstream's own class, and swap its projector: a {type(self).__name__} "
                "is what swap_projector makes of it.",
            )
        host = find_host(config)
        stack = Stack.parse(document)
        form = form_of(host)
        slot = form.slot(config, host).seen_by(stack)
        slot.check(stack)  # a file may have been edited
        form.check(stack, slot, config)
        put(self, host, Projector(stack, grid=slot.grid))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a saved model; one that is quantised now keeps its projector as it is.

        What ``quantization_config`` lists as not to be quantised is left to the caller.
        """
        kwargs = keeping_plain(cls, pretrained_model_name_or_path, kwargs)
        return super().from_pretrained(  # type: ignore[misc]
            pretrained_model_name_or_path, *args, **kwargs
        )

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """Save the model, unless its folder would name another projector than the model has.

        Raises:
            ModelError: The config's document is not that of the projector in the slot.
        """
        self._check_document()
        return super().save_pretrained(*args, **kwargs)  # type: ignore[misc]

    def _check_document(self) -> None:
        document = getattr(self.config, KEY, None)
        projector = projector_in(get_slot(self, find_host(self.config).slot))
        if document is None or Stack.parse(document) != projector.spec:
            raise ModelError(
                f"a projector that is not the one of config.{KEY}",
                "save_pretrained",
                "the same in both: the folder is read by its config",
                "swap_projector(model, projector) puts it in its place, and writes the config.",
            )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[misc]
        host = find_host(self.config)
        form_of(host).bind(core_of(self), host)  # bound methods do not survive copies

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoModel") -> None:
        """Do nothing: transformers would copy this file beside the weights."""


def _forward(base: type) -> Any:
    """Return the forward of a swapped model: its base's, which also takes batches of text."""
    original = base.forward  # type: ignore[attr-defined]
    signature = inspect.signature(original)

    @functools.wraps(original)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not (self.training and torch.is_grad_enabled()):
            return original(self, *args, **kwargs)
        call = signature.bind_partial(self, *args, **kwargs).arguments
        call = {**call, **call.get("kwargs", {})}
        if any(call.get(key) is not None for key in call if "pixel" in key or key == _ENCODED):
            return original(self, *args, **kwargs)
        zero = _of_no_image(self)  # before the language model, as the projector of an image
        if zero is None:
            return original(self, *args, **kwargs)
        # To the embeddings, as features of an image: the gradient goes the same way back, through
        # layers that may be sharded too.
        if (embeds := kwargs.get("inputs_embeds")) is not None:
            return original(self, *args, **{**kwargs, "inputs_embeds": embeds + zero.to(embeds)})
        add = self.get_input_embeddings().register_forward_hook(lambda _, args, y: y + zero.to(y))
        try:
            return original(self, *args, **kwargs)
        finally:
            add.remove()

    return forward


_ENCODED = "mm_encoder_outputs"


def _of_no_image(model: Any) -> torch.Tensor | None:
    """Return zero times what the projector makes of no image, which a batch of text adds.

    So the projector takes part on each process of a distributed run, whatever its batch holds.
    """
    host = find_host(model.config)
    projector = get_slot(model, host.slot)
    weight = next((p for p in projector.parameters() if p.is_floating_point()), None)
    if weight is None:
        return None
    width = model.config.mobilevlm["in"]
    # Not new_zeros, which of a sharded weight is sharded too.
    x = torch.zeros((0, width), dtype=weight.dtype, device=weight.device)
    return 0 * form_of(host).idle(core_of(model), projector, x).sum()


def config_class(host: Host) -> type:
    """Return the class of the configs of swapped models, the same for any tower."""
    return _config_class(host.config, TYPE_PREFIX + host.model_type)


@functools.cache
def _config_class(name: str, model_type: str) -> type:
    return _made(PREFIX + name, (SwappedConfig, load_class(name)), model_type=model_type)


def model_class(host: Host, *, head: bool = True) -> type:
    """Return the class of swapped models, with or without a head, the same for any tower."""
    return _model_class(host.head if head else host.base, config_class(host))


@functools.cache
def _model_class(name: str, config: type) -> type:
    base = load_class(name)
    split = getattr(base, "_no_split_modules", None) or []
    return _made(
        f"{PREFIX}{base.__name__}",
        (SwappedModel, base),
        config_class=config,
        forward=_forward(base),
        _no_split_modules=[*split, "Projector"],
    )


def _made(name: str, bases: tuple[type, ...], **attributes: Any) -> type:
    doc = f"``{bases[-1].__name__}`` whose projector is the one of its config."
    space = {"__module__": __name__, "__qualname__": name, "__doc__": doc, **attributes}
    return type(name, bases, space)


def __getattr__(name: str) -> Any:
    rest = name.removeprefix(PREFIX)
    for host in HOSTS.values() if rest != name else ():
        if rest == host.config:
            return config_class(host)
        if rest in (host.base, host.head):
            return model_class(host, head=rest == host.head)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
