"""Make the Auto classes of transformers know swapped models."""

from __future__ import annotations

from typing import Any

from .classes import AUTO, config_class, model_class
from .host import PREFIX, Host
from .hosts import HOSTS
from .processing import processor_class
from .upstream import load_class

__all__ = ["register", "register_models"]

_KINDS = ("IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM")


def register() -> None:
    """Register the configs and processors of all hosts that this version of transformers has.

    The models of one are registered when its config is first used: their modeling files take long
    to import.
    """
    configs, processors = load_class("AutoConfig"), load_class("AutoProcessor")
    for host in HOSTS.values():
        config: Any = config_class(host)
        configs.register(config.model_type, config, exist_ok=True)
        processors.register(config, processor_class(host), exist_ok=True)


def register_models(host: Host) -> None:
    """Register the models of a host, also by name.

    ``transformers serve`` and pipelines find a model's kind in these tables of names, in which
    ``register`` puts nothing.
    """
    config: Any = config_class(host)
    for name in AUTO:
        model = model_class(host, head=name != "AutoModel")
        load_class(name).register(config, model, exist_ok=True)
    from transformers.models.auto import modeling_auto

    for kind in _KINDS:
        names = getattr(modeling_auto, f"MODEL_FOR_{kind}_MAPPING_NAMES")
        names[config.model_type] = PREFIX + host.head
