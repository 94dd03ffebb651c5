"""Quantisation leaves a projector as it is, unless it is told otherwise."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from .upstream import HUB

__all__ = ["SKIPPED", "keep_plain", "keeping_plain"]

SKIPPED = "modules_to_not_convert"  # also of a swapped model's config
_LISTS = (SKIPPED, "llm_int8_skip_modules", "skip_modules")  # of the configs of quantisers
_LOG = logging.getLogger("mobilevlm")


def keep_plain(model: Any, path: str) -> None:
    """Record in a quantised model that a module is not quantised, so that it can be read again.

    Args:
        model: The model, which need not be quantised.
        path: The module's place in it.
    """
    quantisation = getattr(model.config, "quantization_config", None)
    if quantisation is None:
        return
    name = _list_of(quantisation)
    if name is None:
        _LOG.warning(
            "%s has no list of modules that stay as they are: a model that is saved and read "
            "again may be expected to have %s quantised",
            type(quantisation).__name__,
            path,
        )
        return
    skipped = _get(quantisation, name)
    if skipped is None:
        skipped = getattr(getattr(model, "hf_quantizer", None), SKIPPED, None) or _defaults(model)
    _set(quantisation, name, _with(skipped, [path]))


def keeping_plain(cls: Any, path: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``from_pretrained``, which then quantises all but the projector.

    Beside it the quantiser leaves what it leaves by default, such as the output layer. Where the
    caller says what to leave, or the saved model is quantised already, nothing is changed.

    Args:
        cls: The class of the model.
        path: The model's folder, or its name on a hub.
        kwargs: The other arguments.
    """
    kwargs = dict(kwargs)
    quantisation = kwargs.get("quantization_config")
    name = None if quantisation is None else _list_of(quantisation)
    if name is None or not _is_default(quantisation, name):
        return kwargs
    config = kwargs.get("config")
    if not isinstance(config, cls.config_class):
        hub = {key: value for key, value in kwargs.items() if key in HUB}
        config = cls.config_class.from_pretrained(path if config is None else config, **hub)
    names = getattr(config, SKIPPED, None)
    if not names or getattr(config, "quantization_config", None) is not None:
        return kwargs
    with torch.device("meta"):
        model = cls(copy.deepcopy(config))
    quantisation = copy.deepcopy(quantisation)
    skipped = _get(quantisation, name)
    skipped = _defaults(model) if skipped is None else skipped
    _set(quantisation, name, _with(skipped, _places(model, names)))
    return {**kwargs, "quantization_config": quantisation}


def _places(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Return the paths of the modules that have these names at their ends."""
    ends = tuple(f".{name}" for name in names)
    return [path for path, _ in model.named_modules() if f".{path}".endswith(ends)]


def _with(skipped: Iterable[str], more: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([*sorted(skipped), *more]))


def _defaults(model: Any) -> list[str]:
    from transformers.quantizers.base import get_keys_to_not_convert

    keys: list[str] = get_keys_to_not_convert(model)
    return keys


def _list_of(quantisation: Any) -> str | None:
    """Return the name of the list of what a quantiser leaves; None if its config has none."""
    if isinstance(quantisation, dict):
        bits = quantisation.get("load_in_8bit") or quantisation.get("load_in_4bit")
        return next((name for name in _LISTS if name in quantisation), _LISTS[1 if bits else 0])
    return next((name for name in _LISTS if hasattr(quantisation, name)), None)


def _is_default(quantisation: Any, name: str) -> bool:
    value = _get(quantisation, name)
    if value is None or isinstance(quantisation, dict):
        return value is None
    parameter = inspect.signature(type(quantisation)).parameters.get(name)
    return parameter is not None and value == parameter.default


def _get(quantisation: Any, name: str) -> Any:
    if isinstance(quantisation, dict):
        return quantisation.get(name)
    return getattr(quantisation, name)


def _set(quantisation: Any, name: str, skipped: list[str]) -> None:
    if isinstance(quantisation, dict):
        quantisation[name] = skipped
    else:
        setattr(quantisation, name, skipped)
