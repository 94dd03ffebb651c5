"""A model and its processor out of a folder, in one call."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from ..registry import MobileVLMError
from .check import check_image_tokens
from .classes import SwappedModel
from .errors import ModelError
from .hosts import find_host
from .slots import slot_path
from .upstream import HUB, load_class

__all__ = ["load_model"]

_BOTH = (*HUB, "trust_remote_code")  # of the model's arguments, also the processor's


def load_model(folder: str | os.PathLike[str], **kwargs: Any) -> tuple[Any, Any]:
    """Load a model that `swap_projector` has made, or one of transformers, with its processor.

    The Auto classes know the model's type, as this module is imported; no code of the folder
    runs. What was loaded is checked: that no weights are missing, and by `check_image_tokens`.

    Args:
        folder: A folder of ``save_pretrained``, or a model's name on a hub.
        **kwargs: Arguments of ``from_pretrained``, such as ``dtype``, ``device_map`` or
            ``quantization_config``.

    Returns:
        The model, in evaluation mode, and its processor.

    Raises:
        ModelError: It cannot be read, has no processor, or lacks weights; or processor and model
            do not fit.
    """
    where = os.fspath(folder)
    hub = {key: value for key, value in kwargs.items() if key in _BOTH}
    model, info = _explained(
        "AutoModelForImageTextToText", where, "the model", output_loading_info=True, **kwargs
    )
    found = "no weights for {}, which would be random"
    _refuse(info["missing_keys"], found, where, "a tensor for each parameter")
    if isinstance(model, SwappedModel):
        slot = slot_path(model, find_host(model.config))
        left = [key for key in info["unexpected_keys"] if key.startswith(f"{slot}.")]
        found = "weights of the projector that its document does not have: {}"
        _refuse(left, found, where, "none left over")
    processor = _explained("AutoProcessor", where, "the processor", **hub)
    check_image_tokens(model, processor)
    return model, processor


def _refuse(keys: Iterable[str], found: str, where: str, expected: str) -> None:
    """Refuse a model if there are such keys; the first of them is named."""
    names = sorted(keys)
    if names:
        more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
        hint = "Take config.json and the weights as they were saved together."
        raise ModelError(found.format(names[0] + more), where, expected, hint)


_HINTS = {
    "the model": "Look whether config.json and all files of weights are there, whole.",
    "the processor": "Save it beside the model: processor.save_pretrained(folder).",
}


def _explained(auto: str, where: str, what: str, **kwargs: Any) -> Any:
    """Call an Auto class, and turn what it raises into an error that says what was read."""
    cls = load_class(auto)
    try:
        return cls.from_pretrained(where, **kwargs)
    except (MobileVLMError, TypeError):  # ours, and arguments that do not exist
        raise
    except Exception as error:  # OSError, ValueError, KeyError, and safetensors' own
        text = str(error).strip().partition("\n")[0]
        found = f"{what} cannot be loaded: {type(error).__name__}: {text}"
        raise ModelError(found, where, hint=_HINTS[what]) from error
